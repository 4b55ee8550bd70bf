"""The diagnostics again, slowly: one detection at a time, plain lists, nothing shared with the package."""

import math
from dataclasses import dataclass, field
from typing import Any

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
Row = dict[str, Any]


def overlap(box: list[float], other: list[float], other_is_crowd: bool = False) -> float:
    """IoU of two x y w h boxes, or the share of the first in a crowd region."""
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    area, shared = box[2] * box[3], width * height
    return shared / (area if other_is_crowd else area + other[2] * other[3] - shared)


@dataclass
class SlowImage:
    """An image's detections with what became of them, by falling score, and its objects and crowd regions."""

    found: list[Row]
    objects: list[Row]
    crowd: list[Row]


@dataclass
class Slow:
    """All images; `categories` by rising id."""

    categories: list[int]
    images: dict[int, SlowImage] = field(default_factory=dict)

    def detections(self) -> list[Row]:
        """In the protocol's order: by image id, then by falling score."""
        return [row for image_id in sorted(self.images) for row in self.images[image_id].found]

    def objects(self, category: int) -> list[Row]:
        return [row for image in self.images.values() for row in image.objects if row["category"] == category]


def look_at(truth: Row, found: list[Row], iou_thres: float) -> Slow:
    """Each detection gets `state` right, wrong or ignored, `object`, and as an error `kind` and `of`."""
    slow = Slow(sorted(row["id"] for row in truth["categories"]))
    for image in truth["images"]:
        boxes = [
            {"category": row["category_id"], "box": row["bbox"], "is_crowd": bool(row.get("iscrowd", 0))}
            for row in truth["annotations"]
            if row["image_id"] == image["id"]
        ]
        objects = [box for box in boxes if not box["is_crowd"]]
        crowd = [box for box in boxes if box["is_crowd"]]
        detections = []
        for category in slow.categories:
            mine = [row for row in found if (row["image_id"], row["category_id"]) == (image["id"], category)]
            mine = sorted(mine, key=lambda row: -row["score"])[:100]
            detections += [
                {"category": category, "box": row["bbox"], "score": row["score"], "object": None, "of": None}
                for row in mine
            ]
        for row in detections:
            _match(row, objects, crowd, iou_thres)
        for row in detections:
            row["kind"] = _kind(row, objects, iou_thres) if row["state"] == "wrong" else None
        detections.sort(key=lambda row: -row["score"])
        slow.images[image["id"]] = SlowImage(detections, objects, crowd)
    return slow


def _match(row: Row, objects: list[Row], crowd: list[Row], iou_thres: float) -> None:
    best, row["state"] = iou_thres, "wrong"
    for candidate in objects:
        iou = overlap(row["box"], candidate["box"])
        if candidate["category"] == row["category"] and "by" not in candidate and iou >= best:
            best, row["object"], row["state"] = iou, candidate, "right"
    if row["object"] is not None:
        row["object"]["by"] = row
    elif any(
        region["category"] == row["category"] and overlap(row["box"], region["box"], True) >= iou_thres
        for region in crowd
    ):
        row["state"] = "ignored"


def _kind(row: Row, objects: list[Row], iou_thres: float) -> str:
    """TIDE's kind; `of` becomes the object that explains it."""
    own, own_iou = _closest(row, [other for other in objects if other["category"] == row["category"]])
    other, other_iou = _closest(row, [other for other in objects if other["category"] != row["category"]])
    if 0.1 <= own_iou < iou_thres:
        row["of"] = own
        return "localisation"
    if other_iou >= iou_thres:
        row["of"] = other
        return "classification"
    if own_iou >= iou_thres:
        row["of"] = own
        return "duplicate"
    if other_iou < 0.1:
        return "background"
    row["of"] = other
    return "both"


def _closest(row: Row, objects: list[Row]) -> tuple[Row | None, float]:
    best, best_iou = None, 0.0
    for candidate in objects:
        iou = overlap(row["box"], candidate["box"])
        if iou > best_iou:
            best, best_iou = candidate, iou
    return best, best_iou


def slow_counts(slow: Slow, category: int, conf_thres: float) -> tuple[int, int, int]:
    """Right, wrong, ignored detections of a class."""
    states = [
        row["state"]
        for row in slow.detections()
        if row["category"] == category and row["score"] >= conf_thres
    ]
    return states.count("right"), states.count("wrong"), states.count("ignored")


def slow_rates(
    slow: Slow, category: int, conf_thres: float
) -> tuple[float | None, float | None, float | None]:
    """Precision, recall and F1 of a class."""
    right, wrong, _ = slow_counts(slow, category, conf_thres)
    objects = len(slow.objects(category))
    return (
        right / (right + wrong) if right + wrong else None,
        right / objects if objects else None,
        2 * right / (right + wrong + objects) if right + wrong + objects else None,
    )


def slow_confusion(slow: Slow, conf_thres: float, iou_thres: float) -> list[list[int]]:
    """Rows the truth, columns the prediction, the last of each the background."""
    place = {category: i for i, category in enumerate(slow.categories)}
    background = len(place)
    matrix = [[0] * (background + 1) for _ in range(background + 1)]
    for image in slow.images.values():
        counted = [row for row in image.found if row["score"] >= conf_thres]
        taken = [id(row["object"]) for row in counted if row["state"] == "right"]
        for row in counted:
            truth = background
            if row["state"] == "right":
                truth = place[row["object"]["category"]]
            elif row["state"] == "wrong":
                best, best_iou = None, iou_thres
                for candidate in image.objects:
                    iou = overlap(row["box"], candidate["box"])
                    is_other = candidate["category"] != row["category"]
                    if is_other and id(candidate) not in taken and iou >= best_iou:
                        best, best_iou = candidate, iou
                if best is not None:
                    taken.append(id(best))
                    truth = place[best["category"]]
            if row["state"] != "ignored":
                matrix[truth][place[row["category"]]] += 1
        for candidate in image.objects:
            matrix[place[candidate["category"]]][background] += id(candidate) not in taken
    return matrix


def slow_error_counts(slow: Slow, conf_thres: float) -> dict[str, int]:
    counts = dict.fromkeys(KINDS, 0)
    for row in slow.detections():
        if row["state"] == "wrong" and row["score"] >= conf_thres:
            counts[row["kind"]] += 1
    counts["missed"] = len(slow_missed(slow, conf_thres))
    return counts


def slow_missed(slow: Slow, conf_thres: float) -> list[Row]:
    """Objects that are not found and that no localisation or classification error explains."""
    found, explained = [], []
    for row in slow.detections():
        if row["score"] >= conf_thres:
            found += [id(row["object"])] if row["state"] == "right" else []
            explained += [id(row["of"])] if row["kind"] in ("localisation", "classification") else []
    return [
        row
        for image in slow.images.values()
        for row in image.objects
        if id(row) not in found and id(row) not in explained
    ]


def slow_ap(ranking: list[tuple[float, bool]], num_objects: int) -> float:
    """The mean over 101 recalls of the best precision there or later; `ranking` in the protocol's order."""
    if not num_objects:
        return 0.0
    points, right = [], 0
    for i, (_, is_right) in enumerate(sorted(ranking, key=lambda entry: -entry[0]), start=1):
        right += is_right
        points.append((right / num_objects, right / i))
    total = 0.0
    for step in range(101):
        total += max((precision for recall, precision in points if recall >= step / 100 - 1e-12), default=0)
    return total / 101


def slow_error_costs(slow: Slow) -> tuple[float, dict[str, float]]:
    """AP, and what it gains when all errors of a kind are repaired, at any score."""
    with_objects = [category for category in slow.categories if slow.objects(category)]
    if not with_objects:
        return -1.0, dict.fromkeys(KINDS, 0.0)
    missed = slow_missed(slow, -math.inf)

    def mean_ap(kind: str | None) -> float:
        rankings: dict[int, list[tuple[float, bool]]] = {category: [] for category in slow.categories}
        repaired = []
        for row in sorted(slow.detections(), key=lambda row: -row["score"]):
            if row["state"] == "wrong" and row["kind"] == kind:
                is_wanted = kind in ("classification", "localisation") and "by" not in row["of"]
                if is_wanted and id(row["of"]) not in repaired:
                    repaired.append(id(row["of"]))
                    rankings[row["of"]["category"]].append((row["score"], True))
            elif row["state"] != "ignored":
                rankings[row["category"]].append((row["score"], row["state"] == "right"))
        total = 0.0
        for category in with_objects:
            left = [row for row in slow.objects(category) if kind != "missed" or row not in missed]
            total += slow_ap(rankings[category], len(left))
        return total / len(with_objects)

    base = mean_ap(None)
    return base, {kind: mean_ap(kind) - base for kind in KINDS}


def slow_calibration(slow: Slow) -> tuple[list[int], float, float]:
    """Count of each of ten bins, expected and largest gap."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(10)]
    for row in slow.detections():
        if row["state"] != "ignored":
            place = max(0, min(9, math.floor(row["score"] * 10)))
            bins[place].append((row["score"], row["state"] == "right"))
    gaps = [
        abs(sum(score for score, _ in rows) - sum(is_right for _, is_right in rows)) / len(rows)
        if rows
        else 0.0
        for rows in bins
    ]
    total = sum(map(len, bins))
    expected = sum(gap * len(rows) for gap, rows in zip(gaps, bins, strict=True)) / max(total, 1)
    return [len(rows) for rows in bins], expected, max(gaps)
