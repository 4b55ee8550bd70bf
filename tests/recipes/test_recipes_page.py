"""The page of recipes has what the recipes, their networks and the list of published weights say."""

import functools
from pathlib import Path

import pytest

from tests.support.parameter_counts import PARAMETERS
from yoloflow.config.reader import list_recipes, load_config
from yoloflow.weights.published import find_published, list_published

DOCS = Path(__file__).parents[2] / "docs"
VARIANTS = ("small-data", "finetune")


@functools.cache
def names() -> frozenset[str]:
    return frozenset(info.name for info in list_recipes())


@functools.cache
def with_weights() -> frozenset[str]:
    return frozenset(weights.recipe for weights in list_published())


def published_ap(recipe: str) -> str:
    """AP that the reference states for its weights of a recipe, of boxes and of masks."""
    if recipe not in with_weights():
        return "–"
    weights = find_published(recipe)
    return f"{weights.ap:.3f}" + (f" / {weights.mask_ap:.3f}" if weights.mask_ap is not None else "")


def row(recipe: str, img_size: str, epochs: str) -> str:
    """The line of the page's table about a recipe."""
    variants = ", ".join(f"`-{kind}`" for kind in VARIANTS if f"{recipe}-{kind}" in names())
    parameters = f"{PARAMETERS[recipe][1] / 1e6:.2f}"
    return f"| `{recipe}` | {img_size} | {epochs} | {parameters} | {published_ap(recipe)} | {variants} |"


def rows_of(page: Path) -> dict[str, str]:
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return {line.split("`")[1]: line for line in lines}


def test_the_page_has_every_recipe_once() -> None:
    of_variants = {name for name in names() if name.endswith(VARIANTS)}
    found = [line for line in (DOCS / "recipes.md").read_text().splitlines() if line.startswith("| `")]
    assert len(found) == len(rows_of(DOCS / "recipes.md"))
    assert set(rows_of(DOCS / "recipes.md")) == set(PARAMETERS)
    assert names() - set(PARAMETERS) - of_variants == {"quickstart"}


def test_parameters_published_ap_and_variants_are_the_recipes_own() -> None:
    for recipe, line in rows_of(DOCS / "recipes.md").items():
        _, _, img_size, epochs, *_ = (cell.strip() for cell in line.split("|"))
        assert line == row(recipe, img_size, epochs)


@pytest.mark.oracle
@pytest.mark.parametrize("recipe", PARAMETERS)
def test_input_and_epochs_are_the_recipes_own(recipe: str) -> None:
    config = load_config(recipe)
    assert rows_of(DOCS / "recipes.md")[recipe] == row(recipe, str(config.img_size), str(config.epochs))


def test_the_segmentation_page_has_the_same_parameters() -> None:
    lines = [line for line in (DOCS / "segmentation.md").read_text().splitlines() if "| yolov8" in line]
    found = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in lines}
    recipes = [recipe for recipe in PARAMETERS if recipe.endswith("-seg")]
    assert found == {recipe: f"{PARAMETERS[recipe][1] / 1e6:.1f} M" for recipe in recipes}
