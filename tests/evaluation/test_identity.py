"""One evaluator: during training, afterwards, on a file of predictions and by pycocotools: equal figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from typer.testing import CliRunner

from tests.support.data_sets import annotation, write_coco
from tests.support.yolox_original import FILE, RECIPE, original_network
from yoloflow.cli import app
from yoloflow.config.reader import load_config
from yoloflow.convert_weights import convert_weights
from yoloflow.flow import train


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
    assert after["settings"]["shape"] == "square"
    assert after["speed"]["images_per_second"] > 0
    assert of_file["stats"] == during
    assert of_file["per_class"] == after["per_class"]
    assert pycocotools_stats(truth, found) == during
    return during


@pytest.mark.training
def test_a_short_training_is_evaluated_four_ways_alike(tmp_path: Path) -> None:
    """Large objects, which a new network's large boxes hit; a crowd, and objects of all sizes."""
    rng, rows = np.random.default_rng(0), []
    for number in range(1, 13):
        lowest, highest = ((50, 50), (60, 79)) if number % 3 else ((99, 78), (100, 80))
        size = rng.uniform(lowest, highest)
        box = [*rng.uniform(0, [100, 80] - size).tolist(), *size.tolist()]
        more = {"id": number, "area": float(size.prod()), "iscrowd": int(number == 5)}
        rows.append(annotation(10 * number, [3, 7][number % 2], box, **more))
    truth = write_coco(tmp_path, rows, num_images=12)
    overrides = [
        *(f"data.train_set={truth}", f"data.val_set={truth}", f"data.image_folder={tmp_path / 'images'}"),
        *(f"save_dir={tmp_path}", "name=run", "device=cpu", "data.num_parallel_workers=0", "conf_thres=0"),
        *("img_size=64", "per_batch_size=4", "epochs=2", "network.width_multiple=0.125"),
    ]
    train(load_config("quickstart", overrides))
    stats = assert_one_evaluator(tmp_path / "run", truth, tmp_path)
    assert 0 < stats[0] < 1


@pytest.mark.training
def test_published_weights_are_evaluated_four_ways_alike(shared: Path, tmp_path: Path) -> None:
    """YOLOX-nano on COCO images, trained for one step at a rate that moves nothing."""
    weights, data = tmp_path / "nano.safetensors", shared / "data/coco_free"
    file = shared / "weights/yolox_nano" / FILE
    convert_weights(RECIPE, weights, [f"weight={file}"], images=data / "images")
    truth = data / "coco/all.json"
    content = json.loads(truth.read_text())
    some = {image["id"] for image in content["images"][:8]}
    for key, image in (("images", "id"), ("annotations", "image_id")):
        content[key] = [entry for entry in content[key] if entry[image] in some]
    (tmp_path / "some.json").write_text(json.dumps(content))
    network = original_network(shared / "weights/yolox_nano")
    still = [name for name, _ in network.named_parameters() if "object_outputs" not in name]
    overrides = [
        *(f"data.train_set={tmp_path / 'some.json'}", f"data.val_set={truth}", f"weight={weights}"),
        *(f"data.image_folder={data / 'images'}", f"save_dir={tmp_path}", "name=run", "device=cpu"),
        *("epochs=1", "per_batch_size=8", "optimizer.lr_init=1e-30", f"freeze={json.dumps(still)}"),
        *("data.num_parallel_workers=0", "optimizer.warmup_epochs=0"),
    ]
    train(load_config(RECIPE, overrides))
    assert assert_one_evaluator(tmp_path / "run", truth, tmp_path)[0] > 0.31
