"""The description's flow, in MindYOLO's words, is ours: the same weights, and no argument is ignored."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from yoloflow import load_config, mindyolo, train
from yoloflow.data.digits import SceneRecipe, digits_dataset
from yoloflow.evaluate import evaluate_run
from yoloflow.structures import YoloflowError
from yoloflow.weights.files import load_weights

EXAMPLE = Path(__file__).parents[2] / "examples" / "mindyolo_flow.py"
SCENES = SceneRecipe(num_train=16, num_val=4, side=32, digits_per_scene=(1, 2), digit_side=(12.0, 16.0))


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mindyolo_flow", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiny(folder: Path, name: str, *overrides: str) -> list[str]:
    return [
        *(f"data.{part}_set={digits_dataset(part, SCENES, folder / 'cache')}" for part in ("train", "val")),
        "data.num_parallel_workers=0",
        "network.width_multiple=0.125",
        "optimizer.min_warmup_step=2",
        "img_size=32",
        "per_batch_size=8",
        "epochs=2",
        "report=false",
        "device=cpu",
        f"save_dir={folder / 'runs'}",
        f"name={name}",
        *overrides,
    ]


@pytest.mark.training
@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        ("yolov8n", ("accumulate=2", "clip_grad=true", "keep_checkpoint_max=1")),
        ("yolox-nano", ("variant=mindyolo", "data.single_cls=true", "freeze=[stem.*]", "ema_decay=0.9")),
    ],
)
def test_both_ways_of_training_give_the_weights_of_our_flow(
    tmp_path: Path, recipe: str, overrides: tuple[str, ...]
) -> None:
    flow = example()
    train(load_config(recipe, tiny(tmp_path, "ours", *overrides)))
    flow.train(mindyolo.load_args(recipe, tiny(tmp_path, "steps", *overrides)))
    sink = tiny(tmp_path, "sink", *overrides, "ms_datasink=true")
    summary = flow.train(mindyolo.load_args(recipe, sink))
    for name in ("last", "last_ema"):
        ours, *others = (
            load_weights(tmp_path / "runs" / run / "weights" / f"{name}.safetensors")
            for run in ("ours", "steps", "sink")
        )
        for other in others:
            assert other.keys() == ours.keys()
            assert all(torch.equal(tensor, other[key]) for key, tensor in ours.items())
    assert evaluate_run(str(tmp_path / "runs" / "sink")).map == summary["best"]["map"]
    assert (tmp_path / "runs" / "steps" / "detections.json").is_file()


@pytest.fixture(scope="module")
def args(tmp_path_factory: pytest.TempPathFactory) -> mindyolo.Arguments:
    folder = tmp_path_factory.mktemp("flow")
    return mindyolo.load_args("yolov8n", tiny(folder, "run"))


@pytest.fixture(scope="module")
def parts(args: mindyolo.Arguments) -> dict[str, Any]:
    """The parts of steps 1 to 7, by their names in the description."""
    network = mindyolo.create_model(args.network.model_name, args.network, num_classes=args.data.nc)
    train_set = mindyolo.COCODataset(
        args.data.train_set, 32, args.data.train_transforms["trans_list"][0], True
    )
    val_set = mindyolo.COCODataset(args.data.val_set, 32, args.data.test_transforms)
    dataloader = mindyolo.create_loader(train_set, train_set.train_collate_fn, batch_size=8, epoch_size=2)
    eval_dataloader = mindyolo.create_loader(val_set, val_set.test_collate_fn, batch_size=4, shuffle=False)
    loss_fn = mindyolo.create_loss(**args.loss, stride=args.network.stride, nc=args.data.nc)
    section = {**args.optimizer, "steps_per_epoch": 2}
    params = mindyolo.create_group_param(network.trainable_params(), **section)
    optimizer = mindyolo.create_optimizer(params, lr=mindyolo.create_lr_scheduler(**section), **section)
    step: dict[str, Any] = {
        "network": network,
        "loss_fn": loss_fn,
        "optimizer": optimizer,
        "loss_ratio": 1,
        "scaler": mindyolo.get_loss_scaler(),
        "reducer": mindyolo.get_gradreducer(False, optimizer.parameters),
        "ema": None,
    }
    trainer: dict[str, Any] = {
        "model_name": "yolov8n",
        "train_step_fn": mindyolo.create_train_step_fn(**step),
        **{key: step[key] for key in ("scaler", "network", "loss_fn", "ema", "optimizer", "reducer")},
        "dataloader": dataloader,
        "steps_per_epoch": 2,
        "callback": [],
    }
    return {
        "network": network,
        "train_set": train_set,
        "loader": {"dataset": train_set, "batch_collate_fn": train_set.train_collate_fn, "batch_size": 8},
        "test": {"network": network, "dataloader": eval_dataloader, "conf_free": True, "num_class": 10},
        "section": section,
        "step": step,
        "trainer": trainer,
    }


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"in_channels": 4}, "in_channels=4: images have 3 channels"),
        ({"checkpoint_path": "nowhere.safetensors"}, "nowhere.safetensors"),
    ],
)
def test_step_1_refuses_what_it_cannot_follow(
    args: mindyolo.Arguments, arguments: dict[str, Any], reason: str
) -> None:
    with pytest.raises(YoloflowError, match=reason):
        mindyolo.create_model(args.network.model_name, args.network, num_classes=10, **arguments)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"pad": 0.5}, "pad=0.5"),
        ({"return_segments": True}, "return_segments=True: the row segment_poly2mask draws masks"),
        ({"nkpt": 17}, "nkpt=17"),
    ],
)
def test_the_data_set_refuses_what_it_cannot_follow(
    args: mindyolo.Arguments, arguments: dict[str, Any], reason: str
) -> None:
    with pytest.raises(YoloflowError, match=reason):
        mindyolo.COCODataset(args.data.train_set, 32, **arguments)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"batch_collate_fn": list}, "batch_collate_fn=list: worker processes collate as train_collate_fn"),
        ({"dataset_column_names": ["images"]}, "dataset_column_names"),
        ({"column_names_getitem": ["im_file"]}, "column_names_getitem"),
        ({"batch_size": 99}, "16 images, one step takes 99"),
        ({"rank": 2, "rank_size": 2}, "rank=2"),
    ],
)
def test_the_loader_refuses_what_it_cannot_follow(
    parts: dict[str, Any], arguments: dict[str, Any], reason: str
) -> None:
    with pytest.raises(YoloflowError, match=reason):
        mindyolo.create_loader(**{**parts["loader"], "drop_remainder": True, **arguments})


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"nesterof": True}, r"optimizer\.nesterof: unknown; did you mean nesterov"),
        ({"checkpoint_path": "optim.ckpt"}, r"checkpoint_path=optim\.ckpt"),
        ({"steps_per_epoch": None}, r"optimizer\.steps_per_epoch: is not set"),
        ({"lr": [0.1]}, "lr: has 1 rates, the training has 4 updates"),
    ],
)
def test_the_optimizer_refuses_what_it_cannot_follow(
    parts: dict[str, Any], arguments: dict[str, Any], reason: str
) -> None:
    with pytest.raises(YoloflowError, match=reason):
        mindyolo.create_optimizer(parts["network"].trainable_params(), **{**parts["section"], **arguments})


def test_parameters_are_grouped_by_their_layers_so_a_bare_list_is_refused(parts: dict[str, Any]) -> None:
    with pytest.raises(YoloflowError, match="params: give network.trainable_params"):
        mindyolo.create_group_param(list(parts["network"].parameters()), **parts["section"])  # type: ignore[arg-type]


def test_a_step_of_a_network_that_segments_takes_masks(tmp_path: Path) -> None:
    args = mindyolo.load_args("yolov8n-seg", tiny(tmp_path, "run"))
    rows = args.data.train_transforms["trans_list"][0]
    data = mindyolo.COCODataset(args.data.train_set, 32, rows, True, return_segments=True)
    assert data.column_names_collate == ["images", "labels", "masks"]
    batch = data.train_collate_fn([data.get(0, 0), data.get(0, 1)])
    network = mindyolo.create_model(args.network.model_name, args.network, num_classes=args.data.nc)
    section = {**args.optimizer, "steps_per_epoch": 2}
    params = mindyolo.create_group_param(network.trainable_params(), **section)
    optimizer = mindyolo.create_optimizer(params, lr=mindyolo.create_lr_scheduler(**section), **section)
    step = mindyolo.create_train_step_fn(
        network,
        mindyolo.create_loss(**args.loss, stride=args.network.stride, nc=args.data.nc),
        optimizer,
        1,
        mindyolo.get_loss_scaler(),
        mindyolo.get_gradreducer(False, optimizer.parameters),
        task="segment",
    )
    assert len(step(batch.images, *batch.targets).loss_items) == 5
    rows = args.data.test_transforms
    val = mindyolo.COCODataset(args.data.val_set, 32, rows, False)
    loader = mindyolo.create_loader(val, val.test_collate_fn, val.column_names_collate, batch_size=2)
    with pytest.raises(YoloflowError, match="task=detect: the network is made for segment"):
        mindyolo.test(network, loader)
    assert mindyolo.test(network, loader, task="segment").masks is not None


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"task": "segment"}, "task=segment: the loss is made for detect"),
        ({"reducer": mindyolo.get_gradreducer(False, [])}, "reducer: was made for other parameters"),
    ],
)
def test_the_train_step_refuses_what_it_cannot_follow(
    parts: dict[str, Any], arguments: dict[str, Any], reason: str
) -> None:
    with pytest.raises(YoloflowError, match=reason):
        mindyolo.create_train_step_fn(**{**parts["step"], **arguments})


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"conf_free": False}, "conf_free=False: the head of yolov8 has True"),
        ({"exec_nms": False}, "exec_nms=False"),
        ({"num_class": 80}, "num_class=80: the network has 10"),
        ({"per_batch_size": 16}, "per_batch_size=16: the loader has 4"),
        ({"rank_size": 2}, "rank_size=2"),
        ({"is_coco_dataset": True}, "is_coco_dataset=True: the data set's classes"),
        ({"imgIds": [7, 8]}, "imgIds"),
        ({"task": "segment"}, "task=segment"),
    ],
)
def test_the_test_function_refuses_what_it_cannot_follow(
    parts: dict[str, Any], arguments: dict[str, Any], reason: str
) -> None:
    with pytest.raises(YoloflowError, match=reason):
        mindyolo.test(**{**parts["test"], **arguments})


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"scaler": mindyolo.get_loss_scaler()}, "scaler: is another one"),
        ({"steps_per_epoch": 3}, "steps_per_epoch=3: the loader has 2"),
    ],
)
def test_the_trainer_refuses_parts_that_the_step_was_not_made_of(
    parts: dict[str, Any], arguments: dict[str, Any], reason: str
) -> None:
    with pytest.raises(YoloflowError, match=reason):
        mindyolo.create_trainer(**{**parts["trainer"], **arguments})


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"epochs": 3}, "epochs=3: the loader has 2"),
        ({"main_device": False}, "main_device=False"),
        ({"accumulate": 4}, "accumulate=4: args.optimizer"),
        ({"overflow_still_update": True}, "overflow_still_update=True: the train step has False"),
        ({"ms_jit": True}, "ms_jit=True"),
        ({"enable_modelarts": True}, "enable_modelarts=True"),
        ({"train_url": "obs://x"}, "train_url"),
        ({"loss_item_name": ["loss"]}, "loss_item_name has 1 names: the loss has 4 items"),
        ({"run_eval": True}, "run_eval=True: needs test_fn"),
        ({"warmup_momentum": [0.8, 0.85, 0.9], "warmup_step": 1}, "warmup_momentum changes until update 2"),
        ({"keep_checkpoint_max": 0}, "keep_latest"),
    ],
)
def test_training_refuses_what_it_cannot_follow_and_leaves_no_trace(
    parts: dict[str, Any], tmp_path: Path, arguments: dict[str, Any], reason: str
) -> None:
    trainer = mindyolo.create_trainer(**parts["trainer"])
    with pytest.raises(YoloflowError, match=reason):
        trainer.train(**{"epochs": 2, "save_dir": str(tmp_path / "run"), **arguments})
    assert list(tmp_path.iterdir()) == []


def test_the_way_of_training_is_the_one_that_the_trainer_was_made_for(parts: dict[str, Any]) -> None:
    with pytest.raises(YoloflowError, match="data_sink=True: call train_with_datasink"):
        mindyolo.create_trainer(**parts["trainer"], data_sink=True).train(epochs=2)
    with pytest.raises(YoloflowError, match="data_sink=False: call train,"):
        mindyolo.create_trainer(**parts["trainer"]).train_with_datasink(epochs=2)


def test_settings_that_no_argument_carries_are_refused() -> None:
    with pytest.raises(YoloflowError, match=r"data\.max_labels: no argument of MindYOLO's functions"):
        mindyolo.load_args("yolov8n", ["data.train_set=digits:train", "data.max_labels=7"])


def test_the_average_is_kept_in_the_network_that_is_given(args: mindyolo.Arguments) -> None:
    network, other = (
        mindyolo.create_model(args.network.model_name, args.network, num_classes=3) for _ in range(2)
    )
    ema = mindyolo.EMA(network, other)
    assert ema.ema is other
    averaged = other.state_dict()
    assert all(torch.equal(tensor, averaged[name]) for name, tensor in network.state_dict().items())
    with pytest.raises(YoloflowError, match="ema_model"):
        mindyolo.EMA(network, mindyolo.create_model(args.network.model_name, args.network, num_classes=4))


def test_rows_are_frozen_by_the_numbers_that_mindyolo_counts(args: mindyolo.Arguments) -> None:
    network = mindyolo.create_model("yolov8", args.network, num_classes=3)
    frozen = mindyolo.freeze_layers(network, [0, "1", 10])
    rows = [name for name, _ in network.named_children()]
    assert {name.split(".")[0] for name in frozen} == {rows[0], rows[1]}
    with pytest.raises(YoloflowError, match="freeze=99: the network has rows 0 to"):
        mindyolo.freeze_layers(network, [99])


def test_weights_change_no_other_argument_unless_a_finetuning_is_asked_for(tmp_path: Path) -> None:
    plain, given, tuned = (
        mindyolo.load_args("yolov8n", tiny(tmp_path, "run", *more))
        for more in ([], ["weight=start.ckpt"], ["weight=start.ckpt", "finetune=true"])
    )
    assert plain.optimizer.lr_init == given.optimizer.lr_init
    assert [arguments.clip_grad for arguments in (plain, given, tuned)] == [False, False, True]
