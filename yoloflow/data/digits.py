"""The quick start's data: real handwritten digits composed into scenes with exact boxes.

The digits lie in this package (handwritten_digits.npz; origin and licence in handwritten_digits.txt). Scenes
are composed once, in seconds, into a cache folder, as COCO json beside lossless images; from there on they
are a data set like any other.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from yoloflow.files import default_cache_folder
from yoloflow.structures import Float32Array, Int64Array, Uint8Array, YoloflowError, nearest_names

Split = Literal["train", "val"]

CLASS_NAMES = tuple(str(digit) for digit in range(10))
INK_THRESHOLD = 0.5
"""Opacity from which a pixel counts as ink of a digit; the box is the tight box of its ink."""

# Raise when the composition changes, so that no cache of older scenes is taken for the new ones.
_FORMAT = 1
_LUMA_BGR = np.array([0.114, 0.587, 0.299], np.float32)
_VAL_SHARE = 0.2
_PLACEMENT_TRIES = 400


@dataclass(frozen=True, slots=True)
class SceneRecipe:
    """Settings of composed scenes; equal recipes give equal scenes.

    Attributes:
        num_train: scenes of the training set; num_val: of the validation set.
        side: width and height of a scene in pixels.
        digits_per_scene: fewest and most digits.
        digit_side: least and greatest side in pixels that an 8 x 8 digit is enlarged to (log-uniform).
        max_degrees: greatest turn of a digit to either side.
        max_iou: greatest overlap of two boxes; their ink never overlaps.
        min_contrast: least distance of luma (0..255) between a digit and the background around it.
        noise: greatest standard deviation of the pixel noise (0..255).
        seed: of everything drawn.
    """

    num_train: int = 400
    num_val: int = 100
    side: int = 160
    digits_per_scene: tuple[int, int] = (3, 8)
    digit_side: tuple[float, float] = (16.0, 56.0)
    max_degrees: float = 15.0
    max_iou: float = 0.05
    min_contrast: float = 60.0
    noise: float = 8.0
    seed: int = 0

    def num_scenes(self, split: Split) -> int:
        """Scenes of one split."""
        return self.num_train if split == "train" else self.num_val


@dataclass(frozen=True, slots=True)
class Scene:
    """A composed image.

    Attributes:
        image: (side, side, 3) uint8 BGR.
        ink_owner: (side, side) int64, k where a pixel is ink of digit k, -1 where it is nobody's.
        boxes_xyxy: (G, 4) int64, the tight box of each digit's ink in pixels, right and bottom exclusive.
        classes: (G,) int64 digits 0..9.
        originals: (G,) int64 numbers of the handwritten digits used.
    """

    image: Uint8Array
    ink_owner: Int64Array
    boxes_xyxy: Int64Array
    classes: Int64Array
    originals: Int64Array


@cache
def handwritten_digits() -> tuple[Uint8Array, Int64Array]:
    """Returns the embedded digits: (1797, 8, 8) uint8 ink density 0..16 and (1797,) int64 classes."""
    with np.load(Path(__file__).with_name("handwritten_digits.npz")) as arrays:
        return arrays["images"], arrays["classes"].astype(np.int64)


def split_originals(split: Split) -> Int64Array:
    """Returns numbers of the handwritten digits that one split may use; no digit is in both.

    The last fifth in file order validates. Neighbours in the file are alike in handwriting, so a split by
    chance would flatter: a nearest-neighbour classifier errs on 4.4 % of the last fifth, on 2.2 % of every
    fifth digit.
    """
    _, classes = handwritten_digits()
    border = len(classes) - round(_VAL_SHARE * len(classes))
    return np.arange(border) if split == "train" else np.arange(border, len(classes))


def compose_scene(recipe: SceneRecipe, split: Split, index: int) -> Scene:
    """Scene `index` of a split: a pure function of its arguments."""
    rng = np.random.default_rng([recipe.seed, get_args(Split).index(split), index])
    digit_images, digit_classes = handwritten_digits()
    candidates = split_originals(split)
    canvas = _background(recipe.side, rng)
    ink_owner = np.full((recipe.side, recipe.side), -1, np.int64)
    boxes: list[Int64Array] = []
    originals: list[int] = []
    wanted = int(rng.integers(recipe.digits_per_scene[0], recipe.digits_per_scene[1] + 1))
    for _ in range(_PLACEMENT_TRIES):
        if len(boxes) == wanted:
            break
        original = int(rng.choice(candidates))
        opacity = _enlarge(digit_images[original], recipe, rng)
        height, width = opacity.shape
        x, y = (int(rng.integers(recipe.side - length + 1)) for length in (width, height))
        place = np.s_[y : y + height, x : x + width]
        ink = opacity >= INK_THRESHOLD
        box = tight_box_xyxy(ink) + np.array([x, y, x, y])
        shares_ink = bool((ink_owner[place][opacity > 0] >= 0).any())
        if shares_ink or _greatest_iou(box, boxes) > recipe.max_iou:
            continue
        _paint(canvas[place], opacity, recipe.min_contrast, rng)
        ink_owner[place][ink] = len(boxes)
        boxes.append(box)
        originals.append(original)
    noise = rng.standard_normal((recipe.side, recipe.side, 1), np.float32)
    canvas += np.float32(rng.uniform(0, recipe.noise)) * noise
    return Scene(
        image=np.clip(np.rint(canvas), 0, 255).astype(np.uint8),
        ink_owner=ink_owner,
        boxes_xyxy=np.array(boxes, np.int64).reshape(-1, 4),
        classes=digit_classes[originals],
        originals=np.array(originals, np.int64),
    )


def tight_box_xyxy(mask: NDArray[np.bool_]) -> Int64Array:
    """Returns (4,) the smallest box around the true pixels of (H, W), ends exclusive; zeros without any."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros(4, np.int64)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.int64)


def _background(side: int, rng: np.random.Generator) -> Float32Array:
    """Returns (side, side, 3) float32: one colour, softly varied by a coarse grid of random colours."""
    base = rng.uniform(30, 225, 3)
    cells = int(rng.integers(2, 7))
    grid = base + rng.uniform(0, 30) * rng.standard_normal((cells, cells, 3))
    canvas = cv2.resize(grid.astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(canvas, 0, 255).astype(np.float32)


def _enlarge(digit: Uint8Array, recipe: SceneRecipe, rng: np.random.Generator) -> Float32Array:
    """Returns (h, w) opacity 0..1 of one digit, enlarged smoothly and turned, cut to what is visible."""
    low, high = recipe.digit_side
    scale = math.exp(rng.uniform(math.log(low), math.log(high))) / 8
    aspect = math.sqrt(rng.uniform(0.8, 1.25))
    angle = math.radians(rng.uniform(-recipe.max_degrees, recipe.max_degrees))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear = turn @ np.diag([scale * aspect, scale / aspect])
    # The diagonal of 10 x 10 pixels (one of padding on each side) fits whichever way it is turned.
    tile = math.ceil(10 * math.sqrt(2) * scale * max(aspect, 1 / aspect))
    shift = (tile - 1) / 2 - linear @ np.array([4.5, 4.5])
    padded = np.pad(digit, 1).astype(np.float32) / 16
    density = cv2.warpAffine(padded, np.column_stack([linear, shift]), (tile, tile), flags=cv2.INTER_CUBIC)
    # Enlarged strokes are blurred: steepen their edges, but leave the small holes of 0, 4, 6, 8 and 9 open.
    opacity: Float32Array = np.clip((density - 0.3) / 0.5, 0, 1).astype(np.float32)
    x1, y1, x2, y2 = tight_box_xyxy(opacity > 0)
    return opacity[y1:y2, x1:x2]


def _greatest_iou(box: Int64Array, others: list[Int64Array]) -> float:
    """Greatest overlap of one corner box with others."""
    greatest = 0.0
    for other in others:
        width, height = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
        inter = max(int(width), 0) * max(int(height), 0)
        greatest = max(greatest, inter / (_area(box) + _area(other) - inter))
    return greatest


def _area(box: Int64Array) -> int:
    return int((box[2] - box[0]) * (box[3] - box[1]))


def _paint(
    ground: Float32Array, opacity: Float32Array, min_contrast: float, rng: np.random.Generator
) -> None:
    """Draw one digit over (h, w, 3) of the scene, in a colour that stands out from what is there."""
    luma = float((ground @ _LUMA_BGR).mean())
    colour = rng.uniform(0, 255, 3).astype(np.float32)
    while abs(float(colour @ _LUMA_BGR) - luma) < min_contrast:
        colour = rng.uniform(0, 255, 3).astype(np.float32)
    ground += opacity[..., None] * (colour - ground)


def digits_dataset(
    split: str, recipe: SceneRecipe | None = None, cache_folder: str | Path | None = None
) -> Path:
    """Returns the composed digit scenes as a COCO data set on disk, written on the first call.

    Safe when several processes call it at once: each builds in a folder of its own, the first rename wins,
    and a folder under the final name is always whole.

    Args:
        split: "train" or "val".
        recipe: how scenes are composed; the quick start's by default.
        cache_folder: where data sets are kept; by default $XDG_CACHE_HOME/yoloflow or ~/.cache/yoloflow.

    Returns:
        the COCO json; the images it names lie beside it.

    Raises:
        YoloflowError: no such split, or the cache folder is not writable.
    """
    if split not in get_args(Split):
        raise YoloflowError(f"digits:{split}: no such split; {nearest_names(split, get_args(Split))}")
    recipe = recipe or SceneRecipe()
    root = Path(cache_folder) if cache_folder is not None else default_cache_folder()
    final = root / f"digits-{_content_hash(recipe)}"
    if not final.is_dir():
        try:
            root.mkdir(parents=True, exist_ok=True)
            _build(final, recipe)
        except OSError as error:
            raise YoloflowError(
                f"{final}: the digit scenes cannot be written there ({error}); "
                "set XDG_CACHE_HOME to a folder that can be written to"
            ) from error
    return final / split / "annotations.json"


def _content_hash(recipe: SceneRecipe) -> str:
    """Name of everything that decides the pixels: recipe, digits, code and the OpenCV that resamples."""
    images, classes = handwritten_digits()
    words = json.dumps({"format": _FORMAT, "opencv": cv2.__version__, **asdict(recipe)}, sort_keys=True)
    return hashlib.sha256(words.encode() + images.tobytes() + classes.tobytes()).hexdigest()[:16]


def _build(final: Path, recipe: SceneRecipe) -> None:
    """Compose both splits beside the final folder and move them there in one rename."""
    with tempfile.TemporaryDirectory(prefix=".digits-", dir=final.parent) as folder:
        whole = Path(folder) / final.name
        for split in get_args(Split):
            _write_split(whole / split, recipe, split)
        try:
            whole.rename(final)
        except OSError:
            # Another process was first; its folder is whole and equal.
            if not final.is_dir():
                raise


def _write_split(folder: Path, recipe: SceneRecipe, split: Split) -> None:
    """Write one split: images as PNG and annotations.json."""
    folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(recipe.num_scenes(split)):
        scene = compose_scene(recipe, split, index)
        name = f"{index:05d}.png"
        _, encoded = cv2.imencode(".png", scene.image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        (folder / name).write_bytes(encoded.tobytes())
        images.append({"id": index + 1, "file_name": name, "height": recipe.side, "width": recipe.side})
        for box, digit in zip(scene.boxes_xyxy.tolist(), scene.classes.tolist(), strict=True):
            x1, y1, x2, y2 = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": digit,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": digit, "name": name} for digit, name in enumerate(CLASS_NAMES)]
    description = "Handwritten digits (Alpaydin and Kaynak, UCI, CC BY 4.0) composed into scenes by yoloflow"
    content = {
        "info": {"description": description},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    (folder / "annotations.json").write_text(json.dumps(content))
