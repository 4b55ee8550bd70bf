"""How planned stage lengths are fitted to the number of epochs that is really trained."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from yoloflow.structures import YoloflowError

logger = logging.getLogger("yoloflow")


def fit_stages(stage_epochs: Sequence[int], num_epochs: int) -> list[int]:
    """Stage lengths that add up to `num_epochs`.

    The rule: **late stages keep their length, the first takes up the difference**; the last stage is where
    mosaic is off and is planned in absolute epochs, whatever the length of the run. One stage becomes
    `[num_epochs]`, two become `[num_epochs - last, last]`, both as in MindYOLO. With more than two the
    middle stages keep their length too (MindYOLO drops them). Where the first stage would fall below one
    epoch it keeps one, and the second gives up the rest, then the third, and so on: every stage keeps at
    least one epoch. Only when there are fewer epochs than stages do stages vanish: the first `num_epochs`
    of them get one epoch each, and a warning names the others.

    Args:
        stage_epochs: planned epochs of each stage, at least 1 each.
        num_epochs: epochs to train, at least 1.

    Returns:
        one length for each stage; 0 for a stage that vanished.

    Raises:
        YoloflowError: no stage, or a length below 1.
    """
    if not stage_epochs or min(stage_epochs) < 1:
        raise YoloflowError(
            f"stage_epochs={list(stage_epochs)}: give at least one stage, of at least 1 epoch each"
        )
    if num_epochs < 1:
        raise YoloflowError(f"epochs={num_epochs}: train at least 1 epoch")
    fitted = list(stage_epochs)
    if num_epochs < len(fitted):
        gone = ", ".join(str(number) for number in range(num_epochs + 1, len(fitted) + 1))
        logger.warning(
            "epochs=%d is fewer than the %d stages of the recipe: stage %s will not be trained",
            num_epochs,
            len(fitted),
            gone,
        )
        return [1] * num_epochs + [0] * (len(fitted) - num_epochs)
    missing = num_epochs - sum(fitted)
    if missing >= 0:
        fitted[0] += missing
        return fitted
    for stage, planned in enumerate(fitted):
        fitted[stage] = max(1, planned + missing)
        missing += planned - fitted[stage]
    return fitted
