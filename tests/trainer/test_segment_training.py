"""Trainings of a network that segments, evaluated by masks too."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from yoloflow.callbacks import EvalWhileTrain, RunContext
from yoloflow.callbacks.metrics_file import MetricsFileCallback
from yoloflow.config.reader import load_config
from yoloflow.evaluate import evaluate_run
from yoloflow.flow import train
from yoloflow.trainer.evaluation_plan import EvaluationPlan, best_figures
from yoloflow.trainer.settings import BestBy

SIDE = 160


def write_shapes(folder: Path) -> Path:
    """Eight images of a square or a disc, or of one each, with their outlines."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    shapes = [np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]]), np.stack((np.cos(angles), np.sin(angles)), 1)]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(8):
        pixels = np.full((SIDE, SIDE, 3), 40, np.uint8)
        centres = [(44.0, 80.0), (118.0, 80.0)] if i % 2 else [(80.0, 80.0)]
        for k, centre in enumerate(centres):
            number = (i // 2 + k) % 2
            sides = (rng.uniform(52, 62) if i % 2 else rng.uniform(90, 120), rng.uniform(90, 120))
            points = (centre + rng.uniform(-6, 6, 2) + shapes[number] * sides / np.array(2)).round(2)
            corners = np.round(points * 16).astype(np.int32)
            cv2.fillPoly(pixels, [corners], ((0, 200, 255), (255, 80, 0))[number], shift=4)
            box = [*points.min(0).tolist(), *(points.max(0) - points.min(0)).tolist()]
            row = {"id": len(annotations) + 1, "image_id": i, "category_id": number, "bbox": box}
            row |= {"area": box[2] * box[3], "iscrowd": 0, "segmentation": [points.ravel().tolist()]}
            annotations.append(row)
        cv2.imwrite(str(folder / f"{i}.png"), pixels)
        images.append({"id": i, "file_name": f"{i}.png", "height": SIDE, "width": SIDE})
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 0, "name": "square"}, {"id": 1, "name": "disc"}],
    }
    (folder / "shapes.json").write_text(json.dumps(content))
    return folder / "shapes.json"


def settings(shapes: Path, folder: Path, *more: str) -> list[str]:
    return [
        *(f"data.train_set={shapes}", f"data.val_set={shapes}", f"save_dir={folder}", "name=run"),
        *("data.num_parallel_workers=0", "data.cache=ram", "device=cpu", "threads=1", "report=false"),
        *("memory_forecast=false", "accumulate=1", *more),
    ]


def evaluations(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "evaluation"]


@pytest.mark.training
def test_masks_are_evaluated_in_a_training_that_goes_on_alike_after_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def die_in_epoch_2(self: MetricsFileCallback, context: RunContext) -> None:
        if context.step == 2:
            raise KilledError

    def run(name: str) -> dict[str, Any]:
        small = ("img_size=64", "network.width_multiple=0.125", "per_batch_size=4", "run_eval_interval=1")
        more = settings(shapes, tmp_path / name, *small, "epochs=2", "resume=auto")
        return train(load_config("yolov8n-seg-small-data", more))

    shapes = write_shapes(tmp_path / "shapes")
    whole = run("whole")
    with monkeypatch.context() as patch:
        patch.setattr(MetricsFileCallback, "on_step_begin", die_in_epoch_2)
        with pytest.raises(KilledError):
            run("killed")
    resumed = run("killed")
    assert (resumed["best"], resumed["mask_stats"]) == (whole["best"], whole["mask_stats"])
    assert whole["best"].keys() == {"epoch", "map", "map50", "mask_map", "mask_map50"}
    rows = [[without_time(row) for row in evaluations(tmp_path / name)] for name in ("whole", "killed")]
    assert rows[0] == rows[1]
    assert [row["epoch"] for row in rows[0]] == [1, 2]
    for row in rows[0]:
        assert len(row["mask_stats"]) == 12
        assert row["mask_map"] == row["mask_stats"][0]
        assert [entry["name"] for entry in row["mask_per_class"]] == ["square", "disc"]


def without_time(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "time"}


@pytest.mark.full
def test_eight_images_are_learnt_to_a_mask_ap_over_0_9(tmp_path: Path) -> None:
    shapes = write_shapes(tmp_path / "shapes")
    rows = "[{func_name: letterbox, scaleup: true}, {func_name: segment_poly2mask, mask_ratio: 4}]"
    more = [f"img_size={SIDE}", "network.width_multiple=0.25", "per_batch_size=8", "epochs=90"]
    more += ["run_eval_interval=30", f"data.train_transforms={rows}"]
    summary = train(load_config("yolov8n-seg-small-data", settings(shapes, tmp_path, *more)))
    assert summary["best"]["mask_map"] > 0.9
    assert summary["best"]["map"] > 0.9
    saved = tmp_path / "found.json"
    result = evaluate_run(str(tmp_path / "run"), ["device=cpu"], save_json=saved)
    assert result.masks is not None
    assert result.masks.map == summary["best"]["mask_map"]
    assert all(row["segmentation"]["size"] == [SIDE, SIDE] for row in json.loads(saved.read_text()))


@pytest.mark.parametrize(
    ("best_by", "of_detector", "of_segmenter"),
    [("masks", 0.5, 0.25), ("boxes", 0.5, 0.5), ("sum", 0.5, 0.75)],
)
def test_the_best_is_chosen_by_what_the_setting_names(
    best_by: BestBy, of_detector: float, of_segmenter: float
) -> None:
    plan = EvaluationPlan([EvalWhileTrain()], None, best_by)
    figures = {"map": 0.5, "map50": 0.75, "stats": [], "mask_map": 0.25, "mask_map50": 0.5}
    assert plan.score(figures) == of_segmenter
    assert plan.score(best_figures(figures)) == of_segmenter
    assert plan.score({"map": 0.5, "map50": 0.75}) == of_detector
    assert plan.score({}) == -1
    assert best_figures(figures).keys() == {"map", "map50", "mask_map", "mask_map50"}
