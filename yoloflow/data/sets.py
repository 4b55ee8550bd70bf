"""The data sets that settings name, as a training uses them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from yoloflow.data.classes import ClassChoice
from yoloflow.data.coco_truth import ForeignTruthError, truth_beside
from yoloflow.data.formats.image_search import check_not_shared
from yoloflow.data.image_inspection import find_leaks
from yoloflow.data.index import as_one_class, read_index
from yoloflow.data.outline_remarks import outline_remarks
from yoloflow.data.problems import Policy, summarise_problems
from yoloflow.data.settings import DataSettings
from yoloflow.data.split import split_images, take_images
from yoloflow.data.statistics import set_remarks
from yoloflow.data.threads import Progress
from yoloflow.data.transforms.masks import mask_ratio_of
from yoloflow.runtime.ranks import Ranks
from yoloflow.structures import DatasetIndex, YoloflowError

logger = logging.getLogger("yoloflow")

_NAMED = 5

NO_VALIDATION_SET = (
    "no validation set: give data.val_set=... or data=FILE.yaml with `val`, hold one out "
    "(`yoloflow data split`, or data.val_fraction=0.2), or train without (run_eval=false)"
)
"""What is said before a training that would ask for one."""

SetKey = Literal["train_set", "val_set"]


def read_sets(
    settings: DataSettings,
    img_size: int,
    with_val: bool,
    *,
    decode: bool = False,
    stop_at_errors: bool = True,
    progress: Progress | None = None,
    cache: bool | None = None,
) -> dict[str, DatasetIndex]:
    """The training set and the validation set as a training uses them, looked at as a whole too.

    Args:
        settings: name the sets.
        img_size: side of the network input in pixels.
        with_val: read the validation set; one that is held out of the training set is there anyway.
        decode: decode every image, which finds damaged ones and equal ones.
        stop_at_errors: raise where the policy says "error".
        progress: told how many images of a set are decoded.
        cache: instead of `index_cache`.

    Raises:
        YoloflowError: a set is not set, cannot be read, has what the policy does not allow, or an image has
            more objects than `max_labels`.
    """
    policy = Policy.of(settings.problems)
    how: dict[str, Any] = {"decode": decode, "stop_at_errors": stop_at_errors, "progress": progress}
    how["cache"] = settings.index_cache if cache is None else cache
    if (share := settings.held_out_share) is not None:
        val, train = _hold_out(settings, share, None, **how)
        sets = {"train_set": train, "val_set": val}
    else:
        sets = {"train_set": read_set(settings, "train_set", **how)}
    if with_val and "val_set" not in sets:
        val = sets["val_set"] = read_set(settings, "val_set", sets["train_set"].names, **how)
        if isinstance(settings.image_folder, str):
            paths = [index.image_paths.tolist() for index in sets.values()]
            check_not_shared(val.source, settings.image_folder, *paths)
        if leaks := find_leaks(sets["train_set"], val):
            sets["train_set"].problems += leaks
            if policy.repair("leaked-image") == "drop-image":
                sets["train_set"] = read_set(settings, "train_set", held_out=val, **how)
    if settings.val_fraction != settings.held_out_share:
        logger.info("data.val_fraction is not used: data.val_set is given")
    if settings.single_cls:
        sets = {key: as_one_class(index) for key, index in sets.items()}
    for key, index in sets.items():
        is_trained_on = key == "train_set"
        index.problems += set_remarks(index, img_size, is_trained_on)
        deep = decode or "outline-crosses-itself" in policy.chosen
        index.problems += outline_remarks(
            index, img_size, mask_ratio_of(settings.trans_list), is_trained_on=is_trained_on, deep=deep
        )
        if stop_at_errors:
            policy.forbid_errors(index.problems)
    if settings.max_labels is not None:
        _check_rows_of_labels(sets["train_set"], settings.max_labels)
    return sets


def _check_rows_of_labels(index: DatasetIndex, max_labels: int) -> None:
    images = np.repeat(np.arange(len(index)), np.diff(index.box_offsets))
    counts = np.bincount(images[~index.is_crowd], minlength=len(index))
    fullest = int(counts.argmax())
    if counts[fullest] > max_labels:
        raise YoloflowError(
            f"data.max_labels={max_labels}: {index.image_paths[fullest]} (image number {fullest}) has "
            f"{counts[fullest]} objects, the most of {index.source}, and none is ever cut off; leave "
            "data.max_labels out, or set it to that or more (mosaic, mixup and copy_paste join objects of "
            "several images)"
        )


def read_train_set(settings: DataSettings, img_size: int, run_eval: bool) -> DatasetIndex:
    """Returns the training set as a training uses it, and logs the account.

    A validation set may be missing; one that is named is read, as images of both may be dropped.
    """
    sets = read_sets(settings, img_size, run_eval and settings.val_set is not None)
    return log_problems(sets, Ranks())["train_set"]


def read_val_set(settings: DataSettings, img_size: int, network_names: Sequence[str] | None) -> DatasetIndex:
    """Returns the validation set for a network that is trained already, with remarks on it as a whole.

    Args:
        settings: name the set.
        img_size: side of the network input in pixels.
        network_names: the network's classes, to which those of the set are mapped by name; None if unknown.

    Raises:
        YoloflowError: it is not set, cannot be read, or has what the policy does not allow.
    """
    names = None if settings.single_cls else network_names
    if settings.single_cls and network_names is not None and len(network_names) > 1:
        raise YoloflowError(
            f"data.single_cls=true: the network tells {len(network_names)} classes apart "
            f"({', '.join(network_names[:_NAMED])}{', ...' * (len(network_names) > _NAMED)}); leave it out, "
            "or train with it"
        )
    if settings.val_set is None and settings.val_fraction is None:
        raise _is_not_set("val_set")
    if (share := settings.held_out_share) is not None:
        index, _ = _hold_out(settings, share, names)
    else:
        index = read_set(settings, "val_set", names)
    index = as_one_class(index) if settings.single_cls else index
    index.problems += set_remarks(index, img_size, is_trained_on=False)
    ratio = mask_ratio_of(settings.trans_list)
    index.problems += outline_remarks(index, img_size, ratio, is_trained_on=False, deep=False)
    Policy.of(settings.problems).forbid_errors(index.problems)
    return index


def _hold_out(
    settings: DataSettings, share: float, names: Sequence[str] | None, **how: Any
) -> tuple[DatasetIndex, DatasetIndex]:
    """Returns a part of the training set that is held out for validation, and the rest.

    It is a function of the images alone. All are decoded, so that equal ones come into one part.
    """
    index = read_set(settings, "train_set", names, **{**how, "decode": True})
    _, held_out = split_images(index, [1 - share, share])
    logger.info("data.val_fraction: %d of %d images are held out for validation", len(held_out), len(index))
    return take_images(index, held_out, f"{share:.0%} held out by data.val_fraction")


def read_set(
    settings: DataSettings, key: SetKey, names: Sequence[str] | None = None, **how: Any
) -> DatasetIndex:
    """The data set under a key.

    Args:
        settings: name the sets.
        key: which one.
        names: class names of the network that it is for, to which its classes are mapped by name.
        how: further arguments of `read_index`.

    Raises:
        YoloflowError: it is not set or cannot be read.
    """
    source = getattr(settings, key)
    if source is None:
        raise _is_not_set(key, ", data.val_fraction=0.2 or run_eval=false" if key == "val_set" else "")
    how = {"cache": settings.index_cache, "kpt_shape": settings.kpt_shape, "policy": settings.problems, **how}
    folder = settings.image_folder
    how["is_own_folder"] = isinstance(folder, dict)
    how["image_folder"] = folder.get(key) if isinstance(folder, dict) else folder
    classes = ClassChoice(settings.names, settings.nc, names)
    if (
        settings.single_cls
        and key == "val_set"
        and "class-out-of-range" not in Policy.of(settings.problems).chosen
    ):
        classes = ClassChoice(nc="counted")  # whatever its classes are, all are the one
    return read_evaluated(source, classes, **how) if key == "val_set" else read_index(source, classes, **how)


def _is_not_set(key: SetKey, other_ways: str = "") -> YoloflowError:
    file = f"{',' if other_ways else ' or'} data=FILE.yaml with `{key.removesuffix('_set')}`"
    return YoloflowError(
        f"data.{key} is not set: give data.{key}=... (COCO json, list file, folder){file}{other_ways}"
    )


def read_evaluated(source: str | Sequence[str], classes: ClassChoice, **how: Any) -> DatasetIndex:
    """Reads a data set to evaluate on: where COCO's json lies beside a list file, that is the truth.

    Areas and crowd regions, which COCO's figures depend on, are in the json alone. The log says which it is.

    Args:
        source: as `read_index`.
        classes: all that is known of them.
        how: further arguments of `read_index`.

    Raises:
        YoloflowError: as `read_index`.
    """
    sources = [source] if isinstance(source, str) else list(source)
    truth = truth_beside(sources[0]) if len(sources) == 1 else None
    if truth is not None:
        try:
            index = read_index(source, classes, truth=truth, **how)
        except ForeignTruthError as error:
            message = "%s is evaluated by its label files, not by the json beside it: %s"
            logger.warning(message, sources[0], error)
        else:
            logger.info("%s is evaluated by %s (areas, crowd regions), not by label files", sources[0], truth)
            return index
    return read_index(source, classes, **how)


def log_problems(sets: dict[str, DatasetIndex], ranks: Ranks) -> dict[str, DatasetIndex]:
    """Logs what was found wrong with each data set (main rank) and returns the sets."""
    for key, index in sets.items() if ranks.is_main else ():
        for line in summarise_problems(index):
            logger.info("data.%s: %s", key, line)
    return sets


def identity_of(index: DatasetIndex, step_images: int) -> dict[str, Any]:
    """Returns what of its data a training keeps where it goes on, in the words of messages.

    Args:
        index: the training set.
        step_images: images of a step on all devices.
    """
    return {
        "images of a step": step_images,
        "training set": f"{len(index)} images (sum {index.fingerprint()})",
        "classes": index.names,
    }
