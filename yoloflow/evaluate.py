"""The evaluation flow: a run, weights or an exported file in, figures of its validation set out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from yoloflow.config.auto_settings import resolve_auto
from yoloflow.config.fitting import check_weights, naming_the_recipe
from yoloflow.config.schema import Config
from yoloflow.data.sets import log_problems, read_val_set
from yoloflow.detector import find_parts
from yoloflow.evaluation.create import create_test_fn
from yoloflow.evaluation.test_function import EvaluationResult
from yoloflow.losses import create_loss
from yoloflow.models import Network, create_model, load_pretrain
from yoloflow.models.exported import ExportedNetwork
from yoloflow.models.precision import create_precision
from yoloflow.runtime.device import Machine
from yoloflow.runtime.process_state import restored_process_state
from yoloflow.runtime.rank_failures import explain_rank_timeout
from yoloflow.runtime.ranks import init_ranks
from yoloflow.structures import YoloflowError, plural

logger = logging.getLogger("yoloflow")


@explain_rank_timeout("evaluating")
@restored_process_state()
def evaluate_run(
    run_or_recipe: str,
    overrides: Sequence[str] = (),
    weight: str | None = None,
    save_json: str | Path | None = None,
) -> EvaluationResult:
    """Evaluate weights, or an exported file, on the validation set that a run or recipe names.

    Args:
        run_or_recipe: a run folder, a recipe's name, a YAML file, or an exported file (`yoloflow export`),
            which has all settings but the data set.
        overrides: `key=value` texts over its settings.
        weight: weights file or exported file; None takes the run's best (averaged where there is an average).
        save_json: write the detections here, as a COCO results file.

    Raises:
        YoloflowError: no weights or no validation set, or they do not fit together.
    """
    parts = find_parts(run_or_recipe, weight, overrides)
    config, path = parts.config, parts.weights
    ranks, device = init_ranks(config.device, config.threads, config.rank_timeout)
    exported = ExportedNetwork(path, device.type) if parts.is_exported else None
    names = exported.info.names if exported else parts.names
    if not exported:
        check_weights(config, path)
    index = read_val_set(config.data, config.img_size, names)
    log_problems({"val_set": index}, ranks)
    network: nn.Module
    shape_hw = loss_fn = None
    if exported:
        if config.val_loss:
            raise YoloflowError(
                f"val_loss: {path} is exported and predicts boxes alone; evaluate the weights"
            )
        network = exported
        exported.check_names(index.names)
        config = _as_exported(config, exported)
        # Squares come without a shape of their own: as they do of a run.
        if exported.shape_hw is not None and len(set(exported.shape_hw)) > 1:
            shape_hw = exported.shape_hw
    else:
        network = create_model(
            config.network.model_name, config.network_table(), len(index.names), variant=config.variant
        )
        with naming_the_recipe():
            load_pretrain(network, path, strict=True)
        loss_fn = _create_loss(config, network, len(index.names)).to(device)
    logger.info("%s on %s", path, plural(len(index), "image"))
    config = resolve_auto(config, Machine.of(device), ranks, is_training=False)
    precision = create_precision(config, device.type)
    test_fn = create_test_fn(
        *(index, config, config.data, config.network, precision, ranks),
        save_json=save_json,
        shape_hw=shape_hw,
        loss_fn=loss_fn,
    )
    result = test_fn(network.to(device))
    return replace(result, settings={"weights": str(path), **result.settings})


def _create_loss(config: Config, network: Network, nc: int) -> nn.Module:
    """Returns the loss of the network's training."""
    return create_loss(
        config.loss, anchors=config.network.anchors, stride=network.stride, nc=nc, variant=config.variant
    )


def _as_exported(config: Config, network: ExportedNetwork) -> Config:
    """The settings with the one input shape that an exported network takes."""
    if (nms := network.info.nms) is not None:
        logger.warning(
            "the file has suppression inside: conf_thres %g, iou_thres %g and max_det %d are its own, and a "
            "box counts for its best class alone; AP is lower than without",
            *(nms.conf_thres, nms.iou_thres, nms.max_det),
        )
    if network.shape_hw is None:
        return config
    height, width = network.shape_hw
    if config.img_size != max(height, width) or config.data.test_rect or height != width:
        logger.info("evaluated on images of %d x %d pixels, which the exported file takes", height, width)
    data = config.data.model_copy(update={"test_rect": False})
    return config.model_copy(update={"img_size": max(height, width), "data": data})
