"""The data sets that settings name, as a training uses them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from yoloflow.data.coco_truth import ForeignTruthError, truth_beside
from yoloflow.data.image_inspection import find_leaks
from yoloflow.data.index import ClassCount, as_one_class, read_index
from yoloflow.data.problems import Policy, summarise_problems
from yoloflow.data.settings import DataSettings
from yoloflow.data.statistics import set_remarks
from yoloflow.data.threads import Progress
from yoloflow.structures import DatasetIndex, YoloflowError

logger = logging.getLogger("yoloflow")

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
        with_val: read the validation set.
        decode: decode every image, which finds damaged ones and equal ones.
        stop_at_errors: raise where the policy says "error".
        progress: told how many images of a set are decoded.
        cache: instead of `index_cache`.

    Raises:
        YoloflowError: a set is not set, cannot be read, or has what the policy does not allow.
    """
    policy = Policy.of(settings.problems)
    how: dict[str, Any] = {"decode": decode, "stop_at_errors": stop_at_errors, "progress": progress}
    how["cache"] = settings.index_cache if cache is None else cache
    sets = {"train_set": read_set(settings, "train_set", **how)}
    if with_val:
        val = sets["val_set"] = read_set(settings, "val_set", sets["train_set"].names, **how)
        if leaks := find_leaks(sets["train_set"], val):
            sets["train_set"].problems += leaks
            if policy.repair("leaked-image") == "drop-image":
                sets["train_set"] = read_set(settings, "train_set", held_out=val, **how)
    for index in sets.values():
        index.problems += set_remarks(index, img_size)
        if stop_at_errors:
            policy.forbid_errors(index.problems)
    return {key: as_one_class(index) for key, index in sets.items()} if settings.single_cls else sets


def read_train_set(settings: DataSettings, img_size: int, run_eval: bool) -> DatasetIndex:
    """Returns the training set as a training uses it, for commands that can do without a validation set."""
    return read_sets(settings, img_size, run_eval and settings.val_set is not None)["train_set"]


def read_set(
    settings: DataSettings, key: SetKey, names: Sequence[str] | None = None, **how: Any
) -> DatasetIndex:
    """The data set under a key.

    Args:
        settings: name the sets.
        key: which one.
        names: class names that it must have, over `names` and `nc`.
        how: further arguments of `read_index`.

    Raises:
        YoloflowError: it is not set or cannot be read.
    """
    source = getattr(settings, key)
    if source is None:
        hint = " or run_eval=false" if key == "val_set" else ""
        raise YoloflowError(
            f"data.{key} is not set: give data.{key}=... (COCO json, list file, folder), data=FILE.yaml{hint}"
        )
    how = {"cache": settings.index_cache, "policy": settings.problems, **how}
    how["image_folder"] = settings.image_folder
    given, nc = (names, None) if names else (settings.names, settings.nc)
    return (
        read_evaluated(source, given, nc, **how) if key == "val_set" else read_index(source, given, nc, **how)
    )


def read_evaluated(
    source: str | Sequence[str], names: Sequence[str] | None, nc: ClassCount, **how: Any
) -> DatasetIndex:
    """Reads a data set to evaluate on: where COCO's json lies beside a list file, that is the truth.

    Areas and crowd regions, which COCO's figures depend on, are in the json alone. The log says which it is.

    Args:
        source: as `read_index`.
        names: likewise.
        nc: likewise.
        how: further arguments of `read_index`.

    Raises:
        YoloflowError: as `read_index`.
    """
    sources = [source] if isinstance(source, str) else list(source)
    truth = truth_beside(sources[0]) if len(sources) == 1 else None
    if truth is not None:
        try:
            index = read_index(source, names, nc, truth=truth, **how)
        except ForeignTruthError as error:
            logger.warning(
                "%s is evaluated by its label files, not by the json beside it: %s", sources[0], error
            )
        else:
            logger.info("%s is evaluated by %s (areas, crowd regions), not by label files", sources[0], truth)
            return index
    return read_index(source, names, nc, **how)


def log_problems(sets: Mapping[str, DatasetIndex]) -> None:
    """Logs what was found wrong with each data set."""
    for key, index in sets.items():
        for line in summarise_problems(index):
            logger.info("data.%s: %s", key, line)


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
