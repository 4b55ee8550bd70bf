"""Step 7 in MindYOLO's words: the test function."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from yoloflow.data.coco_truth import category_ids_of, has_coco_ids
from yoloflow.evaluation.result import EvaluationResult
from yoloflow.evaluation.test_function import Synchronizer
from yoloflow.evaluation.test_function import test as ours
from yoloflow.mindyolo.data import COCODataset, Loader
from yoloflow.mindyolo.network import amp_level_of, class_names_of, device_of
from yoloflow.mindyolo.refusal import refuse, refuse_difference, refuse_other_task
from yoloflow.models.network import Network
from yoloflow.models.precision import auto_mixed_precision
from yoloflow.structures import DatasetIndex

logger = logging.getLogger("yoloflow")


def test(
    network: Network,
    dataloader: Loader,
    anno_json_path: str | None = None,
    conf_thres: float = 0.001,
    iou_thres: float = 0.65,
    conf_free: bool | None = None,
    num_class: int | None = None,
    exec_nms: bool | None = None,
    nms_time_limit: float = -1.0,
    is_coco_dataset: bool | None = None,
    imgIds: Sequence[int] | None = None,  # noqa: N803  the name that scripts use
    per_batch_size: int = -1,
    rank: int = 0,
    rank_size: int = 1,
    save_dir: str = "",
    synchronizer: Synchronizer | None = None,
    cur_epoch: str | int = 0,
    *,
    task: str = "detect",
) -> EvaluationResult:
    """Evaluates a network with COCO's protocol; `map` and `map50` are attributes of the result.

    Args:
        network: of `create_model`.
        dataloader: of `create_loader`, of a data set with `is_training=False`.
        anno_json_path: COCO json with the objects; if it is no file, the data set's own count (logged).
        conf_thres: scores must be above it.
        iou_thres: largest IoU of two detections of a class.
        conf_free: whether predictions have no objectness, which the network's head says itself.
        num_class: number of classes.
        exec_nms: whether overlapping detections are suppressed, which the network's head says itself.
        nms_time_limit: seconds of a batch until a warning; 0 and less: no limit.
        is_coco_dataset: whether detections carry COCO's category ids, which is decided by the data set.
        imgIds: ids of the images that count: all of the loader's.
        per_batch_size: images of a batch, -1 for not said.
        rank: this process among `rank_size`.
        rank_size: number of processes.
        save_dir: folder for `detections.json`, a COCO results file; "" writes none.
        synchronizer: brings several ranks together.
        cur_epoch: a word for the log.
        task: "detect", or "segment" with a network that predicts masks, whose figures are `masks`.

    Raises:
        YoloflowError: an argument contradicts network, loader or process group.
    """
    refuse_other_task(task, network.output_kind.mask_channels > 0, "the network")
    _check_head(network, conf_free, exec_nms, num_class)
    dataset = _dataset_of(dataloader)
    _check_loader(dataloader, rank, rank_size, per_batch_size, synchronizer)
    index = _truth_of(dataset, network, anno_json_path)
    _check_ids(index, dataset, is_coco_dataset, imgIds)
    if cur_epoch != 0:
        logger.info("evaluation of epoch %s", cur_epoch)
    limits: dict[str, Any] = {"conf_thres": conf_thres, "iou_thres": iou_thres}
    limits["nms_time_limit"] = nms_time_limit if nms_time_limit > 0 else None
    how = {"precision": auto_mixed_precision(amp_level_of(network), device_of(network).type), **limits}
    save_json = Path(save_dir) / "detections.json" if save_dir else None
    ranks = synchronizer or Synchronizer(rank_size)
    return ours(network, dataloader, index, synchronizer=ranks, save_json=save_json, **how)


test.__test__ = False  # type: ignore[attr-defined]  # keeps pytest from collecting it


def _check_head(
    network: Network, conf_free: bool | None, exec_nms: bool | None, num_class: int | None
) -> None:
    """Refuses what the network's head says otherwise."""
    kind, head = network.output_kind, f"the head of {network.model_name}"
    if conf_free is not None and not kind.end_to_end:
        refuse_difference("conf_free", conf_free, not kind.has_objectness, head)
    if exec_nms is not None:
        refuse_difference("exec_nms", exec_nms, not kind.end_to_end, head)
    if num_class is not None:
        refuse_difference("num_class", num_class, network.num_classes, "the network")


def _check_loader(
    dataloader: Loader, rank: int, rank_size: int, per_batch_size: int, synchronizer: Synchronizer | None
) -> None:
    """Refuses what the loader says otherwise."""
    refuse_difference("rank", rank, dataloader.rank, "the loader")
    refuse_difference("rank_size", rank_size, dataloader.world_size, "the loader")
    if per_batch_size != -1:
        refuse_difference("per_batch_size", per_batch_size, dataloader.batch_size, "the loader")
    lacks = rank_size > 1 and synchronizer is None
    refuse(lacks, "synchronizer=None", "several ranks need Synchronizer(rank_size)")


def _dataset_of(dataloader: Loader) -> COCODataset:
    """Returns the data set to evaluate on."""
    dataset = dataloader.dataset
    refuse(not isinstance(dataset, COCODataset), "dataloader", "make it with yoloflow.mindyolo.create_loader")
    assert isinstance(dataset, COCODataset)
    refuse(dataset.is_training, "dataloader", "its data set has is_training=True, so its images are changed")
    return dataset


def _named(index: DatasetIndex, network: nn.Module) -> DatasetIndex:
    """Returns the index with all classes of the network, where its own are mere numbers of those seen."""
    names = class_names_of(network, index.names)
    if names == index.names:
        return index
    return replace(index, names=names, category_ids=category_ids_of(names))


def _truth_of(dataset: COCODataset, network: nn.Module, anno_json_path: str | None) -> DatasetIndex:
    """Returns the index of the loader's images with the objects that count."""
    index = _named(dataset.index, network)
    if not anno_json_path:
        return index
    if not os.path.isfile(anno_json_path):
        dataset.tell_once(
            "%s: no such file; the truth is the data set's own (%s)", anno_json_path, index.source
        )
        return index
    return dataset.with_truth(anno_json_path, index.names)


def _check_ids(
    index: DatasetIndex, dataset: COCODataset, is_coco_dataset: bool | None, img_ids: Sequence[int] | None
) -> None:
    """Refuses ids that are not those of the data set."""
    refuse(
        bool(is_coco_dataset) and not has_coco_ids(index.category_ids),
        "is_coco_dataset=True",
        f"the data set's classes ({', '.join(index.names[:3])}, ...) are not COCO's 80, their category ids "
        "are the data set's own; give False",
    )
    if img_ids is not None:
        known = [sorted(ids.tolist()) for ids in (index.image_ids, dataset.index.image_ids)]
        refuse(
            sorted(img_ids) not in known,
            f"imgIds ({len(img_ids)} ids)",
            "all images of the loader are evaluated; give its data set's imgIds, or None",
        )
