"""Step 5 in MindYOLO's words: reducer, loss scaler and train step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from yoloflow.losses import Loss
from yoloflow.mindyolo.network import amp_level_of, device_of
from yoloflow.mindyolo.optimizer import Optimizer
from yoloflow.mindyolo.refusal import refuse, refuse_other_task
from yoloflow.models.network import Network
from yoloflow.models.precision import Precision, auto_mixed_precision
from yoloflow.optim.ema import EMA
from yoloflow.train_step import step as ours
from yoloflow.train_step.grad_reducer import GradReducer
from yoloflow.train_step.loss_scaler import LossScaler
from yoloflow.train_step.settings import StepSettings
from yoloflow.train_step.step import StepResult, TrainStep


def get_gradreducer(is_parallel: bool, parameters: Sequence[nn.Parameter]) -> GradReducer:
    """Returns what averages gradients over the ranks.

    Args:
        is_parallel: whether several processes train together.
        parameters: `optimizer.parameters`; the train step must be of the same.

    Raises:
        YoloflowError: no process group has been joined.
    """
    reducer = ours.get_gradreducer(is_parallel)
    vars(reducer)["parameters"] = list(parameters)
    return reducer


def get_loss_scaler(
    ms_loss_scaler: str = "static",
    scale_value: float = 1024,
    scale_factor: float = 2,
    scale_window: int = 2000,
) -> LossScaler:
    """Returns the loss scaler.

    Args:
        ms_loss_scaler: "static", "dynamic" or "none".
        scale_value: the scale, or where a dynamic one starts.
        scale_factor: by which a dynamic one grows and shrinks.
        scale_window: updates without overflow after which it grows.

    Raises:
        YoloflowError: unknown kind, or a number out of range.
    """
    kind = ms_loss_scaler.lower()
    scaler = ours.get_loss_scaler(kind, scale_value)
    refuse(not scale_factor > 1, f"scale_factor={scale_factor}", "must be above 1")
    refuse(scale_window < 1, f"scale_window={scale_window}", "must be at least 1")
    if kind != "dynamic":
        return scaler
    return LossScaler(float(scale_value), is_dynamic=True, factor=float(scale_factor), window=scale_window)


@dataclass(slots=True)
class TrainStepFn:
    """Our train step with the parts that it was made of.

    Attributes:
        train_step: called for each batch.
        optimizer: MindYOLO's view of the step's.
        loss_fn: the loss.
        reducer: averages gradients.
        precision: of network and loss.
        settings: of the step.
    """

    train_step: TrainStep
    optimizer: Optimizer
    loss_fn: Loss
    reducer: GradReducer
    precision: Precision
    settings: StepSettings

    def __call__(self, images: Tensor, labels: Tensor, *masks: Tensor) -> StepResult:
        """Takes a step; see `TrainStep`."""
        return self.train_step(images, labels, *masks)


def create_train_step_fn(
    network: Network,
    loss_fn: Loss,
    optimizer: Optimizer,
    loss_ratio: float,
    scaler: LossScaler,
    reducer: GradReducer,
    ema: EMA | None = None,
    overflow_still_update: bool = False,
    ms_jit: bool = False,
    *,
    task: str = "detect",
    clip_grad: bool = False,
    clip_grad_value: float = 10.0,
) -> TrainStepFn:
    """Creates the train step: forward, loss, gradients, mean over the ranks, update, average.

    Args:
        network: of `create_model`.
        loss_fn: of `create_loss`.
        optimizer: of `create_optimizer`; it says how many micro-batches make an update.
        loss_ratio: multiplies the loss that is differentiated, as it is: MindYOLO gives the number of ranks.
        scaler: of `get_loss_scaler`.
        reducer: of `get_gradreducer`, for this optimizer's parameters.
        ema: the average, or None.
        overflow_still_update: apply gradients that are not finite.
        ms_jit: compile the step.
        task: "detect", or "segment" with a loss that takes masks.
        clip_grad: limit the norm of the gradient.
        clip_grad_value: its limit.

    Raises:
        YoloflowError: an argument that is refused.
    """
    refuse_other_task(task, loss_fn.takes_masks, "the loss")
    own = [id(parameter) for parameter in optimizer.parameters]
    of_reducer = [id(parameter) for parameter in vars(reducer).get("parameters", optimizer.parameters)]
    refuse(own != of_reducer, "reducer", "was made for other parameters than the optimizer's")
    precision = _precision_of(network, loss_fn)
    settings = StepSettings(
        accumulate=optimizer.length.accumulate,
        overflow_still_update=overflow_still_update,
        clip_grad=clip_grad,
        clip_grad_value=float(clip_grad_value),
        jit=ms_jit or "auto",
    )
    step = ours.create_train_step_fn(
        network,
        loss_fn.to(device_of(network)),
        optimizer.optimizer,
        optimizer.schedule(None),
        scaler=scaler,
        reducer=reducer,
        ema=ema,
        precision=precision,
        settings=settings,
        loss_ratio=float(loss_ratio) / optimizer.settings.loss_scale,
    )
    return TrainStepFn(step, optimizer, loss_fn, reducer, precision, settings)


def _precision_of(network: nn.Module, loss_fn: nn.Module) -> Precision:
    """Returns the precision that `auto_mixed_precision` noted for both."""
    network_level, loss_level = amp_level_of(network), amp_level_of(loss_fn)
    refuse(
        network_level == "O0" and loss_level != "O0",
        f"loss at {loss_level}",
        "the network is in float32 (O0), so its loss is; call auto_mixed_precision for both",
    )
    device = device_of(network)
    return auto_mixed_precision(network_level, device.type, keep_loss_fp32=loss_level == "O0")
