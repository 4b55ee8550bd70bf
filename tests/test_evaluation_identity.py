"""One evaluator: during training, afterwards, on a file of predictions and by pycocotools: equal figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from typer.testing import CliRunner
from yolox_original import RECIPE, original_network

from yoloflow.cli import app
from yoloflow.config.reader import load_config
from yoloflow.data.digits import SceneRecipe, digits_dataset
from yoloflow.flow import train
from yoloflow.weights.files import save_weights

SCENES = SceneRecipe(num_train=32, num_val=12, side=64, digits_per_scene=(1, 3), digit_side=(12.0, 40.0))


def last_evaluation(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    stats: list[float] = [line for line in lines if line["kind"] == "evaluation"][-1]["stats"]
    return stats


def yoloflow_test(*arguments: str, figures: Path) -> dict[str, Any]:
    """What `yoloflow test` writes as json."""
    result = CliRunner().invoke(app, ["test", *arguments, "--json", str(figures)], catch_exceptions=False)
    assert result.exit_code == 0
    content: dict[str, Any] = json.loads(figures.read_text())
    return content


def pycocotools_stats(truth: Path, found: Path) -> list[float]:
    data = COCO(str(truth))
    evaluation = COCOeval(data, data.loadRes(str(found)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    stats: list[float] = evaluation.stats.tolist()
    return stats


def assert_one_evaluator(run: Path, truth: Path, folder: Path) -> list[float]:
    """Twelve figures, bit for bit, four ways; returns them."""
    found, figures = folder / "found.json", folder / "figures.json"
    during = last_evaluation(run)
    weights = str(run / "weights/last_ema.safetensors")
    after = yoloflow_test(*(str(run), "--weight", weights, "--save-predictions", str(found)), figures=figures)
    of_file = yoloflow_test("--predictions", str(found), "--annotations", str(truth), figures=figures)
    assert after["stats"] == during
    assert of_file["stats"] == during
    assert of_file["per_class"] == after["per_class"]
    assert pycocotools_stats(truth, found) == during
    return during


def test_a_short_training_is_evaluated_four_ways_alike(tmp_path: Path) -> None:
    train_set, val_set = (digits_dataset(split, SCENES, tmp_path) for split in ("train", "val"))
    overrides = [
        *(f"data.train_set={train_set}", f"data.val_set={val_set}", f"save_dir={tmp_path}", "name=run"),
        *("img_size=64", "per_batch_size=8", "epochs=4", "network.width_multiple=0.125", "device=cpu"),
        *("data.num_parallel_workers=0", "ema_tau=10", "run_eval_interval=4"),
    ]
    train(load_config("quickstart", overrides))
    print(assert_one_evaluator(tmp_path / "run", val_set, tmp_path))


def test_published_weights_are_evaluated_four_ways_alike(shared: Path, tmp_path: Path) -> None:
    """YOLOX-nano on COCO pictures, trained for one step at a rate that moves nothing."""
    network = original_network(shared / "weights/yolox_nano")
    weights = tmp_path / "nano.safetensors"
    save_weights(weights, network.state_dict())
    data = shared / "data/coco_free"
    truth = data / "coco/all.json"
    content = json.loads(truth.read_text())
    some = {image["id"] for image in content["images"][:8]}
    for key, image in (("images", "id"), ("annotations", "image_id")):
        content[key] = [entry for entry in content[key] if entry[image] in some]
    (tmp_path / "some.json").write_text(json.dumps(content))
    still = [name for name, _ in network.named_parameters() if "object_outputs" not in name]
    overrides = [
        *(f"data.train_set={tmp_path / 'some.json'}", f"data.val_set={truth}", f"weight={weights}"),
        *(f"data.image_folder={data / 'images'}", f"save_dir={tmp_path}", "name=run", "device=cpu"),
        *("epochs=1", "per_batch_size=8", "optimizer.lr_init=1e-30", f"freeze={json.dumps(still)}"),
        *("data.num_parallel_workers=0", "optimizer.warmup_epochs=0"),
    ]
    train(load_config(RECIPE, overrides))
    assert assert_one_evaluator(tmp_path / "run", truth, tmp_path)[0] > 0.31
