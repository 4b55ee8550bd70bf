"""Properties of every loss of every family in both variants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from yoloflow.families import part_names
from yoloflow.losses import Loss, create_loss, loss_faults
from yoloflow.losses.mindyolo import MINDYOLO_LOSSES

STRIDE, CLASSES, SIZE_HW = [8, 16, 32], 3, (64, 96)
LEVELS_HW = [(SIZE_HW[0] // stride, SIZE_HW[1] // stride) for stride in STRIDE]
MASKS_HW = (SIZE_HW[0] // 4, SIZE_HW[1] // 4)
LEVELS_OF_ANCHORS = [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]]
PAIRS_OF_ANCHORS = [level[place : place + 2] for level in LEVELS_OF_ANCHORS for place in (0, 2, 4)]
LOSSES = part_names("Loss")
VARIANTS = ["published", "mindyolo"]


def loss_of(name: str, variant: str) -> Loss:
    anchors: Any = 1
    if name == "YOLOv4Loss":
        anchors = PAIRS_OF_ANCHORS
    elif name in ("YOLOv3Loss", "YOLOv5Loss", "YOLOv7Loss", "YOLOv7AuxLoss"):
        anchors = LEVELS_OF_ANCHORS
    return create_loss(name, anchors=anchors, stride=STRIDE, nc=CLASSES, variant=variant)


def outputs_of(name: str, device: str = "cpu") -> Any:
    """Raw outputs of two images in the form that a loss takes."""

    def table(*shape: int) -> Tensor:
        return torch.ones(2, *shape, device=device)

    if name == "YOLOXLoss":
        return table(sum(height * width for height, width in LEVELS_HW), 5 + CLASSES)
    if name == "YOLOv4Loss":
        return [(table(*size, 3, 5 + CLASSES), table(*size, 3, 2), table(*size, 3, 2)) for size in LEVELS_HW]
    if name in ("YOLOv3Loss", "YOLOv5Loss", "YOLOv7Loss", "YOLOv7AuxLoss"):
        repeats = 2 if name == "YOLOv7AuxLoss" else 1
        return [table(3, *size, 5 + CLASSES) for size in LEVELS_HW * repeats]
    levels = [table(64 + CLASSES, *size) for size in LEVELS_HW]
    if name == "YOLOv8SegLoss":
        cells = sum(height * width for height, width in LEVELS_HW)
        return levels, table(32, cells), table(32, *MASKS_HW)
    return [levels, levels] if name in ("YOLOv9Loss", "YOLOv10Loss") else levels


def masks_for(loss_fn: Loss) -> list[Tensor]:
    """The masks of two images, covered by their first object, for losses that take masks."""
    return [torch.ones(2, *MASKS_HW, dtype=torch.uint8)] if loss_fn.takes_masks else []


READING = {"item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__"}
COPYING = {"tensor", "as_tensor", "new_tensor", "from_numpy"}
CHANGING = {"nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "equal"}


class NoReading(TorchFunctionMode):
    """Refuses what brings a value to the host or from it, or gives a shape that depends on values."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        assert name not in READING | CHANGING | COPYING, name
        if name == "__getitem__":
            parts = args[1] if isinstance(args[1], tuple) else (args[1],)
            assert not any(isinstance(part, Tensor) and part.dtype == torch.bool for part in parts)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", LOSSES)
def test_shapes_are_fixed_and_no_value_is_read_on_the_host(name: str, variant: str) -> None:
    # On a device that is not there: on a CPU reading costs nothing, and a loss may do it.
    with FakeTensorMode(), torch.device("cuda"):
        loss_fn, outputs = loss_of(name, variant), outputs_of(name, "cuda")
        labels, images = torch.rand(2, 7, 6) - 0.2, torch.zeros(2, 3, *SIZE_HW)
        masks = masks_for(loss_fn)
        with NoReading():
            loss, items = loss_fn(outputs, labels, images, *masks)
    assert loss.shape == ()
    assert items.shape == (len(loss_fn.loss_item_name),)


@pytest.mark.parametrize(
    "read", [lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: bool(x.any()), torch.nonzero]
)
def test_what_reads_a_value_is_found(read: Callable[[Tensor], object]) -> None:
    with NoReading(), pytest.raises(AssertionError):
        read(torch.ones(3))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", LOSSES)
def test_the_first_item_is_the_total_and_the_reduction_tells_how_batches_add_up(
    name: str, variant: str
) -> None:
    labels = torch.tensor([[[0, 1, 0.5, 0.5, 0.4, 0.6]], [[1, 2, 0.3, 0.6, 0.2, 0.3]]])
    images, loss_fn = torch.zeros(2, 3, *SIZE_HW), loss_of(name, variant)
    loss, items = loss_fn(outputs_of(name), labels, images, *masks_for(loss_fn))
    torch.testing.assert_close(items[0], items[1:].sum())
    factor = {"YOLOXLoss": 1.0, "YOLOv4Loss": 1 / 8 if variant == "mindyolo" else 1.0}.get(name, 2.0)
    torch.testing.assert_close(loss, items[0] * factor)
    is_mean = name in ("YOLOXLoss", "YOLOv4Loss") and variant == "published"
    assert loss_fn.reduction == ("mean" if is_mean else "sum")


@pytest.mark.parametrize("name", LOSSES)
def test_every_hyper_parameter_has_a_default_and_a_description(name: str) -> None:
    for key, field in loss_of(name, "published").settings_class.model_fields.items():
        assert not field.is_required(), key
        assert field.description, key


def test_the_reference_s_losses_are_the_published_ones_with_deviations() -> None:
    for published, deviating in MINDYOLO_LOSSES.items():
        assert issubclass(deviating, published)
        assert deviating is not published
        assert deviating.settings_class is published.settings_class


@pytest.mark.parametrize(("variant", "factor"), [("published", 10.0), ("mindyolo", 1.0)])
def test_yolov9_s_gains_are_fixed_in_the_reference(variant: str, factor: float) -> None:
    arguments = outputs_of("YOLOv9Loss"), torch.zeros(2, 0, 6), torch.zeros(2, 3, *SIZE_HW)
    usual, other = (
        create_loss("YOLOv9Loss", stride=STRIDE, nc=CLASSES, variant=variant, cls=cls)(*arguments)[0]
        for cls in (0.5, 5.0)
    )
    torch.testing.assert_close(other, usual * factor)


def test_faults_of_hyper_parameters_are_told_by_their_keys() -> None:
    assert loss_faults("YOLOv8Loss", {"box": 5, "cls": "much", "dfll": 1.0}) == {
        "cls": "should be a valid number, not 'much'",
        "dfll": "YOLOv8Loss has no such hyper-parameter; did you mean dfl?",
    }
