from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.toy_training import ToyLoader, toy_step
from yoloflow import load_config, train
from yoloflow.callbacks import RunContext
from yoloflow.data.digits import SceneRecipe, digits_dataset
from yoloflow.losses import create_loss
from yoloflow.models import create_model
from yoloflow.run.folder import RunFolder
from yoloflow.runtime.ranks import Ranks
from yoloflow.structures import YoloflowError
from yoloflow.trainer.guards.assignment import AssignmentGuard
from yoloflow.weights.files import save_weights

# Narrower than any cell, and longer than four times any anchor. YOLOv4 and YOLOX give each object an output
# all the same: theirs cannot run out of objects.
UNASSIGNABLE = torch.tensor([[[0.0, 0.0, 0.5, 0.5, 0.001, 0.999]]])
PLAIN = torch.tensor([[[0.0, 0.0, 0.5, 0.5, 0.4, 0.4]]])


def look(
    guard: AssignmentGuard, context: RunContext, box_loss: float, times: int, objects: bool = True
) -> None:
    batch = ToyLoader().batch(context.step)
    batch.labels[..., 1] = 0.0 if objects else -1.0
    context.batch, context.loss_items = batch, torch.tensor([1.0, box_loss])
    for _ in range(times):
        guard.after_steps()


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    return RunContext(RunFolder(tmp_path, False), Ranks(), toy_step(), None, ["a"], ["loss", "lbox"])


def test_a_row_of_batches_without_an_assigned_object_stops_the_training(context: RunContext) -> None:
    guard = AssignmentGuard(context, limit=20)
    look(guard, context, 0.0, times=19)
    with pytest.raises(YoloflowError, match="at 20 looks in a row .* assigned none .* optimizer.lr_init"):
        look(guard, context, 0.0, times=1)


def test_an_assigned_object_begins_the_row_anew_and_batches_without_objects_do_not_count(
    context: RunContext,
) -> None:
    guard = AssignmentGuard(context, limit=20)
    look(guard, context, 0.0, times=19)
    look(guard, context, 0.5, times=1)
    look(guard, context, 0.0, times=19)
    look(guard, context, 0.0, times=31, objects=False)


@pytest.mark.parametrize("recipe", ["yolov3", "yolov5n", "yolov7-tiny", "yolov8n", "yolov9t"])
def test_the_box_loss_is_exactly_zero_without_an_assigned_object_and_only_then(recipe: str) -> None:
    config = load_config(recipe, ["network.width_multiple=0.125"])
    torch.manual_seed(0)
    network = create_model(config.network.model_name, config.network_table(), 2)
    loss = create_loss(config.loss, anchors=config.network.anchors, stride=network.stride, nc=2)
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)

    def box_loss(labels: Tensor) -> float:
        items = loss(network(images.repeat(2, 1, 1, 1)), labels.repeat(2, 1, 1), images)[1]
        return float(items[loss.loss_item_name.index("lbox")])

    assert box_loss(UNASSIGNABLE) == 0.0
    assert box_loss(PLAIN) > 0.0


@pytest.mark.training
def test_a_network_whose_scores_are_all_zero_is_stopped_with_the_rate_in_the_message(tmp_path: Path) -> None:
    scenes = SceneRecipe(num_train=16, num_val=2, side=64, digits_per_scene=(1, 2), digit_side=(16.0, 32.0))
    settings = [
        f"data.train_set={digits_dataset('train', scenes, tmp_path / 'scenes')}",
        *("run_eval=false", "network.width_multiple=0.125", "img_size=64", "per_batch_size=2", "epochs=4"),
        *("data.num_parallel_workers=0", "data.cache=none", "report=false", "device=cpu", "threads=1"),
        *("max_unassigned=10", f"save_dir={tmp_path}", f"weight={tmp_path / 'collapsed.safetensors'}"),
    ]
    config = load_config("yolov8n-small-data", settings)
    network = create_model(config.network.model_name, config.network_table(), 10)
    state = network.state_dict()
    # The state that a too high rate led to: class biases of -139 and more, every score underflows.
    collapsed = {
        name: torch.full_like(tensor, -200.0)
        if "class_branches" in name and name.endswith("2.bias")
        else tensor
        for name, tensor in state.items()
    }
    assert any((collapsed[name] != state[name]).any() for name in state)
    save_weights(tmp_path / "collapsed.safetensors", collapsed)
    with pytest.raises(YoloflowError, match=r"step \d+: at 10 looks .* learning rate is too high \(now 0.0"):
        train(config)
