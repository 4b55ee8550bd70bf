"""The list of recipes. Only first lines are read, so that listing them is instant."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from yoloflow.config.foreign_names import RECIPE_NAMES, plain_name
from yoloflow.files import similar_paths
from yoloflow.structures import YoloflowError, nearest_names

RECIPES_FOLDER = Path(__file__).resolve().parent.parent / "recipes"
MARK = "# Recipe: "
WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".onnx", ".weights")
"""How the names of files of weights end."""

_YAML_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class RecipeInfo:
    """A recipe of the package.

    Attributes:
        name: what the commands take.
        family: its folder, such as "yolov8"; "" for those of no family.
        summary: one line.
        path: its file.
    """

    name: str
    family: str
    summary: str
    path: Path


def list_recipes() -> list[RecipeInfo]:
    """All recipes, by family and name.

    A YAML file of the recipes folder is a recipe when its first line is `# Recipe: <summary>`; the other
    files are building blocks.
    """
    found = []
    for path in sorted(RECIPES_FOLDER.rglob("*.yaml")):
        with path.open(encoding="utf-8") as file:
            first_line = file.readline().strip()
        if first_line.startswith(MARK):
            family = path.parent.relative_to(RECIPES_FOLDER).as_posix()
            summary = first_line.removeprefix(MARK)
            found.append(RecipeInfo(path.stem, "" if family == "." else family, summary, path))
    return sorted(found, key=lambda recipe: _natural(recipe.name))


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """What names are sorted by: numbers by value, and a name before those that go on where it ends."""
    parts = re.findall(r"\d+|[a-z]+", name)
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def find_recipe(recipe_or_path: str | os.PathLike[str]) -> Path:
    """The YAML file that is meant.

    Args:
        recipe_or_path: a recipe's name, a YAML file, or a run folder (its `config.yaml`).

    Raises:
        YoloflowError: there is none; the message gives the nearest names.
    """
    text = os.fspath(recipe_or_path)
    path = Path(text).expanduser()
    is_file_name = path.suffix in (*_YAML_SUFFIXES, *WEIGHTS_SUFFIXES) or "/" in text
    if "=" in text and not path.exists():
        raise YoloflowError(_recipe_first(text))
    recipes = {recipe.name: recipe.path for recipe in list_recipes()}
    if text in recipes and not is_file_name:
        return recipes[text]
    if (path / "config.yaml").is_file():
        return path / "config.yaml"
    if path.is_dir():
        raise YoloflowError(
            f"{path}: a folder without config.yaml; give a recipe, a YAML file or a run folder"
        )
    if path.is_file() and path.suffix in WEIGHTS_SUFFIXES:
        raise YoloflowError(f"{text}: is a file of weights; give a recipe before it: RECIPE weight={text}")
    if path.is_file():
        return path
    if is_file_name:
        hint = similar_paths(path) if path.parent != Path() else ""
        near = nearest_names(path.stem, recipes)
        hint = hint or (f"; as a recipe: {near}" if near.startswith("did") else similar_paths(path))
        raise YoloflowError(f"{text}: there is no such file{hint}")
    near = nearest_names(text, [*recipes, *(str(file.parent) for file in Path("runs").glob("*/config.yaml"))])
    near = near if near.startswith("did") else "`yoloflow recipes` lists them"
    raise YoloflowError(f"{text}: unknown recipe; {near} (a file is given as a path ending in .yaml)")


def _recipe_first(text: str) -> str:
    key, _, value = text.partition("=")
    if plain_name(key) not in RECIPE_NAMES:
        return f"{text}: the recipe comes before the settings: RECIPE {text}, such as yolov8n {text}"
    name = Path(value)
    if name.suffix in WEIGHTS_SUFFIXES:
        return f"{text}: the first argument is a recipe without a key: {name.stem} weight={value}"
    return f"{text}: the first argument is a recipe without a key: {value}"
