"""The loss of the validation set."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from yoloflow import create_loss, create_model, load_config
from yoloflow.data.digits import SceneRecipe, digits_dataset
from yoloflow.data.settings import DataSettings
from yoloflow.evaluate import evaluate_run
from yoloflow.evaluation.create import _with_masks
from yoloflow.evaluation.validation_loss import ValidationLoss
from yoloflow.flow import train
from yoloflow.models.precision import Precision
from yoloflow.report.metrics import curves_of, read_metrics
from yoloflow.structures import Batch
from yoloflow.weights.files import load_weights

SCENES = SceneRecipe(num_train=16, num_val=6, side=64, digits_per_scene=(1, 2), digit_side=(16.0, 32.0))
# One of each kind of head and loss.
RECIPES = ["yolov5n", "yolov7-tiny", "yolov8n", "yolov9t", "yolov10n", "yolox-nano"]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    cache = tmp_path_factory.mktemp("scenes")
    return [f"data.{part}_set={digits_dataset(part, SCENES, cache)}" for part in ("train", "val")]


def a_batch(images: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.full((images, 4, 6), -1.0)
    labels[:, :, 0] = torch.arange(images)[:, None]
    labels[:, :2, 1] = torch.randint(0, 10, (images, 2), generator=generator).float()
    labels[:, :2, 2:] = torch.rand(images, 2, 4, generator=generator) * 0.4 + 0.1
    pixels = torch.randint(0, 256, (images, 3, 64, 64), dtype=torch.uint8, generator=generator)
    zeros = torch.zeros(images, 2)
    return Batch(pixels, labels, torch.arange(images), zeros + 64, zeros + 1, zeros)


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_is_the_mean_over_images_of_the_losses_with_running_statistics(recipe: str) -> None:
    torch.manual_seed(0)
    config = load_config(recipe, ["network.width_multiple=0.125", "data.nc=10", "data.train_set=none"])
    network = create_model(config.network.model_name, config.network_table(), 10)
    loss_fn = create_loss(config.loss, anchors=config.network.anchors, stride=network.stride, nc=10)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    batches = [a_batch(3, 0), a_batch(1, 1)]

    loss = ValidationLoss(network, loss_fn, Precision("cpu"))
    with torch.inference_mode():
        assert [len(batch.images) for batch in loss.watching(batches)] == [3, 1]
    found = loss.means()

    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    with torch.no_grad():
        items = [loss_fn(network(batch.images), batch.labels, batch.images)[1] for batch in batches]
    expected = (3 * items[0] + items[1]) / 4
    assert list(found) == loss_fn.loss_item_name
    torch.testing.assert_close(torch.tensor(list(found.values())), expected)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training


@pytest.mark.training
def test_a_training_shows_it_in_every_place(sets: list[str], tmp_path: Path) -> None:
    tiny = ["img_size=64", "per_batch_size=4", "network.width_multiple=0.125", "epochs=2", "val_loss=true"]
    tiny += ["data.num_parallel_workers=0", "run_eval_interval=1", f"save_dir={tmp_path}", "name=run"]
    summary = train(load_config("quickstart", [*sets, *tiny]))
    curves = curves_of(read_metrics(tmp_path / "run" / "metrics.jsonl"))
    assert list(curves.val_losses) == ["loss", "lbox", "lcls", "dfl"] == list(curves.losses)
    assert len(curves.val_losses["loss"]) == 2
    assert summary["val_losses"]["loss"] == curves.val_losses["loss"][-1]
    best = evaluate_run(str(tmp_path / "run")).losses
    assert [pytest.approx(best["loss"])] == [
        curves.val_losses["loss"][summary["best"]["epoch"] - 1]
    ]  # the run's settings hold val_loss
    assert '"losses":{"loss":[' in (tmp_path / "run" / "report.html").read_text().replace(" ", "")


@pytest.mark.training
def test_without_it_nothing_is_computed_and_weights_are_the_same(sets: list[str], tmp_path: Path) -> None:
    tiny = ["img_size=64", "per_batch_size=4", "network.width_multiple=0.125", "epochs=1", "report=false"]
    tiny += ["data.num_parallel_workers=0", f"save_dir={tmp_path}"]
    assert "val_losses" not in train(load_config("quickstart", [*sets, *tiny, "name=without"]))
    train(load_config("quickstart", [*sets, *tiny, "name=with", "val_loss=true"]))
    one, other = (tmp_path / name / "weights" / "last_ema.safetensors" for name in ("without", "with"))
    assert load_weights(one).keys() == load_weights(other).keys()
    assert all(torch.equal(value, load_weights(other)[name]) for name, value in load_weights(one).items())


@pytest.mark.training
def test_masks_of_the_validation_set_are_drawn_for_it(tmp_path: Path) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels"
    for number in range(4):
        path = labels / f"{number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("0 0.2 0.2 0.7 0.2 0.7 0.8 0.2 0.8\n")
        images.mkdir(exist_ok=True)
        cv2.imwrite(str(images / f"{number}.png"), np.full((64, 64, 3), 40 * number, np.uint8))
    truth = images
    tiny = [
        "data.names=[square]",
        f"data.train_set={truth}",
        f"data.val_set={truth}",
        "img_size=64",
        "network.width_multiple=0.125",
    ]
    tiny += ["per_batch_size=2", "data.num_parallel_workers=0", "epochs=1", "report=false"]
    summary = train(load_config("yolov8n-seg", [*tiny, f"save_dir={tmp_path}", "name=run", "val_loss=true"]))
    assert summary["val_losses"]["lseg"] > 0


def test_a_training_without_transforms_is_evaluated_too() -> None:
    data = DataSettings()
    assert data.trans_list == [[]]
    for loss_fn in (None, create_loss("YOLOv8SegLoss", stride=[8, 16, 32], nc=2)):
        assert _with_masks(data, loss_fn) == data
