"""What can be wrong with a data set, what is done about it, and the account of it all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from yoloflow.structures import DatasetIndex, Problem, YoloflowError

Policy = Literal["repair", "error"]

KINDS: dict[str, str] = {
    "missing-image": "the source lists a picture that does not exist",
    "empty-image-file": "a picture file of zero bytes",
    "not-an-image": "a file that is no picture, whatever its name says",
    "truncated-image": "a picture that breaks off before its end",
    "unsupported-image": "a picture whose samples cannot become 8 bits without the user's decision",
    "image-too-large": "a picture of too many pixels",
    "duplicate-image": "a picture listed twice",
    "size-mismatch": "the annotation states another size than the file has; the file's is used",
    "image-ids-renumbered": "image ids that are no whole numbers; numbered from 1 in file order",
    "missing-label": "a picture without label file; taken as background",
    "label-not-text": "a label file that is no readable text",
    "xml-malformed": "an annotation file that is no well-formed XML of PASCAL VOC's form",
    "malformed-entry": "an entry without the fields that it needs",
    "unknown-image-id": "an annotation of an image that the file does not list",
    "polygon-malformed": "an outline that is no list of at least three x y pairs; the box is kept without it",
    "wrong-column-count": "a label line that is neither a box nor a polygon",
    "class-not-a-number": "a class that is no whole number",
    "class-out-of-range": "a class that the data set does not have (always an error)",
    "box-not-a-number": "a coordinate that is no number",
    "box-nan": "a coordinate that is NaN or infinite",
    "box-negative": "a box that begins left of or above the picture, or of negative width or height",
    "box-over-one": "a box that ends right of or below the picture",
    "box-zero-area": "a box without width or height",
    "duplicate-box": "the same box with the same class, twice in one picture",
}
"""Every kind of problem, and what it means."""

_MOST_EXAMPLES = 3


def apply_policy(problems: Sequence[Problem], policy: Policy) -> None:
    """Raise the first problem if the policy says that none is allowed.

    Raises:
        YoloflowError: policy is "error" and there are problems, or it is no policy.
    """
    if policy not in ("repair", "error"):
        raise YoloflowError(f'data.problems={policy}: must be "repair" or "error"')
    if policy == "error" and problems:
        raise YoloflowError(
            f"{problems[0]}{and_more(len(problems) - 1)}; correct the data or set data.problems=repair"
        )


def and_more(count: int) -> str:
    """How many further ones there are, for the end of a message."""
    return f" (and {count} more problem{'s' if count > 1 else ''})" if count > 0 else ""


def problems_report(index: DatasetIndex) -> dict[str, Any]:
    """The whole account of an index as JSON-able data.

    Listed = used + dropped holds for images and for boxes; boxes that went with a dropped image stand under
    "with-dropped-image". "background" counts the used images without a box.
    """
    by_action: dict[str, Counter[str]] = {
        action: Counter() for action in ("drop-image", "drop-box", "clip-box", "keep")
    }
    for problem in index.problems:
        by_action[problem.action][problem.kind] += 1
    dropped_boxes = dict(by_action["drop-box"])
    if index.num_boxes_of_dropped_images:
        dropped_boxes["with-dropped-image"] = index.num_boxes_of_dropped_images
    return {
        "images": {
            "listed": index.num_images_listed,
            "used": len(index),
            "background": int((index.box_offsets[1:] == index.box_offsets[:-1]).sum()),
            "background_without_label_file": by_action["keep"]["missing-label"],
            "dropped": dict(by_action["drop-image"]),
        },
        "boxes": {
            "listed": index.num_boxes_listed,
            "used": len(index.classes),
            "crowd": int(index.is_crowd.sum()),
            "clipped": dict(by_action["clip-box"]),
            "dropped": dropped_boxes,
        },
        "kept": dict(by_action["keep"]),
        "problems": [
            {name: getattr(problem, name) for name in ("file", "line", "kind", "action", "detail")}
            for problem in index.problems
        ],
    }


def summarise_problems(index: DatasetIndex) -> list[str]:
    """Lines for people: the account of images and boxes, then the first few problems of each kind."""
    report = problems_report(index)
    images, boxes = report["images"], report["boxes"]
    lines = [
        f"images: {images['listed']} listed = {images['used']} used + {_total(images['dropped'])} dropped"
        + _by_kind(images["dropped"]),
        f"boxes: {boxes['listed']} listed = {boxes['used']} used + {_total(boxes['dropped'])} dropped"
        + _by_kind(boxes["dropped"]),
    ]
    if images["background"]:
        without_file = images["background_without_label_file"]
        lines.append(
            f"background: {images['background']} images without a box, {without_file} without label file"
        )
    if boxes["crowd"]:
        lines.append(f"crowd: {boxes['crowd']} of the boxes used are regions to ignore")
    if boxes["clipped"]:
        lines.append(f"clipped: {_total(boxes['clipped'])} of the boxes used{_by_kind(boxes['clipped'])}")
    examples: dict[str, list[Problem]] = {}
    for problem in index.problems:
        examples.setdefault(problem.kind, []).append(problem)
    for kind, found in examples.items():
        lines.append(f"{kind} ({len(found)}): {KINDS[kind]}")
        lines += [f"  {problem}" for problem in found[:_MOST_EXAMPLES]]
        if len(found) > _MOST_EXAMPLES:
            lines.append(f"  ... and {len(found) - _MOST_EXAMPLES} more")
    return lines


def _total(counts: dict[str, int]) -> int:
    return sum(counts.values())


def _by_kind(counts: dict[str, int]) -> str:
    return f" ({', '.join(f'{count} {kind}' for kind, count in counts.items())})" if counts else ""
