"""Step 5: one training step, from a batch of images to updated weights."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from yoloflow.losses.loss import Loss
from yoloflow.models.precision import Precision, auto_mixed_precision, to_float32
from yoloflow.optim.ema import EMA
from yoloflow.optim.optimizer import is_skippable_on_device, zero_state
from yoloflow.optim.schedule import Schedule
from yoloflow.run.checkpoint import require_same_names
from yoloflow.runtime.device import require_jit_backend
from yoloflow.train_step.grad_reducer import GradReducer, get_gradreducer
from yoloflow.train_step.loss_scaler import LossScaler, get_loss_scaler
from yoloflow.train_step.non_finite import NonFiniteState, first_fault, no_trace
from yoloflow.train_step.running_statistics import RunningStatistics
from yoloflow.train_step.settings import StepSettings

__all__ = [
    "StepSettings",
    "StepResult",
    "TrainStep",
    "auto_mixed_precision",
    "create_train_step_fn",
    "get_gradreducer",
    "get_loss_scaler",
]


# Torch compiles one piece of code for eight networks of a process, unless told otherwise (from 2.14 on).
_MANY = {"recompile_limit": 64} if "recompile_limit" in inspect.signature(torch.compile).parameters else {}


@dataclass(frozen=True, slots=True)
class StepResult:
    """What came of one micro-batch; all tensors are on the device, reading them waits for it.

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


class ForwardLoss(nn.Module):
    """Images and labels to loss, the part of the step that is differentiated and compiled."""

    def __init__(
        self, network: nn.Module, loss_fn: nn.Module, precision: Precision, memory_format: torch.memory_format
    ) -> None:
        super().__init__()
        self.network, self.loss_fn = network, loss_fn
        self._precision, self._memory_format = precision, memory_format

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W), as the network takes them, to the loss and its items."""
        images = images.contiguous(memory_format=self._memory_format)
        with self._precision.autocast():
            outputs = self.network(images)
            if not self._precision.keep_loss_fp32:
                return self._loss(outputs, labels, images)
        return self._loss(to_float32(outputs), labels, images)

    def _loss(self, outputs: object, labels: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        loss, items = self.loss_fn(outputs, labels, images)
        return loss, items.detach()


class TrainStep:
    """Forward, backward and, every `accumulate` micro-batches, an update.

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
        updates: updates so far, skipped ones included.
        skipped_updates: () int64, on the device, those whose loss or gradient was not finite.
        hold: may hold back all updates from the first faulty one on; off unless a trainer switches it on.
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
        """Put the parts together; see `create_train_step_fn`."""
        self.device = next(network.parameters()).device
        memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
        for module in (network, *([ema.network] if ema is not None else [])):
            module.to(memory_format=memory_format)
        self.network = network.train()
        self.ema, self.optimizer, self.schedule = ema, optimizer, schedule
        self.scaler = scaler.to(self.device)
        self.updates = 0
        self.skipped_updates = torch.zeros((), dtype=torch.int64, device=self.device)
        zero_state(optimizer)
        self._settings, self._reducer, self._loss_fn = settings, reducer, loss_fn
        self._loss_ratio = loss_ratio
        self._micro_batches = 0
        self._statistics = RunningStatistics(network, reducer)
        self.hold = NonFiniteState(self.device)
        self._forward_loss = ForwardLoss(network, loss_fn, precision, memory_format)
        if settings.jit:
            self._forward_loss.compile(fullgraph=True, backend=settings.jit_backend, **_MANY)
        self._forward = reducer.wrap(self._forward_loss)

    @property
    def micro_batches_per_update(self) -> int:
        """Calls that make an update."""
        return self._settings.accumulate

    def begin_stage(self, stage: int) -> None:
        """Tell the loss which stage (from 0) the steps to come belong to."""
        if isinstance(self._loss_fn, Loss):
            self._loss_fn.begin_stage(stage)

    def __call__(self, images: Tensor, labels: Tensor) -> StepResult:
        """Take one micro-batch.

        Args:
            images: (B, 3, H, W) uint8 RGB, or floating point as the network's first row shall see it.
            labels: (B, G, 6) rows of image index, class, cx, cy, w, h in 0..1; padding has class -1.
        """
        if not self.network.training:
            self.network.train()
        is_last = self._micro_batches + 1 == self._settings.accumulate
        images = images.to(self.device, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        with self._reducer.micro_batch(self._forward, is_last):
            loss, loss_items = self._forward(images, labels)
            torch.autograd.backward(self.scaler.scale_loss(loss * self._loss_ratio))
        self._micro_batches += 1
        finite, grad_norm = self.hold.note_loss(loss.detach()), None
        if is_last:
            finite, grad_norm = self._update()
        return StepResult(loss_items, is_last, finite, grad_norm)

    @torch.no_grad()
    def _update(self) -> tuple[Tensor, Tensor]:
        gradients = [parameter.grad for parameter in self._trained() if parameter.grad is not None]
        grad_norm = self._unscale_and_clip(gradients)
        self.hold.losses_finite = self._reducer.on_all(self.hold.losses_finite)
        finite = self.hold.losses_finite & torch.isfinite(grad_norm)
        is_held = self.hold.note_update(self._is_fault(finite, grad_norm), self.updates)
        skip = is_held if self._settings.overflow_still_update else is_held | ~finite
        self.schedule.apply(self.optimizer, self.updates)
        self._step_optimizer(skip.float())
        self.hold.note_weights(self._trained(), self.updates)
        self._statistics.settle(skip)
        if self.ema is not None:
            self.ema.update(skip.float())
        self.scaler.adjust(finite, unless=is_held)
        self.skipped_updates += skip & ~is_held
        self._begin_update(self.updates + 1)
        return finite, grad_norm

    def _is_fault(self, finite: Tensor, grad_norm: Tensor) -> Tensor:
        """Whether it is more than an overflow of the gradient that the scaler, or the user, takes care of."""
        if self._settings.overflow_still_update:
            return self.hold.losses_finite.logical_not()
        is_overflow = self.hold.losses_finite & ~torch.isfinite(grad_norm)
        return ~finite & ~(is_overflow & self.scaler.can_shrink())

    def _begin_update(self, number: int) -> None:
        """Count from update `number` on, with nothing of it done."""
        self.optimizer.zero_grad(set_to_none=True)
        self.updates, self._micro_batches = number, 0
        self.hold.losses_finite.fill_(True)

    def rewind(self, update: int) -> int:
        """Go back to the begin of a held update; returns its first micro-batch, counted over the training.

        Args:
            update: what `hold.update` told; everything since was held back, so only numbers go back.
        """
        self._begin_update(update)
        self._statistics.restore()
        self.hold.release()
        return update * self._settings.accumulate

    def skip_update(self) -> int:
        """Leave the coming update out, as if it had been skipped; returns the first micro-batch after it."""
        self.scaler.adjust(torch.zeros_like(self.hold.losses_finite))
        self.skipped_updates += 1
        self._begin_update(self.updates + 1)
        return self.updates * self._settings.accumulate

    def examine(self, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[int, int, str] | None:
        """Find what is not finite in an update, without a trace in the state (after `rewind`).

        All devices must call with equally many batches: statistics may be joined over them.

        Args:
            batches: images and labels of its micro-batches on this device.

        Returns:
            the micro-batch, from 0, and as `first_fault` what is not finite in it; None if all is.
        """
        found: tuple[int, int, str] | None = None
        with no_trace(self.network):
            for number, (images, labels) in enumerate(batches):
                compute_loss = partial(self.compute_loss, images.to(self.device), labels.to(self.device))
                fault = first_fault(self.network, compute_loss)
                if found is None and fault is not None:
                    found = number, *fault
        return found

    def compute_loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a batch on the device, not compiled, and what is differentiated."""
        loss, _ = self._forward_loss.forward(images, labels)
        return loss, self.scaler.scale_loss(loss * self._loss_ratio)

    def _unscale_and_clip(self, gradients: list[Tensor]) -> Tensor:
        """Divide by the loss scale and clip, in one pass; return the norm between the two."""
        factor = 1.0 / self.scaler.scale
        grad_norm = torch.nn.utils.get_total_norm(gradients) * factor
        if self._settings.clip_grad:
            limit = self._settings.clip_grad_value
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

    def _named_trained(self) -> dict[str, nn.Parameter]:
        trained = set(self._trained())
        return {name: value for name, value in self.network.named_parameters() if value in trained}

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """All that continuing needs: network, EMA and its counter, optimizer, scaler, an unfinished update.

        The tensors are the live ones, to be written before the next step. With several devices all of them
        must call: each has its own part of an unfinished update.

        Returns:
            tensors by name, and plain numbers.
        """
        tensors = self._live_tensors()
        if self._micro_batches:
            for rank, unfinished in enumerate(self._reducer.gather(self._unfinished_tensors())):
                tensors |= {f"unfinished.{rank}.{name}": tensor for name, tensor in unfinished.items()}
        return tensors, {"updates": self.updates, "micro_batches": self._micro_batches}

    @torch.no_grad()
    def load_state_dict(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, int]) -> None:
        """Continue from what `state_dict` gave.

        Args:
            tensors: on any device.
            numbers: the plain numbers; further keys are left to others.

        Raises:
            YoloflowError: a tensor is missing, unexpected or of another shape.
        """
        own = self._live_tensors()
        unfinished = self._reducer.own_part(tensors, "unfinished.")
        gradients = {f"gradient.{name}": weight for name, weight in self._named_trained().items()}
        require_same_names(own, {n: t for n, t in tensors.items() if not n.startswith("unfinished.")})
        given = {name: tensor for name, tensor in unfinished.items() if name.startswith("gradient.")}
        require_same_names({name: gradients[name] for name in given if name in gradients}, given)
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
        for name, gradient in given.items():
            gradients[name].grad = torch.empty_like(gradients[name]).copy_(gradient)
        self.updates, self._micro_batches = numbers["updates"], numbers["micro_batches"]
        self._statistics.load_state_dict(unfinished)

    def _unfinished_tensors(self) -> dict[str, Tensor]:
        """What this device has of an unfinished update."""
        gradients = {
            f"gradient.{name}": parameter.grad
            for name, parameter in self._named_trained().items()
            if parameter.grad is not None
        }
        return gradients | self._statistics.state_dict()

    def _live_tensors(self) -> dict[str, Tensor]:
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        if self.ema is not None:
            tensors |= {f"ema.{name}": tensor for name, tensor in self.ema.state_dict().items()}
        for name, parameter in self._named_trained().items():
            for key, tensor in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{name}.{key}"] = tensor
        tensors |= {f"hold.{name}": tensor for name, tensor in self.hold.state_dict().items()}
        tensors["skipped_updates"] = self.skipped_updates
        return tensors | {f"scaler.{name}": tensor for name, tensor in self.scaler.state_dict().items()}


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
    """The train step of the flow.

    Args:
        network: on its device; it is converted in place where `settings.channels_last` is set.
        loss_fn: (outputs, labels, images) -> loss, loss items.
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
        YoloflowError: torch has no such `jit_backend` here.
    """
    settings = settings or StepSettings()
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
