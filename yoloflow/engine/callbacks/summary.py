"""TensorBoard scalars."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yoloflow.engine.callbacks.base import BaseCallback, RunContext
from yoloflow.engine.callbacks.metrics_file import step_record
from yoloflow.structures import YoloflowError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class SummaryCallback(BaseCallback):
    """Losses, rates and AP as TensorBoard scalars in `<run>/tensorboard`, by step over all epochs."""

    def __init__(self) -> None:
        """Check that TensorBoard is there.

        Raises:
            YoloflowError: the package is not installed.
        """
        try:
            import tensorboard  # noqa: F401
        except ImportError as error:
            raise YoloflowError(
                "SummaryCallback needs TensorBoard: pip install 'yoloflow[tensorboard]', or set summary=false"
            ) from error
        self._writer: SummaryWriter | None = None

    def on_train_begin(self, context: RunContext) -> None:
        """Open the file; events after a resumed step are purged."""
        if context.ranks.is_main:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(context.run.path / "tensorboard"), purge_step=context.step + 1)

    def on_step_end(self, context: RunContext) -> None:
        """Losses, learning rates, momentum, speed."""
        if self._writer is None or not context.is_log_step:
            return
        record = step_record(context)
        for name in context.loss_item_names:
            self._writer.add_scalar(f"loss/{name}", record[name], context.step)
        for number, rate in enumerate(record["lr"]):
            self._writer.add_scalar(f"lr/group{number}", rate, context.step)
        self._writer.add_scalar("momentum", record["momentum"], context.step)
        self._writer.add_scalar("images_per_second", record["images_per_second"], context.step)

    def on_evaluation(self, context: RunContext) -> None:
        """AP and AP50."""
        if self._writer is None or context.evaluation is None:
            return
        self._writer.add_scalar("val/map", context.evaluation.map, context.step)
        self._writer.add_scalar("val/map50", context.evaluation.map50, context.step)
        self._writer.flush()

    def on_train_end(self, context: RunContext) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()

    def on_exception(self, context: RunContext) -> None:
        """Close the file."""
        self.on_train_end(context)
