"""The plan of the evaluations during a training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from yoloflow.callbacks.base import BaseCallback
from yoloflow.structures import YoloflowError


class EvalWhileTrain(BaseCallback):
    """States after which epochs the training loop evaluates, and how many of the best weights it keeps.

    Epochs are counted from 1 here, as in recipes. An epoch is evaluated when it is listed in
    `isolated_epochs`, when it is the last one and `eval_last_epoch` is set, or when the interval of its
    piece divides it. Piece k has `stage_intervals[k]`; it runs up to epoch `stage_epochs[k]`'s running sum
    or, where no lengths are given, it is stage k of the training. What comes after the last piece keeps its
    interval.
    """

    def __init__(
        self,
        stage_epochs: Sequence[int] = (),
        stage_intervals: Sequence[int] = (1,),
        eval_last_epoch: bool = True,
        isolated_epochs: int | Sequence[int] = (),
        keep_top_k: int = 0,
    ) -> None:
        """States the plan.

        Args:
            stage_epochs: lengths of the pieces in epochs; empty: they are the stages of the training.
            stage_intervals: epochs between evaluations in each piece; 0 for none in that piece.
            eval_last_epoch: always evaluate the last epoch.
            isolated_epochs: a further epoch to evaluate, or several.
            keep_top_k: keep this many best weights files beside `best` (0: only `best`).

        Raises:
            YoloflowError: the two lists do not fit together.
        """
        if stage_epochs and len(stage_epochs) != len(stage_intervals):
            raise YoloflowError(
                f"EvalWhileTrain: stage_epochs has {len(stage_epochs)} pieces and stage_intervals "
                f"{len(stage_intervals)}; give one interval for each piece"
            )
        if not stage_intervals or any(interval < 0 for interval in stage_intervals):
            raise YoloflowError(
                "EvalWhileTrain: stage_intervals are one number of epochs or more, each 0 or more"
            )
        self.stage_epochs = list(stage_epochs)
        self.stage_intervals = list(stage_intervals)
        self.eval_last_epoch = eval_last_epoch
        self.isolated_epochs = {isolated_epochs} if isinstance(isolated_epochs, int) else set(isolated_epochs)
        self.keep_top_k = keep_top_k

    def is_due(self, epoch: int, epochs: int, stage: int = 0) -> bool:
        """Returns whether epoch `epoch` (1-based) of `epochs`, in stage `stage` (0-based), is evaluated."""
        if epoch in self.isolated_epochs or (self.eval_last_epoch and epoch == epochs):
            return True
        ends = accumulate(self.stage_epochs)
        piece = sum(epoch > end for end in ends) if self.stage_epochs else stage
        interval = self.stage_intervals[min(piece, len(self.stage_intervals) - 1)]
        return interval > 0 and epoch % interval == 0
