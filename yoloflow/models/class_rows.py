"""Weights of a network with other classes, made to fit: all that does not depend on the classes is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from yoloflow.models.layers.contract import Head


@dataclass(slots=True)
class ClassFit:
    """Weights that fit a network of other classes.

    Attributes:
        weights: all of the file's, those that depend on the classes made to fit.
        partly: names of tensors with rows of the file and new rows.
        anew: names of tensors that stay as the network had them: their widths follow the class count.
        kept_classes: names of the classes whose rows are the file's.
    """

    weights: dict[str, Tensor]
    partly: list[str] = field(default_factory=list)
    anew: list[str] = field(default_factory=list)
    kept_classes: list[str] = field(default_factory=list)


def fit_classes(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    file_names: Sequence[str] | None,
    names: Sequence[str] | None,
) -> ClassFit:
    """Makes the weights of the class outputs fit the classes of a network.

    Rows of boxes and of objectness stay, and those of classes that have the same name in both. Where names
    are not known, all rows stay if there are equally many classes, and none else. Rows that do not stay are
    the network's own.

    Args:
        network: with C classes and new weights; one without a head is left alone.
        weights: by the network's names.
        file_names: the classes of the weights; None where they are not known.
        names: the network's classes; None where they are not known.
    """
    fit = ClassFit(dict(weights))
    prefix, head = next(
        ((f"{name}.", layer) for name, layer in network.named_children() if isinstance(layer, Head)),
        ("", None),
    )
    if head is None:
        return fit
    pairs = _same_classes(file_names, names)
    if file_names is not None and names is not None:
        fit.kept_classes = [names[own] for _, own in pairs or []]
    outputs = head.class_tensors()
    parts = tuple(f"{part}." for part in head.class_parts)
    for name, own in head.state_dict().items():
        theirs = fit.weights.get(prefix + name)
        if theirs is None or not name.startswith(parts):
            continue
        if name in outputs:
            rows = _fit_rows(head, theirs, own, pairs)
        else:
            rows = theirs if theirs.shape == own.shape else None
        if rows is not theirs:
            fit.weights[prefix + name] = own if rows is None else rows
            (fit.anew if rows is None else fit.partly).append(prefix + name)
    return fit


def _same_classes(
    file_names: Sequence[str] | None, names: Sequence[str] | None
) -> list[tuple[int, int]] | None:
    """Returns (row of the file, row of the network) of each class of both; None where names are not known."""
    if file_names is None or names is None:
        return None
    places = {name.casefold(): place for place, name in enumerate(file_names)}
    return [(places[name.casefold()], own) for own, name in enumerate(names) if name.casefold() in places]


def _fit_rows(head: Head, theirs: Tensor, own: Tensor, pairs: list[tuple[int, int]] | None) -> Tensor | None:
    """Returns a tensor for the head's classes: the file's if it fits as it is, None if nothing of it does."""
    width, before = own.shape[0], head.rows_before_classes
    axis = 0
    if own.ndim == 4 and width == 1 and own.shape[1] % head.num_anchors == 0 and head.num_anchors > 1:
        axis = 1  # the factors of YOLOv7 are (1, rows, 1, 1)
    same_place = (
        theirs.ndim == own.ndim and theirs.movedim(axis, 0).shape[1:] == own.movedim(axis, 0).shape[1:]
    )
    their_rows = theirs.shape[axis] if theirs.ndim else 0
    if not same_place or their_rows % head.num_anchors or their_rows // head.num_anchors <= before:
        return None
    their_classes = their_rows // head.num_anchors - before
    own_classes = own.shape[axis] // head.num_anchors - before
    if pairs is None:
        if their_classes == own_classes:
            return theirs
        pairs = []
    elif their_classes == own_classes and pairs == [(row, row) for row in range(own_classes)]:
        return theirs
    target = own.detach().clone().movedim(axis, 0)
    source = theirs.to(target.dtype).movedim(axis, 0).unflatten(0, (head.num_anchors, -1))
    rows = target.unflatten(0, (head.num_anchors, -1))
    rows[:, :before] = source[:, :before]
    for their_class, own_class in pairs:
        if their_class < their_classes:
            rows[:, before + own_class] = source[:, before + their_class]
    return target.movedim(0, axis)
