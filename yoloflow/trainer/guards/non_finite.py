"""The guard against numbers that are not finite."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from yoloflow.callbacks.base import RunContext
from yoloflow.data.concat_loader import ConcatLoader
from yoloflow.files import write_atomically
from yoloflow.runtime.ranks import gather_over_ranks
from yoloflow.structures import Batch
from yoloflow.train_step.examination import examine, rewind, skip_update
from yoloflow.train_step.non_finite import NonFiniteError, first_not_finite
from yoloflow.trainer.guards.guard import Guard
from yoloflow.trainer.states import TrainingStates
from yoloflow.weights.files import save_weights

logger = logging.getLogger("yoloflow")

_NAMED = 4
"""Images of a batch that a message names; the report names all."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A number that is not finite on one device.

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


class NonFiniteGuard(Guard):
    """Stops a training before the first update that is not finite, or reports it once and skips it.

    The train step holds back updates from a faulty one on, so that the state is the one before it.
    """

    def __init__(
        self,
        context: RunContext,
        loader: ConcatLoader,
        states: TrainingStates,
        policy: Literal["stop", "skip"],
    ) -> None:
        """Takes the parts of the training; `loader` makes the batches of a faulty update again."""
        self._context, self._loader, self._states, self._policy = context, loader, states, policy

    @contextmanager
    def running(self) -> Iterator[None]:
        """Holds back faulty updates from now on, unless one was met before and is to be skipped."""
        self._context.train_step.non_finite.is_on = not self._states.skips_faults
        yield

    def after_steps(self) -> None:
        """Looks whether an update is held back (waits for the device), and stops or skips it.

        All ranks find the same. Where it is skipped, the context's step is the first after it.

        Raises:
            NonFiniteError: the policy is "stop", or the weights themselves are not finite.
        """
        context = self._context
        if context.train_step.non_finite.is_clear():
            return
        self._states.wait()  # the message names the newest state on the disk
        error = self._examine()
        if self._policy == "stop":
            self._states.save()
            raise error
        logger.warning("%s; the update is skipped, further ones are only counted", error)
        self._states.skips_faults = True
        context.train_step.non_finite.is_on = False
        context.step = skip_update(context.train_step)

    def _examine(self) -> NonFiniteError:
        """Goes back to the beginning of the held update, names what is wrong in it and keeps its batch."""
        context, train_step = self._context, self._context.train_step
        if (broken := int(train_step.non_finite.broken)) >= 0:
            raise self._broken_weights(broken)
        update = int(train_step.non_finite.update)
        context.step = rewind(train_step, update)
        self._states.check_weights()
        batches = self._batches_of(update)
        found = examine(train_step, ((batch.images, *batch.targets) for batch in batches))
        fault = None
        if found is not None:
            number, order, what = found
            fault = self._keep(batches[number], context.step + number + 1, order, what)
        faults = [one for one in gather_over_ranks(fault) if one is not None]
        faults.sort(key=lambda one: (one.step, one.order))
        message = self._describe(update, faults)
        self._write_report(update, message, faults)
        return NonFiniteError(message)

    def _broken_weights(self, update: int) -> NonFiniteError:
        """Names what an update has left in the weights, and keeps its batches."""
        context, train_step = self._context, self._context.train_step
        batches = self._batches_of(update)
        context.step = (update + 1) * train_step.micro_batches_per_update
        first = context.step - len(batches) + 1
        name = first_not_finite(train_step.network)
        what = f"{'the norm of all weights' if name is None else f'weight {name}'} after update {update + 1}"
        mine = [self._keep(batch, step, 0, what) for step, batch in enumerate(batches, first)]
        faults = [one for part in gather_over_ranks(mine) for one in part]
        faults.sort(key=lambda one: (-one.step, one.rank))
        message = f"{self._describe_fault(update, faults[0])}; {self._states.advice_to_go_on()}"
        self._write_report(update, message, faults)
        return NonFiniteError(message)

    def _batches_of(self, update: int) -> list[Batch]:
        """Makes the micro-batches of an update on this device again."""
        number = self._context.train_step.micro_batches_per_update
        return list(islice(self._loader.batches(update * number), number))

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
        tensors = {"images": batch.images, "labels": batch.labels, "indices": batch.indices}
        save_weights(path, tensors if batch.masks is None else {**tensors, "masks": batch.masks})
        return Fault(context.ranks.rank, step, order, what, self._loader.names_of(batch), str(path))

    def _describe(self, update: int, faults: list[Fault]) -> str:
        context = self._context
        fault = f"update {update + 1}: its gradient is not finite, though the parts of it are when repeated"
        if faults:
            fault = self._describe_fault(update, faults[0])
        return (
            f"{fault}; loss scale {float(context.train_step.scaler.scale):g}. The state before it is "
            f"that of step {context.step}: resume=auto takes the step again, non_finite=skip leaves it out"
        )

    def _describe_fault(self, update: int, fault: Fault) -> str:
        """Returns where a fault is, what is not finite, and in which images."""
        epoch, within = divmod(fault.step - 1, self._context.steps_per_epoch)
        place = f"step {fault.step} (step {within + 1} of epoch {epoch + 1}, rank {fault.rank})"
        images = ", ".join(fault.images[:_NAMED])
        if len(fault.images) > _NAMED:
            images += f" and {len(fault.images) - _NAMED} more, named in {self._report(update)}"
        return f"{place}: not finite: {fault.what}; images {images}; batch kept in {fault.batch}"
