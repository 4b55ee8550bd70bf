"""Problems of a data set: their kinds, the policy, and the account."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from yoloflow.structures import DatasetIndex, Problem, YoloflowError, nearest_names, plural

Action = Literal["error", "clip-box", "drop-box", "drop-image", "keep"]

_UNUSABLE: tuple[Action, ...] = ("drop-image", "error")
_NOTED: tuple[Action, ...] = ("keep", "drop-image", "error")
_SET_WIDE: tuple[Action, ...] = ("keep", "error")
_KEPT_BOX: tuple[Action, ...] = ("keep", "drop-box", "drop-image", "error")
_BAD_LINE: tuple[Action, ...] = ("drop-box", "drop-image", "error")
_BEYOND_EDGE: tuple[Action, ...] = ("clip-box", "drop-box", "drop-image", "error")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem.

    Attributes:
        meaning: half a sentence.
        actions: what can be done about it; the first is done unless the user says otherwise.
        needs_pixels: found only by decoding every image.
        is_remark: nothing is wrong with the data; `data.problems=error` lets it pass.
    """

    meaning: str
    actions: tuple[Action, ...]
    needs_pixels: bool = False
    is_remark: bool = False


def _remark(meaning: str) -> Kind:
    """Returns a remark on a source as a whole."""
    return Kind(meaning, _SET_WIDE, is_remark=True)


KINDS: dict[str, Kind] = {
    "missing-image": Kind("the source lists an image that does not exist", _UNUSABLE),
    "empty-image-file": Kind("an image file of zero bytes", _UNUSABLE),
    "not-an-image": Kind("a file that is no image, whatever its name says", _UNUSABLE),
    "truncated-image": Kind("an image that breaks off before its end", _UNUSABLE),
    "unsupported-image": Kind(
        "an image of a format that no installed library reads, or whose samples cannot become 8 bits "
        "without the user's decision",
        _UNUSABLE,
    ),
    "image-too-large": Kind("an image of too many pixels", _UNUSABLE),
    "damaged-image": Kind(
        "an image with a valid header that cannot be decoded", ("error", "drop-image"), needs_pixels=True
    ),
    "dark-image": Kind(
        "an image that is nearly black, as 10- or 12-bit samples in a file of 16 bits are: scale them to 16",
        _NOTED,
        needs_pixels=True,
        is_remark=True,
    ),
    "odd-image-file": Kind("an image that Pillow or its decoder warns of", _NOTED, is_remark=True),
    "wrong-suffix": Kind("an image of another format than its name says; its content counts", _NOTED),
    "exif-rotated": Kind(
        "an image that its EXIF turns; boxes are taken to be drawn on the turned image, unless the "
        "annotation states the size before the rotation",
        _NOTED,
        is_remark=True,
    ),
    "duplicate-image": Kind("an image listed twice; the objects of all its entries are joined", _UNUSABLE),
    "ambiguous-image-id": Kind("one image id for two files", ("error", "drop-image")),
    "image-path-mended": Kind(
        "images that are not where the source says, found elsewhere by the end of their names", _SET_WIDE
    ),
    "image-path-unclear": Kind("one file that several names may mean; it is not used for them", _SET_WIDE),
    "same-picture": Kind(
        "an image with exactly the pixels of another one of the set", _NOTED, needs_pixels=True
    ),
    "leaked-image": Kind("a training image that is in the validation set too", _NOTED),
    "size-mismatch": Kind(
        "the annotation states another size than the file has, but its boxes do not speak for that; the "
        "file's is used",
        _NOTED,
    ),
    "foreign-size": Kind(
        "the annotation states another size than the file has: its boxes may be those of another image",
        ("error", "keep", "drop-image"),
    ),
    "raw-frame-boxes": Kind(
        "an annotation of the image before its EXIF rotation (or after one by XMP, which is not done), as "
        "the stated sizes say; its boxes are turned with the image",
        _NOTED,
    ),
    "image-ids-renumbered": _remark(
        "image ids that are no whole numbers; files of predictions have them as they stand"
    ),
    "malformed-image-entry": Kind("an entry of an image without the fields that it needs", _UNUSABLE),
    "missing-label": Kind("an image without label file; taken as background", _NOTED),
    "orphan-label": Kind("a label file whose image does not exist", _SET_WIDE),
    "other-labels": Kind("labels of another format in the same folder, which are not read", _SET_WIDE),
    "other-files": _remark(
        "files among the images whose names end like no image's, and whose content, label or suffix says "
        "that they may be meant; they are not read"
    ),
    "label-not-text": Kind("a label file that is no readable text", _UNUSABLE),
    "xml-malformed": Kind("an annotation file that is no well-formed XML of PASCAL VOC's form", _UNUSABLE),
    "stale-filename": Kind(
        "an xml whose <filename> is another image than that of the xml's own name, which is taken", _NOTED
    ),
    "malformed-entry": Kind(
        "an entry of an object without the fields that it needs, or with two of one", _BAD_LINE
    ),
    "unknown-image-id": Kind("an annotation of an image that the file does not list", ("drop-box", "error")),
    "polygon-malformed": Kind(
        "an outline that is neither a list of at least three x y pairs nor a run-length mask; the box is "
        "kept without it, or with its other parts",
        _NOTED,
    ),
    "outline-empty": Kind(
        "an outline without area, or a mask without a pixel; the box is kept without it", _KEPT_BOX
    ),
    "mask-unusable": Kind(
        "a mask that cannot be read (PNG of SegmentationObject) or has another size than its image; the "
        "boxes are kept without it",
        _NOTED,
    ),
    "mask-without-box": Kind("objects of a PNG of SegmentationObject that fit no box of the xml", _NOTED),
    "images-without-png": Kind(
        "images beside SegmentationObject that have no PNG there, nor xml; they are not used", _SET_WIDE
    ),
    "outline-crosses-itself": _remark(
        "outlines that cross themselves (looked for by data check); what they go round counts"
    ),
    "outline-mismatch": Kind(
        "an outline that ends elsewhere than its box, by over 2 px and over 2 % of the box's side; the "
        "box is kept without it",
        _KEPT_BOX,
    ),
    "wrong-column-count": Kind("a label line that is neither a box nor a polygon", _BAD_LINE),
    "extra-columns": Kind(
        "a label line with a tracker's confidence and id after the box; they are not used", _NOTED
    ),
    "unused-keypoints": _remark("label lines with keypoints, as kpt_shape says; they are not used"),
    "maybe-keypoints": Kind(
        "label lines read as outlines that can be boxes with keypoints; data.kpt_shape says which", _SET_WIDE
    ),
    "maybe-tracks": _remark(
        "label lines read as outlines that can be boxes with a tracker's confidence and id of 0 or 1"
    ),
    "class-not-a-number": Kind("a class that is no whole number", _BAD_LINE),
    "class-out-of-range": Kind(
        "a class that the data set does not have", ("error", "drop-box", "drop-image")
    ),
    "equal-class-names": Kind(
        "categories of a json with the same name, and objects of each; they are one class", _SET_WIDE
    ),
    "class-order-assumed": _remark(
        "classes that are matched by their order, as one of the lists has no names"
    ),
    "box-not-a-number": Kind("a coordinate that is no number", _BAD_LINE),
    "not-normalised": Kind("a coordinate that is no share of the image, such as one in pixels", _BAD_LINE),
    "not-in-pixels": Kind(
        "all boxes of a json or of XML files end within the first pixel: they are shares of the image",
        ("error", "keep"),
    ),
    "box-nan": Kind("a coordinate that is NaN or infinite", _BAD_LINE),
    "box-negative": Kind(
        "a box that begins left of or above the image, or of negative width or height", _BEYOND_EDGE
    ),
    "box-over-one": Kind("a box that ends right of or below the image", _BEYOND_EDGE),
    "box-zero-area": Kind("a box without width or height", _BAD_LINE),
    "duplicate-box": Kind(
        "the same box with the same class and no other outline, twice in one image",
        ("drop-box", "keep", "drop-image", "error"),
    ),
    "nothing-to-learn": Kind(
        "a training set without one object; crowd and difficult regions are none", ("error", "keep")
    ),
    "nothing-to-find": Kind(
        "a validation set without one object, of which no figure can be computed", _SET_WIDE
    ),
    "nothing-to-segment": Kind(
        "a training set without one outline or mask, for a network that learns masks", ("error", "keep")
    ),
    "box-without-outline": _remark(
        "objects without outline or mask where masks are learnt; each fills its box"
    ),
    "tiny-masks": _remark("objects of less than a pixel of the masks at the network's image size"),
    "few-objects": _remark("classes of which the training set has few objects"),
    "unused-class": _remark("classes of which the set has no object"),
    "class-imbalance": _remark("the most frequent class has over 100 times the objects of the rarest"),
    "tiny-boxes": _remark("objects less than 2 px wide or high at the network's image size"),
}
"""Every kind of problem."""

PolicySetting = str | Mapping[str, str]
_ALL = "default"
_MOST_EXAMPLES = 3


class PolicyError(YoloflowError):
    """A mistake in `data.problems`.

    Attributes:
        kind: of problem; "" where the mistake is in the whole setting.
        text: what is wrong.
    """

    def __init__(self, kind: str, given: str, text: str) -> None:
        super().__init__(f"{'.'.join(filter(None, ('data.problems', kind)))}{given}: {text}")
        self.kind, self.text = kind, text


@dataclass(frozen=True, slots=True)
class Policy:
    """The action for each kind of problem.

    Attributes:
        actions: of each kind.
        chosen: kinds that the user named.
    """

    actions: Mapping[str, Action]
    chosen: frozenset[str] = frozenset()

    @classmethod
    def of(cls, setting: PolicySetting) -> Policy:
        """Read a user's setting.

        Args:
            setting: "repair" (each kind's own first action), "error" (all that is wrong is an error), or
                actions by kind, where "default" names one of these two for the kinds that are not named.

        Raises:
            PolicyError: no such kind, or an action that it does not allow.
        """
        named = {_ALL: setting} if isinstance(setting, str) else dict(setting)
        default = named.pop(_ALL, "repair")
        if default not in ("repair", "error"):
            raise PolicyError("", f"={default}", 'must be "repair", "error", or actions by kind')
        actions: dict[str, Action] = {}
        for name, kind in KINDS.items():
            strict = default == "error" and not kind.is_remark
            actions[name] = "error" if strict else kind.actions[0]
        for name, action in named.items():
            if name not in KINDS:
                raise PolicyError(name, "", f"no such kind of problem; {nearest_names(name, KINDS)}")
            allowed = {str(one): one for one in KINDS[name].actions}
            if action not in allowed:
                text = f"can be {' or '.join(allowed)} ({KINDS[name].meaning})"
                raise PolicyError(name, f"={action}", text)
            actions[name] = allowed[action]
        return cls(actions, frozenset(named))

    @property
    def needs_pixels(self) -> bool:
        """True if an action needs decoded images."""
        deep = {name for name, kind in KINDS.items() if kind.needs_pixels} | {"leaked-image"}
        return any(self.actions[name] != "keep" for name in self.chosen & deep)

    def repair(self, kind: str) -> Action:
        """Returns the action when the reading goes on; where the policy says "error", the mildest repair."""
        action = self.actions[kind]
        return action if action != "error" else repairs_of(kind)[0]

    def errors(self, problems: Sequence[Problem]) -> list[Problem]:
        """Those that are not allowed."""
        return [problem for problem in problems if self.actions[problem.kind] == "error"]

    def forbid_errors(self, problems: Sequence[Problem]) -> None:
        """Raise if there is one that is not allowed.

        Raises:
            YoloflowError: with the first of them and the number of all.
        """
        if errors := self.errors(problems):
            first, more = errors[0], and_more(len(errors) - 1)
            repairs = " or ".join(repairs_of(first.kind))
            raise YoloflowError(
                f"{first.place}: {first.detail} [{first.kind}]{more}; "
                f"correct the data, or set data.problems.{first.kind} to {repairs}"
            )


def repairs_of(kind: str) -> list[Action]:
    """Returns what can be done about a kind of problem so that the reading goes on, the mildest first."""
    return [action for action in KINDS[kind].actions if action != "error"]


def and_more(count: int) -> str:
    """Returns " (and N more problems)" for the end of a message, or nothing."""
    return f" (and {plural(count, 'more problem')})" if count > 0 else ""


def problems_report(index: DatasetIndex) -> dict[str, Any]:
    """Returns the whole account of an index as JSON-able data.

    Listed = used + dropped holds for images and for boxes; boxes that went with a dropped image stand under
    "with-dropped-image". "background" counts the used images without a box.
    """
    background = int((index.box_offsets[1:] == index.box_offsets[:-1]).sum())
    images, boxes = (index.num_images_listed, len(index)), (index.num_boxes_listed, len(index.classes))
    report = account(index.problems, images, boxes, background, int(index.is_crowd.sum()))
    if index.num_boxes_of_dropped_images:
        report["boxes"]["dropped"]["with-dropped-image"] = index.num_boxes_of_dropped_images
    return report


def account(
    problems: Sequence[Problem], images: tuple[int, int], boxes: tuple[int, int], background: int, crowd: int
) -> dict[str, Any]:
    """Returns the account of problems; images and boxes are given as listed and used."""
    by_action: dict[str, Counter[str]] = {
        action: Counter() for action in ("drop-image", "drop-box", "clip-box", "keep")
    }
    for problem in problems:
        by_action[problem.action][problem.kind] += 1
    return {
        "images": {
            "listed": images[0],
            "used": images[1],
            "background": background,
            "background_without_label_file": by_action["keep"]["missing-label"],
            "dropped": dict(by_action["drop-image"]),
        },
        "boxes": {
            "listed": boxes[0],
            "used": boxes[1],
            "crowd": crowd,
            "clipped": dict(by_action["clip-box"]),
            "dropped": dict(by_action["drop-box"]),
        },
        "kept": dict(by_action["keep"]),
        "problems": [
            {name: getattr(problem, name) for name in ("file", "line", "kind", "action", "detail", "image")}
            for problem in problems
        ],
    }


def summarise_problems(index: DatasetIndex) -> list[str]:
    """Lines for people: the account of images and boxes, then the first few problems of each kind."""
    return describe_account(problems_report(index), index.problems)


def describe_account(report: Mapping[str, Any], problems: Sequence[Problem]) -> list[str]:
    """Returns lines for people: an account as `problems_report` has it, and examples of the problems."""
    images, boxes = report["images"], report["boxes"]
    lines = []
    for what in ("images", "boxes"):
        listed, used, dropped = (report[what][key] for key in ("listed", "used", "dropped"))
        lines.append(f"{what}: {listed} listed = {used} used + {_total(dropped)} dropped{_by_kind(dropped)}")
    if images["background"]:
        without_file = images["background_without_label_file"]
        lines.append(
            f"background: {images['background']} images without a box, {without_file} without label file"
        )
    if boxes["crowd"]:
        lines.append(f"crowd: {boxes['crowd']} of the boxes used are regions to ignore")
    if boxes["clipped"]:
        lines.append(f"clipped: {_total(boxes['clipped'])}{_by_kind(boxes['clipped'])}")
    examples: dict[str, list[Problem]] = {}
    for problem in problems:
        examples.setdefault(problem.kind, []).append(problem)
    for kind, found in examples.items():
        lines.append(f"{kind} ({len(found)}): {KINDS[kind].meaning}")
        lines += [f"  {problem}" for problem in found[:_MOST_EXAMPLES]]
        if len(found) > _MOST_EXAMPLES:
            lines.append(f"  ... and {len(found) - _MOST_EXAMPLES} more")
    return lines


def _total(counts: dict[str, int]) -> int:
    return sum(counts.values())


def _by_kind(counts: dict[str, int]) -> str:
    return f" ({', '.join(f'{count} {kind}' for kind, count in counts.items())})" if counts else ""
