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
    piece divides it. Piece k has `stage_intervals[k]`. Where `stage_epochs` gives lengths, piece k is so many
    epochs long, its interval counts from its first one, and `eval_last_epoch` evaluates the last one of each
    piece too. Else it is stage k of the training. What comes after the last piece keeps its interval.
    """

    def __init__(
        self,
        stage_epochs: int | Sequence[int] = (),
        stage_intervals: int | Sequence[int] = 1,
        eval_last_epoch: bool = True,
        isolated_epochs: int | Sequence[int] | None = None,
        keep_top_k: int = 0,
        keep_checkpoint_max: int | None = None,
    ) -> None:
        """States the plan.

        Args:
            stage_epochs: lengths of the pieces in epochs, a number for one piece; empty: they are the stages
                of the training.
            stage_intervals: epochs between evaluations in each piece, a number for one piece; 0 for none in
                that piece.
            eval_last_epoch: always evaluate the last epoch.
            isolated_epochs: a further epoch to evaluate, or several.
            keep_top_k: keep this many best weights files beside `best` (0: only `best`).
            keep_checkpoint_max: MindYOLO's name of `keep_top_k`.

        Raises:
            YoloflowError: the two lists do not fit together, or a number is out of range.
        """
        lengths = [stage_epochs] if isinstance(stage_epochs, int) else list(stage_epochs)
        intervals = [stage_intervals] if isinstance(stage_intervals, int) else list(stage_intervals)
        if lengths and len(lengths) != len(intervals):
            raise YoloflowError(
                f"EvalWhileTrain: stage_epochs has {len(lengths)} pieces and stage_intervals "
                f"{len(intervals)}; give one interval for each piece"
            )
        if any(length < 1 for length in lengths):
            raise YoloflowError("EvalWhileTrain: stage_epochs are numbers of epochs, each 1 or more")
        if not intervals or any(interval < 0 for interval in intervals):
            raise YoloflowError(
                "EvalWhileTrain: stage_intervals are one number of epochs or more, each 0 or more"
            )
        if keep_checkpoint_max is not None and keep_top_k:
            raise YoloflowError("EvalWhileTrain: keep_top_k and keep_checkpoint_max are the same; give one")
        isolated = () if isolated_epochs is None else isolated_epochs
        self.stage_epochs = lengths
        self.stage_intervals = intervals
        self.eval_last_epoch = eval_last_epoch
        self.isolated_epochs = {isolated} if isinstance(isolated, int) else set(isolated)
        self.keep_top_k = keep_top_k if keep_checkpoint_max is None else keep_checkpoint_max

    def is_due(self, epoch: int, epochs: int, stage: int = 0) -> bool:
        """Returns whether epoch `epoch` (1-based) of `epochs`, in stage `stage` (0-based), is evaluated."""
        ends = [end for end in accumulate(self.stage_epochs) if end < epochs]
        if epoch in self.isolated_epochs or (self.eval_last_epoch and epoch in (epochs, *ends)):
            return True
        piece = sum(epoch > end for end in ends) if self.stage_epochs else stage
        piece = min(piece, len(self.stage_intervals) - 1)
        begin = ends[piece - 1] if piece and ends else 0
        interval = self.stage_intervals[piece]
        return interval > 0 and (epoch - begin) % interval == 0
