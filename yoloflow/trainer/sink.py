"""The length of a data sink."""

from __future__ import annotations

from yoloflow.data.concat_loader import ConcatLoader
from yoloflow.trainer.settings import TrainerSettings


def is_log_step(step: int, steps_per_epoch: int, settings: TrainerSettings) -> bool:
    """Returns whether the losses of a step (from 1) are reported, as those of an epoch's last step are."""
    return step % settings.log_interval == 0 or step % steps_per_epoch == 0


def steps_until_look(step: int, sink_size: int, loader: ConcatLoader, settings: TrainerSettings) -> int:
    """Returns how many steps are taken before the host looks at the device.

    Args:
        step: steps taken so far.
        sink_size: the limit.
        loader: an end of its stages or epochs ends the sink too.
        settings: so do logged steps and states to save.
    """
    intervals = [loader.steps_per_epoch, settings.log_interval, settings.save_steps]
    end = min(step + sink_size, *(step - step % every + every for every in intervals if every))
    stage = loader.stage_of(step)
    changes = (later for later in range(step + 1, end) if loader.stage_of(later) != stage)
    return next(changes, end) - step
