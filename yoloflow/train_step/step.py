"""Step 5: one training step, from a batch of images to updated weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from yoloflow.losses.loss import Loss, full_masks
from yoloflow.models.layers.convolution import join_norms
from yoloflow.models.precision import Precision, auto_mixed_precision
from yoloflow.optim.ema import EMA
from yoloflow.optim.optimizer import is_skippable_on_device, zero_state
from yoloflow.optim.schedule import Schedule
from yoloflow.runtime.device import prefers_channels_last, require_jit_backend, require_training_kernels
from yoloflow.train_step.compilation import settle_jit
from yoloflow.train_step.forward_loss import ForwardLoss
from yoloflow.train_step.grad_reducer import GradReducer, get_gradreducer
from yoloflow.train_step.graphed_pass import GraphedPass, require_graphs
from yoloflow.train_step.loss_scaler import LossScaler, get_loss_scaler
from yoloflow.train_step.non_finite import NonFiniteState
from yoloflow.train_step.running_statistics import RunningStatistics
from yoloflow.train_step.settings import StepSettings
from yoloflow.train_step.state import StepState
from yoloflow.train_step.transfer import Transfer

__all__ = [
    "StepResult",
    "StepSettings",
    "TrainStep",
    "auto_mixed_precision",
    "create_train_step_fn",
    "get_gradreducer",
    "get_loss_scaler",
]


# From 2.14 on torch compiles a function for eight networks of a process at most, unless told otherwise.
_MANY = {"recompile_limit": 64} if "recompile_limit" in inspect.signature(torch.compile).parameters else {}


@dataclass(frozen=True, slots=True)
class StepResult:
    """The outcome of one micro-batch; all tensors are on the device, reading them waits for it.

    Attributes:
        loss_items: (K,) the loss items, total first.
        updated: whether this micro-batch completed an update. Where `finite` is false, the update was skipped
            (unless `overflow_still_update`).
        finite: () bool, whether the loss is finite; where an update was due, whether all its losses and its
            gradient are, on all devices.
        grad_norm: () L2 norm of the whole gradient, unscaled, before clipping; None where no update was due.
    """

    loss_items: Tensor
    updated: bool
    finite: Tensor
    grad_norm: Tensor | None


class TrainStep:
    """Runs forward and backward and, every `accumulate` micro-batches, an update.

    An update unscales the summed gradient, looks whether it and the losses are finite, clips it, sets
    learning rate and momentum from the schedule, and steps optimizer, running statistics, EMA and loss
    scaler. If they are not finite, weights, momentum, running statistics and EMA (with its counter) stay as
    they were; the schedule moves on, because it follows the data seen, and so does `updates`. The decision is
    made on the device where its optimizer can (CPU, CUDA, MPS, XPU): nothing here waits for the device.
    Elsewhere the host reads one flag an update.

    Attributes:
        network: the network that is trained, in train mode.
        ema: its average, or None.
        optimizer: the optimizer, with the rates of the last update in its groups.
        schedule: learning rates and momentum of every update.
        scaler: the loss scaler.
        settings: as it was made.
        forward_loss: network and loss as one module, which is compiled where `settings.jit` is true.
        updates: updates so far, skipped ones included.
        skipped_updates: () int64, on the device, those whose loss or gradient was not finite.
        non_finite: may hold back all updates from the first faulty one on; a trainer switches it on.
    """

    def __init__(
        self,
        network: nn.Module,
        loss_fn: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        *,
        scaler: LossScaler,
        reducer: GradReducer,
        ema: EMA | None,
        precision: Precision,
        settings: StepSettings,
        loss_ratio: float,
    ) -> None:
        """Puts the parts together; see `create_train_step_fn`."""
        self.device = next(network.parameters()).device
        if settings.channels_last == "auto":
            settings = settings.model_copy(update={"channels_last": prefers_channels_last(self.device.type)})
        how = {"channels_last": bool(settings.channels_last), "is_float32": precision.dtype is None}
        settings = settings.model_copy(update={"jit": settle_jit(settings.jit, self.device.type, **how)})
        memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
        for module in (network, *([ema.network] if ema is not None else [])):
            module.to(memory_format=memory_format)
        self.network = network.train()
        self.ema, self.optimizer, self.schedule = ema, optimizer, schedule
        self.scaler = scaler.to(self.device)
        self.updates = 0
        self.skipped_updates = torch.zeros((), dtype=torch.int64, device=self.device)
        zero_state(optimizer)
        self.settings, self._reducer, self._loss_fn = settings, reducer, loss_fn
        self._loss_ratio, self._transfer = loss_ratio, Transfer(self.device)
        self._micro_batches = 0
        self._statistics = RunningStatistics(network, reducer)
        self.non_finite = NonFiniteState(self.device)
        self._state = StepState(
            network,
            ema,
            optimizer,
            self.scaler,
            self.non_finite,
            self.skipped_updates,
            self._statistics,
            reducer,
        )
        self.forward_loss = ForwardLoss(network, loss_fn, precision, memory_format)
        join_norms(network, settings.jit == "norm")
        if settings.jit is True:
            self.forward_loss.compile(fullgraph=True, backend=settings.jit_backend, **_MANY)
        self._forward = reducer.wrap(self.forward_loss)
        has_graphs = settings.cuda_graphs is True
        self._graphed = GraphedPass(self._differentiate, self.forward_loss) if has_graphs else None

    @property
    def micro_batches_per_update(self) -> int:
        """Micro-batches of an update."""
        return self.settings.accumulate

    def begin_stage(self, stage: int) -> None:
        """Tells the loss which stage (from 0) the steps to come belong to."""
        if isinstance(self._loss_fn, Loss):
            self._loss_fn.begin_stage(stage)
        if self._graphed is not None:
            self._graphed.forget()

    def __call__(self, images: Tensor, labels: Tensor, *masks: Tensor) -> StepResult:
        """Takes one micro-batch.

        Args:
            images: (B, 3, H, W) uint8 RGB, or floating point as the network's first row shall see it.
            labels: (B, G, 6) rows of image index, class, cx, cy, w, h in 0..1; padding has class -1.
            *masks: those of the objects where the batch has them, as `Batch.masks`.
        """
        if not self.network.training:
            self.network.train()
        is_last = self._micro_batches + 1 == self.settings.accumulate
        images, *targets = self._transfer((images, labels, *masks))
        with self._reducer.micro_batch(self._forward, is_last):
            loss, loss_items = (self._graphed or self._differentiate)(images, *targets)
        self._micro_batches += 1
        finite, grad_norm = self.non_finite.note_loss(loss), None
        if is_last:
            with record_function("update"):
                finite, grad_norm = self._update()
        return StepResult(loss_items, is_last, finite, grad_norm)

    def _differentiate(self, images: Tensor, *targets: Tensor) -> tuple[Tensor, Tensor]:
        """Adds to the gradients; returns loss and loss items."""
        with record_function("forward and loss"):
            loss, loss_items = self._forward(images, *targets)
        with record_function("backward"):
            torch.autograd.backward(self.scaler.scale_loss(loss * self._loss_ratio))
        return loss.detach(), loss_items

    @torch.no_grad()
    def _update(self) -> tuple[Tensor, Tensor]:
        gradients = [parameter.grad for parameter in self._trained() if parameter.grad is not None]
        grad_norm = self._unscale_and_clip(gradients)
        self.non_finite.losses_finite = self._reducer.on_all(self.non_finite.losses_finite)
        finite = self.non_finite.losses_finite & torch.isfinite(grad_norm)
        is_held = self.non_finite.note_update(self._is_fault(finite, grad_norm), self.updates)
        skip = is_held if self.settings.overflow_still_update else is_held | ~finite
        self.schedule.apply(self.optimizer, self.updates)
        self._step_optimizer(skip.float())
        self.non_finite.note_weights(self._trained(), self.updates)
        self._statistics.finish_update(skip)
        if self.ema is not None:
            with record_function("EMA"):
                self.ema.update(skip.float())
        self.scaler.adjust(finite, unless=is_held)
        self.skipped_updates += skip & ~is_held
        self._begin_update(self.updates + 1)
        return finite, grad_norm

    def _is_fault(self, finite: Tensor, grad_norm: Tensor) -> Tensor:
        """Returns () bool, whether it is more than an overflow that the scaler, or the user, handles."""
        if self.settings.overflow_still_update:
            return self.non_finite.losses_finite.logical_not()
        is_overflow = self.non_finite.losses_finite & ~torch.isfinite(grad_norm)
        return ~finite & ~(is_overflow & self.scaler.can_shrink())

    def _begin_update(self, number: int) -> None:
        """Counts from update `number` on, with nothing of it done."""
        self.optimizer.zero_grad(set_to_none=self._graphed is None)
        self.updates, self._micro_batches = number, 0
        self.non_finite.losses_finite.fill_(True)

    def restart_update(self, number: int) -> None:
        """Begins update `number` anew, from the running statistics of the last good one."""
        self._begin_update(number)
        self._statistics.restore()

    def trial_targets(self, labels: Tensor, side: int) -> tuple[Tensor, ...]:
        """Returns the targets of a trial batch of images of `side` px: the labels, and masks for them."""
        return (labels, *full_masks(self._loss_fn, labels, side))

    def compute_loss(self, images: Tensor, *targets: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the loss of a batch on the device, not compiled, and what is differentiated."""
        loss, _ = self.forward_loss.forward(images, *targets)
        return loss, self.scaler.scale_loss(loss * self._loss_ratio)

    def _unscale_and_clip(self, gradients: list[Tensor]) -> Tensor:
        """Divides by the loss scale and clips, in one pass; returns the norm between the two."""
        factor = 1.0 / self.scaler.scale
        grad_norm = torch.nn.utils.get_total_norm(gradients) * factor
        if self.settings.clip_grad:
            limit = self.settings.clip_grad_value
            factor = factor * limit / torch.clamp(grad_norm, min=limit)
        torch._foreach_mul_(gradients, factor)
        return grad_norm

    def _step_optimizer(self, skip: Tensor) -> None:
        if is_skippable_on_device(self.optimizer):
            # The hook of torch's own GradScaler: fused kernels leave everything as it is where this is 1.
            self.optimizer.found_inf = skip  # type: ignore[attr-defined]
            self.optimizer.step()
        elif not skip.item():
            self.optimizer.step()

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Returns all that continuing needs: tensors by name, and plain numbers (see `StepState`).

        With several devices all of them must call: each has its own part of an unfinished update.
        """
        return self._state.state_dict(self._micro_batches > 0), {
            "updates": self.updates,
            "micro_batches": self._micro_batches,
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, int]) -> None:
        """Continues from what `state_dict` gave.

        Args:
            tensors: on any device.
            numbers: the plain numbers; further keys are left to others.

        Raises:
            YoloflowError: a tensor is missing, unexpected or of another shape.
        """
        self._state.load_state_dict(tensors)
        if self._graphed is not None:
            self._graphed.forget()
        self.updates, self._micro_batches = numbers["updates"], numbers["micro_batches"]


def create_train_step_fn(
    network: nn.Module,
    loss_fn: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    *,
    scaler: LossScaler | None = None,
    reducer: GradReducer | None = None,
    ema: EMA | None = None,
    precision: Precision | None = None,
    settings: StepSettings | None = None,
    loss_ratio: float = 1.0,
) -> TrainStep:
    """Returns the train step of the flow.

    Args:
        network: on its device; it is converted in place where `settings.channels_last` is set.
        loss_fn: (outputs, labels, images) -> loss, loss items; with `takes_masks` it takes masks too.
        optimizer: of `create_optimizer`; its state is set to zeros.
        schedule: of `create_schedule`.
        scaler: None: no loss scaling.
        reducer: None: one device.
        ema: None: no averaging.
        precision: None: float32.
        settings: None: the defaults.
        loss_ratio: multiplies the loss that is differentiated. Gradients are averaged over devices and summed
            over micro-batches: the number of devices makes both sums, as losses that grow with the batch
            need; 1 / accumulate makes both means (see `Loss`).

    Raises:
        YoloflowError: torch has no such `jit_backend` here, or lacks what the network's device needs; the
            kernel of jit="norm" cannot be built; `cuda_graphs` is true where there can be none.
    """
    settings = settings or StepSettings()
    require_training_kernels(next(network.parameters()).device)
    if settings.cuda_graphs is True:
        require_graphs(
            next(network.parameters()).device.type, reducer.world_size if reducer else 1, settings.jit
        )
    # Not for the default, which is always there: the list of back ends takes seconds to import.
    if settings.jit_backend != StepSettings().jit_backend:
        require_jit_backend(settings.jit_backend)
    return TrainStep(
        network,
        loss_fn,
        optimizer,
        schedule,
        scaler=scaler or get_loss_scaler("none"),
        reducer=reducer or get_gradreducer(is_parallel=False),
        ema=ema,
        precision=precision or Precision(next(network.parameters()).device.type),
        settings=settings,
        loss_ratio=loss_ratio,
    )
