"""One line of the table of families names a head and a loss."""

import subprocess
import sys

import pytest

from yoloflow.families import FAMILIES, Family, load_part, part_names
from yoloflow.losses import Loss, create_loss
from yoloflow.models.catalogue import LAYERS, find_layer, layer_names
from yoloflow.models.layers.contract import Head
from yoloflow.structures import YoloflowError


@pytest.mark.parametrize("name", part_names("Head"))
def test_a_head_is_found_by_its_name(name: str) -> None:
    assert issubclass(load_part("Head", name), Head)


@pytest.mark.parametrize("name", part_names("Loss"))
def test_a_loss_is_found_by_its_name(name: str) -> None:
    assert issubclass(load_part("Loss", name), Loss)


def test_heads_and_layers_are_named_by_one_table_each() -> None:
    assert layer_names() == [*LAYERS, *part_names("Head")]
    assert len(set(layer_names())) == len(layer_names())
    assert not any(isinstance(layer, Head) for layer in LAYERS.values())
    assert find_layer("YOLOv11Head").__name__ == "YOLOv11Head"


def test_a_family_may_have_a_loss_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "Other", Family(loss="yolox:YOLOXLoss"))
    assert "OtherHead" not in part_names("Head")
    assert create_loss("OtherLoss", stride=[8], nc=1).loss_item_name[-1] == "lboxl1"
    with pytest.raises(YoloflowError, match="loss.name=OthrLoss: no such loss; did you mean OtherLoss"):
        create_loss("OthrLoss", stride=[8], nc=1)


def test_the_table_names_its_parts_without_importing_them() -> None:
    code = "import sys, yoloflow.families as f; f.part_names('Loss'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
