"""The recipes of the package as plain YAML: read in a moment, so that tests can be made for each of them."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from yoloflow.config.recipes import RecipeInfo, list_recipes

SMALL_WIDTH, SMALL_DEPTH = 0.125, 0.34


@dataclass(frozen=True)
class RecipeFile:
    """A recipe's family, its network section and the name of its loss.

    Attributes:
        name: of the recipe.
        family: the folder of the recipe.
        network: the network section.
        loss: the name of its loss.
    """

    name: str
    family: str
    network: dict[str, Any]
    loss: str

    @property
    def parts(self) -> frozenset[str]:
        """The layers, the head and the loss that it is made of."""
        rows = [*self.network["backbone"], *self.network["head"]]
        return frozenset({self.loss, *(row[-2] for row in rows)})

    @property
    def scale(self) -> tuple[float, float]:
        """Width and depth."""
        return self.network.get("width_multiple", 1.0), self.network.get("depth_multiple", 1.0)

    @property
    def small(self) -> list[str]:
        """Overrides that make the network small enough for a test."""
        width, depth = self.scale
        return [
            f"network.width_multiple={min(width, SMALL_WIDTH)}",
            f"network.depth_multiple={min(depth, SMALL_DEPTH)}",
        ]


@functools.cache
def networks() -> dict[str, RecipeFile]:
    """Every recipe whose network or loss no recipe before it has."""
    found: dict[str, RecipeFile] = {}
    for recipe in list_recipes():
        if recipe.family:
            file = _read(recipe)
            found.setdefault(json.dumps([file.network, file.loss], sort_keys=True), file)
    return {file.name: file for file in found.values()}


@functools.cache
def kinds() -> dict[str, RecipeFile]:
    """The smallest recipe of each family and set of parts."""
    smallest: dict[tuple[str, frozenset[str]], RecipeFile] = {}
    for file in sorted(networks().values(), key=lambda file: file.scale):
        smallest.setdefault((file.family, file.parts), file)
    return {file.name: file for file in smallest.values()}


@functools.cache
def sweep() -> dict[str, RecipeFile]:
    """Those of `kinds` that together have every part, each with a part that none before it has."""
    seen: set[str] = set()
    chosen: dict[str, RecipeFile] = {}
    for name, file in kinds().items():
        if file.parts - seen:
            chosen[name] = file
        seen |= file.parts
    return chosen


def _read(recipe: RecipeInfo) -> RecipeFile:
    tree = _tree(recipe.path)
    return RecipeFile(recipe.name, recipe.family, tree["network"], tree["loss"]["name"])


@functools.cache
def _tree(path: Path) -> dict[str, dict[str, Any]]:
    """The sections `network` and `loss` of a file, over those of its bases."""
    own = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    bases = own.get("__BASE__", [])
    merged: dict[str, dict[str, Any]] = {"network": {}, "loss": {}}
    trees = [_tree(path.parent / base) for base in ([bases] if isinstance(bases, str) else bases)]
    for tree in (*trees, own):
        for section, content in merged.items():
            content.update(tree.get(section) or {})
    return merged
