"""Refusal of arguments that nothing here can follow."""

from __future__ import annotations

from yoloflow.structures import YoloflowError


def refuse(is_refused: bool, argument: str, reason: str) -> None:
    """Refuses an argument.

    Args:
        is_refused: nothing happens where this is false.
        argument: as written, such as "pad=0.5".
        reason: says why, and what to do instead.

    Raises:
        YoloflowError: `is_refused`.
    """
    if is_refused:
        raise YoloflowError(f"{argument}: {reason}")


def refuse_other_task(task: str, has_masks: bool, owner: str) -> None:
    """Refuse a task that is not the one that a part was made for.

    Args:
        task: "detect" or "segment".
        has_masks: whether the part segments.
        owner: the part, for the message.

    Raises:
        YoloflowError: it is another one.
    """
    known = "segment" if has_masks else "detect"
    refuse(task != known, f"task={task}", f"{owner} is made for {known}")


def refuse_difference(argument: str, given: object, known: object, source: str) -> None:
    """Refuses an argument that says something else than what was made before it.

    Args:
        argument: its name.
        given: its value.
        known: the value that is in force.
        source: where that was stated.

    Raises:
        YoloflowError: they differ.
    """
    refuse(given != known, f"{argument}={given!r}", f"{source} has {known!r}; both must be the same")
