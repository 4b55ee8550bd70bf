"""The watch over a training: stops it, or speaks up once, when a number is not finite."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

from yoloflow.callbacks.base import RunContext
from yoloflow.files import write_atomically
from yoloflow.run.checkpoint import newest_step
from yoloflow.runtime.ranks import gather_over_ranks
from yoloflow.structures import Batch, YoloflowError
from yoloflow.train_step.non_finite import first_not_finite
from yoloflow.weights.files import save_weights

_NAMED = 4
"""Images of a batch that a message names; the report names all."""


class NonFiniteError(YoloflowError):
    """A loss, a gradient or a weight is not finite."""


class Batches(Protocol):
    """What the sentinel asks of a loader."""

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """All batches of the training from a step on."""
        ...

    def names_of(self, batch: Batch) -> list[str]:
        """The files of a batch's images."""
        ...


@dataclass(frozen=True, slots=True)
class Fault:
    """What was found on one device.

    Attributes:
        rank: the process.
        step: of the batch, from 1.
        order: of what is not finite, in the computation.
        what: is not finite.
        images: files of the batch.
        batch: file that the batch is kept in, images and labels as the train step takes them.
    """

    rank: int
    step: int
    order: int
    what: str
    images: list[str]
    batch: str


class NonFiniteGuard:
    """Holds back updates from the first faulty one on, and finds out what is wrong with it.

    Attributes:
        has_spoken: whether the training goes on after a fault; further ones are only skipped and counted.
    """

    def __init__(self, context: RunContext, loader: Batches) -> None:
        """Watch.

        Args:
            context: of the training.
            loader: where the batches of a faulty update are made again.
        """
        self._context, self._loader = context, loader
        self.has_spoken = False

    def is_all_well(self) -> bool:
        """Whether no update is held back (waits for the device)."""
        return self._context.train_step.hold.is_clear()

    def watch(self) -> None:
        """Hold back faulty updates from now on, unless one was met and it was decided to skip them."""
        self._context.train_step.hold.is_on = not self.has_spoken

    def skip(self) -> None:
        """Leave the examined update out and go on without holding any."""
        self.has_spoken = True
        self.watch()
        self._context.step = self._context.train_step.skip_update()

    def examine(self) -> NonFiniteError:
        """Go back to the begin of the held update, name what is wrong in it and keep its batch.

        All ranks must call. The context's step is the update's first afterwards.

        Raises:
            NonFiniteError: the weights themselves are not finite, and there is no way back.
        """
        context, train_step = self._context, self._context.train_step
        if (broken := int(train_step.hold.broken)) >= 0:
            raise self._broken_weights(broken)
        update = int(train_step.hold.update)
        context.step = train_step.rewind(update)
        self.check_weights()
        batches = self._batches_of(update)
        found = train_step.examine((batch.images, batch.labels) for batch in batches)
        fault = None
        if found is not None:
            number, order, what = found
            fault = self._keep(batches[number], context.step + number + 1, order, what)
        faults = [one for one in gather_over_ranks(fault) if one is not None]
        faults.sort(key=lambda one: (one.step, one.order))
        message = self._describe(update, faults)
        self._write_report(update, message, faults)
        return NonFiniteError(message)

    def check_weights(self) -> None:
        """Refuse weights that are not finite, before they are written (waits for the device).

        Raises:
            NonFiniteError: a weight is not finite.
        """
        context = self._context
        name = first_not_finite(context.train_step.network)
        if name is not None:
            raise NonFiniteError(
                f"after step {context.step}: weight {name} is not finite; {self._what_is_left()}"
            )

    def _broken_weights(self, update: int) -> NonFiniteError:
        """Name what an update has left in the weights, and keep its batches."""
        context, train_step = self._context, self._context.train_step
        batches = self._batches_of(update)
        context.step = (update + 1) * train_step.micro_batches_per_update
        first = context.step - len(batches) + 1
        name = first_not_finite(train_step.network)
        what = f"{'the norm of all weights' if name is None else f'weight {name}'} after update {update + 1}"
        mine = [self._keep(batch, step, 0, what) for step, batch in enumerate(batches, first)]
        faults = [one for part in gather_over_ranks(mine) for one in part]
        faults.sort(key=lambda one: (-one.step, one.rank))
        message = f"{self._tell(update, faults[0])}; {self._what_is_left()}"
        self._write_report(update, message, faults)
        return NonFiniteError(message)

    def _batches_of(self, update: int) -> list[Batch]:
        """The micro-batches of an update on this device, made again."""
        number = self._context.train_step.micro_batches_per_update
        return list(islice(self._loader.batches(update * number), number))

    def _what_is_left(self) -> str:
        """Where a training whose weights are lost can go on."""
        folder = self._context.run.weights
        step = newest_step(folder)
        advice = "best with a lower optimizer.lr_init, clip_grad=true or overflow_still_update=false"
        if step is None:
            return f"no state was written before: begin again, {advice}"
        return (
            f"the newest state in {folder} is that of step {step}: resume=auto goes on from there, {advice}"
        )

    def _write_report(self, update: int, message: str, faults: list[Fault]) -> None:
        if self._context.ranks.is_main:
            report = {"message": message, "update": update + 1, "found": [asdict(one) for one in faults]}
            path = self._report(update)
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, json.dumps(report, indent=1).encode())

    def _report(self, update: int) -> Path:
        return self._context.run.faults / f"update-{update + 1:08d}.json"

    def _keep(self, batch: Batch, step: int, order: int, what: str) -> Fault:
        context = self._context
        path = context.run.faults / f"step-{step:08d}-rank{context.ranks.rank}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_weights(path, {"images": batch.images, "labels": batch.labels, "indices": batch.indices})
        return Fault(context.ranks.rank, step, order, what, self._loader.names_of(batch), str(path))

    def _describe(self, update: int, faults: list[Fault]) -> str:
        context = self._context
        told = f"update {update + 1}: its gradient is not finite, though the parts of it are when repeated"
        if faults:
            told = self._tell(update, faults[0])
        return (
            f"{told}; loss scale {float(context.train_step.scaler.scale):g}. The state before it is "
            f"that of step {context.step}: resume=auto takes the step again, non_finite=skip leaves it out"
        )

    def _tell(self, update: int, fault: Fault) -> str:
        """Where a fault is, what is not finite, and in which images."""
        epoch, within = divmod(fault.step - 1, self._context.steps_per_epoch)
        place = f"step {fault.step} (step {within + 1} of epoch {epoch + 1}, rank {fault.rank})"
        images = ", ".join(fault.images[:_NAMED])
        if len(fault.images) > _NAMED:
            images += f" and {len(fault.images) - _NAMED} more, named in {self._report(update)}"
        return f"{place}: not finite: {fault.what}; images {images}; batch kept in {fault.batch}"
