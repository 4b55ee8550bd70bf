"""From a source of any format to one index: classes settled, pictures inspected, boxes repaired."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from yoloflow.data.classes import ClassList, resolve_classes
from yoloflow.data.digits import digits_dataset
from yoloflow.data.formats import FORMATS
from yoloflow.data.formats.annotations import Annotations, join_annotations, offsets_of, rows_of_ragged
from yoloflow.data.images import inspect_image
from yoloflow.data.problems import Policy, apply_policy
from yoloflow.data.repairs import BoxRepair
from yoloflow.data.threads import map_in_threads
from yoloflow.structures import DatasetIndex, Int64Array, Problem, YoloflowError, nearest_names

logger = logging.getLogger("yoloflow")


def read_index(
    source: str | Sequence[str],
    names: Sequence[str] | None = None,
    nc: int | None = None,
    policy: Policy = "repair",
    image_folder: str | None = None,
) -> DatasetIndex:
    """Read a data set and account for everything that is wrong with it.

    Args:
        source: a COCO json; a YOLO list file, folder or glob pattern; a VOC folder or list file; or several
            of these, joined. "digits:train" and "digits:val" are the embedded set of the quick start.
        names: class names in class order; taken from the source if None.
        nc: number of classes; needed for YOLO labels without `names`, checked elsewhere.
        policy: "repair" drops or clips what is wrong and lists it in the index, "error" allows nothing wrong.
        image_folder: where the pictures are, if not where the format expects them.

    Returns:
        the index; `problems_report` and `summarise_problems` give its account.

    Raises:
        YoloflowError: a source cannot be read, a class does not exist, policy is "error" and something is
            wrong, or nothing is left to use.
    """
    apply_policy([], policy)
    sources = [_embedded(one) for one in ([source] if isinstance(source, str) else source)]
    if not sources:
        raise YoloflowError("no data source is given; set data.train_set and data.val_set")
    parts = [_read_source(os.fspath(one), image_folder) for one in sources]
    classes = resolve_classes(parts, sources, names, nc)
    annotations = join_annotations(parts)
    _settle_image_ids(annotations, parts)
    sizes_hw, used, problems = _inspect_images(annotations)
    repair = BoxRepair(annotations, sizes_hw, used[annotations.box_images])
    repair.run()
    problems = annotations.problems + problems + repair.problems
    apply_policy(problems, policy)
    index = _build(annotations, classes, sizes_hw, used, repair)
    index.problems = problems
    _check_not_empty(index, ", ".join(sources), annotations)
    return index


def as_one_class(index: DatasetIndex) -> DatasetIndex:
    """The data set with all its classes taken as one."""
    one = np.zeros_like(index.classes)
    return replace(index, classes=one, names=["object"], category_ids=np.ones(1, np.int64))


def _embedded(source: str) -> str:
    """The path of a data set that the package brings with it ("digits:train"); other sources as they are."""
    name, _, split = source.partition(":")
    return str(digits_dataset(split)) if name == "digits" else source


def _read_source(source: str, image_folder: str | None) -> Annotations:
    if not os.path.exists(source) and not glob.has_magic(source):
        folder, name = os.path.split(os.path.abspath(source))
        known = os.listdir(folder) if os.path.isdir(folder) else []
        hint = f" ({nearest_names(name, known)})" if 0 < len(known) <= 200 else ""
        raise YoloflowError(f"{source}: there is no such file or folder{hint}")
    try:
        for form in FORMATS.values():
            if form.recognises(source):
                return form.read(source, image_folder)
    except OSError as error:
        raise YoloflowError(f"{error.filename or source}: cannot be read ({error.strerror})") from error
    raise YoloflowError(
        f"{source}: no data set of a known kind; give a COCO .json, a list file .txt, or a folder of "
        "pictures or VOC .xml files"
    )


def _settle_image_ids(annotations: Annotations, parts: Sequence[Annotations]) -> None:
    """Ids are unique in the whole index: the sources' own where these do not collide, else 1, 2, ..."""
    ids = annotations.image_ids
    if len(np.unique(ids)) == len(ids):
        return
    if any(part.has_own_ids for part in parts):
        logger.warning(
            "the joined sources use the same image ids: all %d pictures are numbered anew from 1", len(ids)
        )
    annotations.image_ids = np.arange(1, len(ids) + 1)


def _inspect_images(annotations: Annotations) -> tuple[Int64Array, NDArray[np.bool_], list[Problem]]:
    """(I, 2) sizes of the files, (I,) whether the picture is used, and what is wrong with pictures."""
    used = ~annotations.image_dropped
    problems: list[Problem] = []
    first_place: dict[str, int] = {}
    for image, path in enumerate(annotations.image_paths):
        if used[image] and first_place.setdefault(path, image) != image:
            used[image] = False
            file, line = annotations.place_of_image(image)
            detail = f"{path} is listed already"
            problems.append(Problem(file, line, "duplicate-image", "drop-image", detail))
    chosen = np.flatnonzero(used)
    facts = map_in_threads(inspect_image, [annotations.image_paths[image] for image in chosen])
    sizes_hw = np.zeros((len(used), 2), np.int64)
    for image, fact in zip(chosen.tolist(), facts, strict=True):
        if fact.problem_kind is not None:
            used[image] = False
            is_there = fact.problem_kind != "missing-image"
            file, line = (
                (annotations.image_paths[image], None) if is_there else annotations.place_of_image(image)
            )
            problems.append(Problem(file, line, fact.problem_kind, "drop-image", fact.detail))
            continue
        sizes_hw[image] = fact.height, fact.width
        problems += _label_problems(annotations, image, fact.height, fact.width)
    return sizes_hw, used, problems


def _label_problems(annotations: Annotations, image: int, height: int, width: int) -> list[Problem]:
    problems = []
    if annotations.label_missing[image]:
        detail = (
            f"no {annotations.label_files[image]}; taken as background (an empty label file would say so)"
        )
        problems.append(Problem(annotations.image_paths[image], None, "missing-label", "keep", detail))
    stated_h, stated_w = annotations.stated_sizes_hw[image].tolist()
    if stated_h > 0 and stated_w > 0 and (stated_h, stated_w) != (height, width):
        turned = " after its EXIF rotation" if (stated_w, stated_h) == (height, width) else ""
        detail = (
            f"{annotations.image_paths[image]} is stated as {stated_w} x {stated_h} (width x height) "
            f"but has {width} x {height}{turned}; the file's size is used, the boxes are taken as they stand"
        )
        problems.append(Problem(annotations.label_files[image], None, "size-mismatch", "keep", detail))
    return problems


def _build(
    annotations: Annotations,
    classes: ClassList,
    sizes_hw: Int64Array,
    used: NDArray[np.bool_],
    repair: BoxRepair,
) -> DatasetIndex:
    """The flat arrays, boxes in the order of their pictures."""
    images = np.flatnonzero(used)
    kept = np.flatnonzero(repair.kept)
    boxes = kept[np.argsort(annotations.box_images[kept], kind="stable")]
    points, polygon_offsets = rows_of_ragged(annotations.polygon_offsets, boxes)
    corners = repair.boxes_xyxy[boxes]
    own_areas = (corners[:, 2:] - corners[:, :2]).prod(1)
    areas = annotations.areas[boxes]
    return DatasetIndex(
        image_paths=np.array([annotations.image_paths[image] for image in images], np.str_),
        image_ids=annotations.image_ids[images],
        sizes_hw=sizes_hw[images],
        box_offsets=offsets_of(np.bincount(annotations.box_images[boxes], minlength=len(used))[images]),
        boxes_xyxy=corners,
        classes=annotations.class_ids[boxes],
        is_crowd=annotations.is_crowd[boxes],
        areas=np.where(np.isnan(areas), own_areas, areas),
        polygon_offsets=polygon_offsets,
        polygon_points=repair.polygon_points[points],
        names=classes.names,
        category_ids=classes.category_ids,
        num_images_listed=annotations.num_images_listed,
        num_boxes_listed=annotations.num_boxes_listed,
        num_boxes_of_dropped_images=int((~used[annotations.box_images]).sum()),
    )


def _check_not_empty(index: DatasetIndex, source: str, annotations: Annotations) -> None:
    first = f": {index.problems[0]}" if index.problems else ""
    if len(index) == 0:
        raise YoloflowError(f"{source}: none of its {index.num_images_listed} pictures can be used{first}")
    if len(index.classes):
        return
    if index.num_boxes_listed:
        raise YoloflowError(f"{source}: none of its {index.num_boxes_listed} boxes can be used{first}")
    if annotations.label_missing.all():
        raise YoloflowError(
            f"{source}: no picture has a label file; for {annotations.image_paths[0]} there should be "
            f"{annotations.label_files[0]}"
        )
    # COCO's test-dev lists pictures without annotations: fine to predict on, so no error.
    logger.warning("%s: has no boxes at all", source)
