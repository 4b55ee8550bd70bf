"""The guide's loss and family are complete: their files and one line of a table each, and nothing else."""

import re
from pathlib import Path

import pytest
import torch

from yoloflow import create_loss, create_model, load_config, losses
from yoloflow.families import FAMILIES, ROOMS, Family
from yoloflow.losses.loss import Loss
from yoloflow.models import Network, heads

PAGE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text()
FILE = re.compile(r"^```\w+\n# (yoloflow/\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINE = re.compile(r'^# In the package: "(\w+)": Family\((.*)\),$', re.MULTILINE)
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([[[0, 2, 0.4, 0.6, 0.5, 0.3]], [[1, 0, 0.2, 0.3, 0.3, 0.2]]])


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds the guide's new files; the rooms' modules are found there too."""
    for name, text in FILE.findall(PAGE):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for room, folder in ((losses, "yoloflow/losses"), (heads, "yoloflow/models/heads")):
        monkeypatch.setattr(room, "__path__", [*room.__path__, str(tmp_path / folder)])
    return tmp_path


def written_line(family: str) -> Family:
    """The guide's line of a family, as it stands in the table."""
    (arguments,) = [arguments for name, arguments in LINE.findall(PAGE) if name == family]
    parts: dict[str, str] = {}
    for argument, keyword in zip(arguments.split(", "), ("head", "loss"), strict=False):
        key, _, value = argument.rpartition("=")
        parts[key or keyword] = value.strip('"')
    return Family(**parts)


def new_files(family: str) -> list[str]:
    return [name for name, _ in FILE.findall(PAGE) if family in name]


def trained(network: Network, loss_fn: Loss, steps: int) -> list[float]:
    """The losses of some steps on two images."""
    found = []
    for _ in range(steps):
        loss, items = loss_fn(network(IMAGES), LABELS, IMAGES)
        assert len(items) == len(loss_fn.loss_item_name)
        trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
        with torch.no_grad():
            for parameter, gradient in zip(trainable, torch.autograd.grad(loss, trainable), strict=True):
                parameter.sub_(0.01 * gradient)
        found.append(loss.item())
    return found


@pytest.mark.usefixtures("package")
def test_a_loss_is_one_file_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert new_files("small_logit") == ["yoloflow/losses/small_logit.py"]
    monkeypatch.setitem(FAMILIES, "SmallLogit", written_line("SmallLogit"))
    config = load_config("yolov8n", ["loss.name=SmallLogitLoss", "network.width_multiple=0.125"])
    network = create_model("yolov8", config.network_table(), num_classes=3)
    loss_fn = create_loss(config.loss, anchors=config.network.anchors, stride=network.stride, nc=3)
    assert loss_fn.loss_item_name[-1] == "logits"
    first, *_, last = trained(network, loss_fn, 3)
    assert last != first


def test_a_family_with_its_own_head_and_loss_is_three_files_and_one_line(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, loss, recipe = new_files("perch")
    assert head == f"{ROOMS['Head'].replace('.', '/')}/perch.py"
    assert loss == f"{ROOMS['Loss'].replace('.', '/')}/perch.py"
    assert recipe == "yoloflow/recipes/perch/perch.yaml"
    monkeypatch.setitem(FAMILIES, "Perch", written_line("Perch"))
    config = load_config(package / recipe)
    torch.manual_seed(0)
    network = create_model(config.network.model_name, config.network_table(), num_classes=3)
    loss_fn = create_loss(config.loss, anchors=config.network.anchors, stride=network.stride, nc=3)
    found = trained(network, loss_fn, 20)
    assert found[-1] < found[0] / 2
    boxes_and_scores = network.eval()(IMAGES)[0]
    assert boxes_and_scores.shape == (2, 8 * 8 + 4 * 4, 4 + 3)
