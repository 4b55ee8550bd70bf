"""The guard against a training whose loss has no object left to learn from."""

from __future__ import annotations

import torch

from yoloflow.callbacks.base import RunContext
from yoloflow.runtime.ranks import sum_over_ranks
from yoloflow.structures import YoloflowError
from yoloflow.trainer.guards.guard import Guard

_LOOK_EVERY = 10
"""Looks at which the host waits for the device are as many calls apart."""


class AssignmentGuard(Guard):
    """Stops a training whose batches have objects, none of which the loss assigns to an output.

    Where every score has become 0, task-aligned losses assign nothing: all their items are exactly 0, and so
    is every gradient, for good. The item "lbox" is 0 then; with an assigned object it is above.
    """

    def __init__(self, context: RunContext, limit: int) -> None:
        """Takes the state of the training, and the calls in a row after which it stops."""
        self._context, self._limit = context, limit
        self._in_a_row = torch.zeros((), dtype=torch.int64, device=context.train_step.device)
        self._calls = 0

    def after_steps(self) -> None:
        """Counts on the device; every ten calls the host reads the count.

        Raises:
            YoloflowError: too many calls in a row had objects and none assigned, on all ranks.
        """
        context = self._context
        if "lbox" not in context.loss_item_names:
            return  # a loss of the user's own
        assert context.loss_items is not None
        assert context.batch is not None
        box_loss = context.loss_items[context.loss_item_names.index("lbox")]
        if (context.batch.labels[..., 1] >= 0).any():
            self._in_a_row = torch.where(box_loss == 0, self._in_a_row + 1, 0)
        self._calls += 1
        if self._calls % _LOOK_EVERY:
            return
        is_over = (self._in_a_row >= self._limit).float()
        if float(sum_over_ranks(is_over)) == context.ranks.world_size:
            raise YoloflowError(self._describe())

    def _describe(self) -> str:
        rate = max(group["lr"] for group in self._context.train_step.optimizer.param_groups)
        best = self._context.best
        kept = f"; the weights of epoch {best['epoch']} are kept as the best" if best else ""
        return (
            f"step {self._context.step}: at {self._limit} looks in a row the batch had objects, but the loss "
            f"assigned none of them to an output of the network, so nothing is learnt any more{kept}. Mostly "
            f"the learning rate is too high (now {rate:.3g}): begin again with a tenth of "
            "optimizer.lr_init, and a longer warm-up. Objects smaller than the network's cells are never "
            "assigned: then raise img_size. max_unassigned=null trains on all the same"
        )
