"""The COCO weights that MindYOLO publishes: their list, and where downloaded ones lie."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from yoloflow.files import default_cache_folder
from yoloflow.structures import YoloflowError, nearest_names

LICENCE = "Apache-2.0"
"""The licence of the project that publishes them; the files carry none of their own."""

SOURCE = "MindYOLO (https://github.com/mindspore-lab/mindyolo)"

PUBLISHED = "published"
"""What `weight` is set to for the published weights of the recipe."""

_LIST = Path(__file__).with_name("published.csv")
# Recipes that train a published network otherwise.
_VARIATIONS = ("-small-data", "-finetune")


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """A file of weights that is published.

    Attributes:
        recipe: the recipe whose network it is of.
        img_size: side of the network's input in training, pixels.
        ap: box AP on COCO val2017 as its publisher states it.
        mask_ap: mask AP likewise; None for detectors.
        url: its address.
    """

    recipe: str
    img_size: int
    ap: float
    mask_ap: float | None
    url: str

    @property
    def file_name(self) -> str:
        """Name of the file."""
        return self.url.rsplit("/", 1)[1]

    @property
    def sha256_prefix(self) -> str:
        """First eight hexadecimal digits of its SHA-256, which are part of its name."""
        found = re.search(r"-([0-9a-f]{8})(-910v2)?\.ckpt$", self.file_name)
        assert found is not None, self.file_name
        return found[1]


def list_published() -> list[PublishedWeights]:
    """Returns all published weights; of one recipe those with the highest AP first."""
    with _LIST.open(encoding="utf-8", newline="") as file:
        return [
            PublishedWeights(
                row["recipe"],
                int(row["img_size"]),
                float(row["ap"]),
                float(row["mask_ap"]) if row["mask_ap"] else None,
                row["url"],
            )
            for row in csv.DictReader(file)
        ]


def coco_names() -> list[str]:
    """Returns the classes of published weights in their order: COCO's 80."""
    return Path(__file__).with_name("coco_names.txt").read_text(encoding="utf-8").splitlines()


def find_published(name: str) -> PublishedWeights:
    """Returns the published weights of a recipe, those with the highest AP if there are several.

    Args:
        name: a recipe (its -small-data and -finetune forms have the same network), or the name of a file.

    Raises:
        YoloflowError: none are published; the nearest names are given.
    """
    base = name
    for ending in _VARIATIONS:
        base = base.removesuffix(ending)
    rows = list_published()
    for row in rows:
        if base == row.recipe or name == row.file_name:
            return row
    recipes = {row.recipe for row in rows}
    # Of some sizes the publisher's network is another one, under a name of its own.
    longer = sorted(recipe for recipe in recipes if recipe.startswith(f"{base}-"))
    hint = f"did you mean {' or '.join(longer)}?" if longer else nearest_names(base, recipes)
    raise YoloflowError(
        f"{name}: no weights are published for it; {hint} (`yoloflow weights list` shows all)"
    )


def weights_path(weight: str, recipe: str | None) -> Path:
    """Returns the file that a setting `weight` means: itself, or the published weights of the recipe.

    Raises:
        YoloflowError: there are no published weights, or they are not downloaded.
    """
    return published_file(recipe or "") if weight == PUBLISHED else Path(weight)


def weights_folder() -> Path:
    """Returns the folder of downloaded weights, which need not exist."""
    return default_cache_folder() / "weights"


def published_file(name: str, folder: Path | None = None) -> Path:
    """Returns the downloaded file of a recipe's published weights; nothing is downloaded.

    Args:
        name: a recipe or a file, see `find_published`.
        folder: of downloaded weights; None takes `weights_folder()`.

    Raises:
        YoloflowError: none are published, or they are not downloaded; the message says the command.
    """
    rows = list_published()
    first = find_published(name)
    for row in [first, *(row for row in rows if row.recipe == first.recipe)]:
        path = (folder or weights_folder()) / row.file_name
        if path.is_file():
            return path
    raise YoloflowError(
        f"the published weights of {first.recipe} are not on this machine; "
        f"`yoloflow weights get {first.recipe}` downloads them"
    )
