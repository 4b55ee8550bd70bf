"""Reads a source of any format into one index: maps classes, inspects images, repairs boxes."""

from __future__ import annotations

import glob
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from yoloflow.data.caches.index import cached_index
from yoloflow.data.classes import ClassChoice, ClassCount, ClassList, NoClassesError, resolve_classes
from yoloflow.data.coco_truth import image_ids_of, read_truth
from yoloflow.data.digits import digits_dataset
from yoloflow.data.formats import FORMATS, coco_json, other_labels
from yoloflow.data.formats.annotations import (
    Annotations,
    by_new_number,
    join_annotations,
    offsets_of,
    rows_of_ragged,
)
from yoloflow.data.formats.image_search import folder_advice
from yoloflow.data.image_inspection import InspectedImages, inspect_images
from yoloflow.data.names_nearby import describe_labels_nearby, describe_names_nearby
from yoloflow.data.problems import KINDS, Policy, PolicySetting
from yoloflow.data.repairs import BOX_KINDS, BoxRepair
from yoloflow.data.threads import Progress
from yoloflow.files import require_local
from yoloflow.structures import DatasetIndex, Problem, YoloflowError, nearest_names

logger = logging.getLogger("yoloflow")

_SMALL_PX = 16


def read_index(  # noqa: PLR0913  one parameter for each thing that decides the outcome
    source: str | Sequence[str],
    names: Sequence[str] | ClassChoice | None = None,
    nc: ClassCount = None,
    policy: PolicySetting = "repair",
    image_folder: str | None = None,
    *,
    truth: str | None = None,
    is_own_folder: bool = False,
    kpt_shape: Sequence[int] | None = None,
    decode: bool = False,
    stop_at_errors: bool = True,
    held_out: DatasetIndex | None = None,
    progress: Progress | None = None,
    cache: bool = False,
) -> DatasetIndex:
    """Read a data set and account for everything that is wrong with it.

    Args:
        source: a COCO json; a YOLO list file, folder or glob pattern; a VOC folder or list file; or several
            of these, joined. "digits:train" and "digits:val" are the embedded set of the quick start.
        names: class names in the order of the source's numbers, taken from the source if None; or all that
            is known of the classes, `nc` too.
        nc: number of classes; needed for YOLO labels without `names`, checked elsewhere. See `ClassCount`.
        policy: what is done about problems, see `Policy.of`.
        image_folder: where the images are, if not where the format expects them.
        is_own_folder: whether `image_folder` was given for this set, and not for all of them.
        truth: a COCO json with the objects of the images of YOLO sources, instead of their label files.
        kpt_shape: keypoints, and figures of each, that follow the box in a line of YOLO labels.
        decode: decode every image, which finds damaged ones and equal ones.
        stop_at_errors: raise where the policy says "error"; without it all is repaired and listed.
        held_out: another data set; images that are in it too are leaks.
        progress: told how many images are decoded.
        cache: keep the outcome in a file, and find it there while nothing has changed, see `cached_index`.

    Returns:
        the index; `problems_report` and `summarise_problems` give its account.

    Raises:
        YoloflowError: a source cannot be read, the policy says "error" of it, or nothing is left to use.
    """
    rules, sources = Policy.of(policy), _paths_of(source)
    decode = decode or rules.needs_pixels
    choice = names if isinstance(names, ClassChoice) else ClassChoice(names, nc)
    image_folder = image_folder and os.path.expanduser(image_folder)
    of_labels = partial(_read_source, image_folder=image_folder, kpt_shape=kpt_shape)
    read_source = partial(_read_truth, truth, choice, image_folder) if truth is not None else of_labels
    read = partial(_read, sources, read_source, choice, rules, decode, held_out, progress)
    if cache:
        paths = [os.path.abspath(one) for one in sources]
        how = [paths, choice.words(), dict(rules.actions), image_folder, kpt_shape, decode, truth]
        index = cached_index((json.dumps(how), *_words_of(held_out)), read)
    else:
        index = read()[0]
    if stop_at_errors:
        rules.forbid_errors(index.problems)
    if image_folder is not None and not is_own_folder:
        for one in filter(coco_json.recognises, sources):
            coco_json.check_not_the_other_sets(one, index.image_paths.tolist(), image_folder)
    return index


def _read_truth(truth: str, choice: ClassChoice, image_folder: str | None, source: str) -> Annotations:
    return read_truth(truth, source, image_folder, choice.names or choice.wanted, choice.stated_nc)


def _read(
    sources: Sequence[str],
    read_source: Callable[[str], Annotations],
    choice: ClassChoice,
    policy: Policy,
    decode: bool,
    held_out: DatasetIndex | None,
    progress: Progress | None,
) -> tuple[DatasetIndex, list[str] | None]:
    """Returns the index, and the files and folders that it depends on."""
    parts = [read_source(one) for one in sources]
    try:
        classes, unknown_classes = resolve_classes(parts, sources, choice)
    except NoClassesError as error:
        if not any(part.num_boxes_listed or not _is_without_labels(part) for part in parts):
            raise _no_labels(sources[0], parts[0]) from error
        raise YoloflowError(f"{error}{describe_names_nearby(sources[0])}") from error
    in_shares = list(_not_in_pixels(parts, sources))
    annotations = join_annotations(parts)
    annotations.problems += unknown_classes + in_shares
    if not annotations.has_own_ids:
        own_ids = image_ids_of(annotations.image_paths, classes.names)
        annotations.image_ids = annotations.image_ids if own_ids is None else own_ids
    _settle_image_ids(annotations, parts)
    inspected = inspect_images(annotations, policy, decode=decode, held_out=held_out, progress=progress)
    repair = _repair_boxes(annotations, inspected, policy)
    index = _build(annotations, classes, inspected, repair)
    index.source = ", ".join(sources)
    index.problems = inspected.problems + repair.problems
    _check_not_empty(index, annotations)
    return index, _tracked(annotations)


def _not_in_pixels(parts: Sequence[Annotations], sources: Sequence[str]) -> Iterator[Problem]:
    """Finds sources whose format has pixels and whose boxes are shares of the image, as YOLO has them."""
    for part, source in zip(parts, sources, strict=True):
        boxes = part.boxes_xyxy[~part.is_normalised]
        is_large = (part.stated_sizes_hw > _SMALL_PX).any() or not part.stated_sizes_hw.any()
        if len(boxes) == len(part.boxes_xyxy) > 0 and is_large and (np.abs(boxes) <= 1).all():
            file, line, _ = part.place_of_box(0)
            ends = ", ".join(f"{end:g}" for end in boxes[0])
            detail = (
                f"{source}: all {len(boxes)} boxes end within the first pixel (left, top, right, bottom "
                f"{ends}); are these shares of the image? multiply them by its width and height"
            )
            yield Problem(file, line, "not-in-pixels", "keep", detail)


def _tracked(annotations: Annotations) -> list[str] | None:
    """Returns the files and folders that the index depends on."""
    if annotations.consulted is None:
        return None
    files = [*annotations.consulted, *annotations.image_paths, *annotations.label_files]
    return [os.path.abspath(path) for path in files]


def _words_of(held_out: DatasetIndex | None) -> list[str]:
    """Returns the part of a held-out set that the index depends on."""
    if held_out is None:
        return []
    return [*held_out.image_paths.tolist(), *([] if held_out.digests is None else held_out.digests.tolist())]


def _repair_boxes(annotations: Annotations, inspected: InspectedImages, policy: Policy) -> BoxRepair:
    """Repaired boxes; images that a faulty box drops go first, so that no box counts twice."""
    images, known = annotations.box_images, annotations.class_ids >= 0
    if any(policy.repair(kind) == "drop-image" for kind in BOX_KINDS):
        trial = BoxRepair(annotations, inspected.sizes_hw, inspected.used[images] & known, policy)
        trial.run()
        dropping = [p for p in trial.problems if policy.repair(p.kind) == "drop-image"]
        # Such a box is counted with its image's boxes: it is no line that was lost on reading.
        lost = inspected.num_lines_dropped
        inspected.settle(annotations, [replace(p, action="keep") for p in dropping], policy)
        assert inspected.num_lines_dropped == lost
    repair = BoxRepair(annotations, inspected.sizes_hw, inspected.used[images] & known, policy)
    repair.run()
    return repair


def as_one_class(index: DatasetIndex) -> DatasetIndex:
    """Returns the data set with all its classes taken as one."""
    one = np.zeros_like(index.classes)
    ids = np.ones(1, np.int64)
    return replace(index, classes=one, names=["object"], category_ids=ids, unlisted_classes=[])


def _paths_of(source: str | Sequence[str]) -> list[str]:
    sources = [_embedded(os.fspath(one)) for one in ([source] if isinstance(source, str) else source)]
    if not sources:
        raise YoloflowError("no data source is given; set data.train_set and data.val_set")
    return sources


def _embedded(source: str) -> str:
    """Returns the path of a data set of the package ("digits:train"); of other sources, without "~"."""
    require_local(source, source)
    name, _, split = source.partition(":")
    return str(digits_dataset(split)) if name == "digits" else os.path.expanduser(source)


def _read_source(source: str, image_folder: str | None, kpt_shape: Sequence[int] | None) -> Annotations:
    try:
        form = FORMATS[name := format_of(source)]
        more = {"kpt_shape": kpt_shape} if form.has_keypoints else {}
        annotations = form.read(source, image_folder, **more)
        annotations.problems += other_labels(source, name)
        return annotations
    except OSError as error:
        raise YoloflowError(f"{error.filename or source}: cannot be read ({error.strerror})") from error


def format_of(source: str) -> str:
    """Returns the name of the format that `read_index` reads a source in.

    Raises:
        YoloflowError: there is no such source, or it is of no known kind.
    """
    source = _embedded(source)
    if not os.path.exists(source) and not glob.has_magic(source):
        folder, name = os.path.split(os.path.abspath(source))
        known = os.listdir(folder) if os.path.isdir(folder) else []
        hint = f" ({nearest_names(name, known)})" if 0 < len(known) <= 200 else ""
        raise YoloflowError(f"{source}: there is no such file or folder{hint}")
    for name, form in FORMATS.items():
        if form.recognises(source):
            return name
    if source.endswith((".yaml", ".yml", ".data")):
        raise YoloflowError(f"{source}: describes a data set, it is none itself; give data={source}")
    raise YoloflowError(
        f"{source}: no data set of a known kind; give a COCO .json, a list file .txt, or a folder of "
        "images or VOC .xml files"
    )


def _settle_image_ids(annotations: Annotations, parts: Sequence[Annotations]) -> None:
    """Ids are unique in the whole index: the sources' own where these do not collide, else 1, 2, ..."""
    ids = annotations.image_ids
    if len(np.unique(ids)) == len(ids):
        return
    if len(set(annotations.given_ids.values())) != len(ids):
        annotations.given_ids = {}
        if any(part.has_own_ids for part in parts):
            logger.warning(
                "the joined sources use the same image ids: all %d images are numbered anew from 1", len(ids)
            )
    annotations.image_ids = np.arange(1, len(ids) + 1)


def _build(
    annotations: Annotations, classes: ClassList, inspected: InspectedImages, repair: BoxRepair
) -> DatasetIndex:
    """Returns the flat arrays, boxes in the order of their images."""
    used, left_out = inspected.used, repair.without_outline
    images = np.flatnonzero(used)
    known = annotations.class_ids >= 0
    kept = np.flatnonzero(repair.kept)
    boxes = kept[np.argsort(annotations.box_images[kept], kind="stable")]
    points, polygon_offsets = rows_of_ragged(annotations.polygon_offsets, boxes)
    counts, has_outline = np.diff(polygon_offsets), ~left_out[boxes]
    points = points[np.repeat(has_outline, counts)]
    polygon_parts = {box: sizes for box, sizes in annotations.polygon_parts.items() if not left_out[box]}
    masks = {box: mask for box, mask in annotations.masks.items() if not left_out[box]}
    corners = repair.boxes_xyxy[boxes]
    own_areas = (corners[:, 2:] - corners[:, :2]).prod(1)
    areas = annotations.areas[boxes]
    return DatasetIndex(
        image_paths=np.array([annotations.image_paths[image] for image in images], np.str_),
        image_ids=annotations.image_ids[images],
        given_ids=by_new_number(annotations.given_ids, images),
        sizes_hw=inspected.sizes_hw[images],
        box_offsets=offsets_of(np.bincount(annotations.box_images[boxes], minlength=len(used))[images]),
        boxes_xyxy=corners,
        classes=annotations.class_ids[boxes],
        is_crowd=annotations.is_crowd[boxes],
        areas=np.where(np.isnan(areas), own_areas, areas),
        polygon_offsets=offsets_of(counts * has_outline),
        polygon_points=repair.polygon_points[points],
        polygon_parts=by_new_number(polygon_parts, boxes),
        masks=by_new_number(masks, boxes),
        names=classes.names,
        category_ids=classes.category_ids,
        unlisted_classes=classes.unlisted,
        num_images_listed=annotations.num_images_listed,
        num_boxes_listed=annotations.num_boxes_listed,
        num_boxes_of_dropped_images=int((known & ~used[annotations.box_images]).sum())
        + inspected.num_lines_dropped,
        digests=None if inspected.digests is None else inspected.digests[images],
    )


def _mildness(problem: Problem) -> tuple[bool, bool]:
    """Returns a key that sorts errors first, then problems that leave something out."""
    return KINDS[problem.kind].actions[0] != "error", problem.action == "keep"


def _check_not_empty(index: DatasetIndex, annotations: Annotations) -> None:
    source = index.source
    worst = min(index.problems, key=_mildness, default=None)
    first = f": {worst}" if worst else ""
    if index.num_images_listed == 0:
        raise YoloflowError(f"{source}: lists no images")
    if len(index) == 0:
        is_elsewhere = {problem.kind for problem in index.problems} == {"missing-image"}
        advice = ""
        if is_elsewhere and annotations.image_paths:
            advice = f"; {folder_advice(source.partition(', ')[0], annotations.image_paths[0])}"
        raise YoloflowError(
            f"{source}: none of its {index.num_images_listed} images can be used{first}{advice}"
        )
    if len(index.classes):
        return
    if index.num_boxes_listed:
        raise YoloflowError(f"{source}: none of its {index.num_boxes_listed} boxes can be used{first}")
    if _is_without_labels(annotations):
        raise _no_labels(source, annotations)


def _is_without_labels(annotations: Annotations) -> bool:
    """Returns whether no image has a label file that can be read."""
    return bool((annotations.label_missing | annotations.image_dropped).all())


def _no_labels(source: str, annotations: Annotations) -> YoloflowError:
    image = int(annotations.label_missing.argmax())
    return YoloflowError(
        f"{source}: no image has a label file; for {annotations.image_paths[image]} there should be "
        f"{annotations.label_files[image]}{describe_labels_nearby(source, annotations.image_paths[image])}"
    )
