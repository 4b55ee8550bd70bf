"""What TensorBoard is given, read back from its event files."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from tests.support.coco_oracle import random_case, run_pycocotools
from yoloflow.callbacks import CALLBACKS, BaseCallback, RunContext
from yoloflow.callbacks.plots import draw_batch_images
from yoloflow.callbacks.summary import _shrunk, counts_at_thresholds
from yoloflow.config.reader import load_config
from yoloflow.data.digits import SceneRecipe, digits_dataset
from yoloflow.evaluation.coco import evaluate_coco
from yoloflow.flow import train
from yoloflow.report.box_drawing import draw_grid

SCENES = SceneRecipe(num_train=8, num_val=6, side=64, digits_per_scene=(1, 2), digit_side=(16.0, 32.0))
EPOCHS, ROUNDS = 10, 3


class FirstBatches(BaseCallback):
    """Keeps what the network sees first in every stage."""

    grids: dict[int, np.ndarray] = {}

    def on_step_begin(self, context: RunContext) -> None:
        if context.stage not in self.grids:
            assert context.batch is not None
            pictures = draw_batch_images(context.batch, context.class_names)
            self.grids[context.stage] = draw_grid([_shrunk(picture) for picture in pictures[:4]], 2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    settings = [
        f"data.train_set={digits_dataset('train', SCENES, folder / 'cache')}",
        f"data.val_set={digits_dataset('val', SCENES, folder / 'cache')}",
        *("img_size=64", "per_batch_size=4", "network.width_multiple=0.125", "device=cpu"),
        *("data.num_parallel_workers=0", "log_interval=1", "run_eval_interval=1"),
        *(f"epochs={EPOCHS}", f"save_dir={folder}", "name=run"),
        "callback=[{name: FirstBatches}, "
        f"{{name: SummaryCallback, images: 4, columns: 2, rounds: {ROUNDS}}}]",
    ]
    CALLBACKS["FirstBatches"] = FirstBatches
    train(load_config("quickstart", settings))
    del CALLBACKS["FirstBatches"]
    return folder / "run"


@pytest.fixture(scope="module")
def events(run: Path) -> EventAccumulator:
    everything = {"scalars": 0, "images": 0, "tensors": 0}
    accumulator = EventAccumulator(str(run / "tensorboard"), everything)
    accumulator.Reload()
    return accumulator


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


@pytest.mark.training
def test_scalars_are_those_of_the_metrics_file(run: Path, events: EventAccumulator) -> None:
    for name in ("loss", "lbox", "lcls", "dfl"):
        assert [(event.step, event.value) for event in events.Scalars(f"loss/{name}")] == [
            (row["step"], pytest.approx(row[name])) for row in records(run, "step")
        ]
    evaluations = records(run, "evaluation")
    assert [(event.step, event.value) for event in events.Scalars("val/map50")] == [
        (row["step"], pytest.approx(row["map50"], abs=1e-6)) for row in evaluations
    ]
    with_objects = [row for row in evaluations[-1]["per_class"] if row["ap"] is not None]
    assert 0 < len(with_objects) < 10
    tags = {tag for tag in events.Tags()["scalars"] if tag.startswith("val_class_ap/")}
    assert tags == {f"val_class_ap/{row['name']}" for row in with_objects}
    for row in with_objects:
        series = events.Scalars(f"val_class_ap/{row['name']}")
        assert len(series) == EPOCHS
        assert series[-1].value == pytest.approx(row["ap"], abs=1e-6)


def picture(encoded: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return pixels


@pytest.mark.training
def test_the_first_batch_of_each_stage_is_shown_as_the_network_sees_it(
    run: Path, events: EventAccumulator
) -> None:
    starts = [row["step"] for row in records(run, "stage")]
    assert len(starts) == 2
    for stage, step in enumerate(starts):
        (event,) = events.Images(f"train/first_batch_of_stage{stage + 1}")
        assert event.step == step
        assert np.array_equal(picture(event.encoded_image_string), FirstBatches.grids[stage])


@pytest.mark.training
def test_images_and_curves_come_with_few_evaluations_and_with_the_last(events: EventAccumulator) -> None:
    steps = [event.step for event in events.Images("val/detections")]
    assert steps == [2, 10, 18, 20]
    assert len(steps) <= ROUNDS + 1
    # Four validation scenes, enlarged for their captions and shrunk to 256 pixels, two in a row.
    assert picture(events.Images("val/detections")[0].encoded_image_string).shape == (524, 524, 3)
    (tag, *_) = [tag for tag in events.Tags()["tensors"] if tag.startswith("val_pr50/")]
    assert [event.step for event in events.Tensors(tag)] == steps


@pytest.mark.training
def test_each_class_with_objects_has_a_curve_that_the_plugin_understands(
    run: Path, events: EventAccumulator
) -> None:
    evaluation = records(run, "evaluation")[-1]
    with_objects = {row["name"]: row for row in evaluation["per_class"] if row["ap"] is not None}
    tags = {tag for tag in events.Tags()["tensors"] if tag.startswith("val_pr50/")}
    assert tags == {f"val_pr50/{name}" for name in with_objects}
    assert events.SummaryMetadata(sorted(tags)[0]).plugin_data.plugin_name == "pr_curves"
    for name, row in with_objects.items():
        table = make_ndarray(events.Tensors(f"val_pr50/{name}")[-1].tensor_proto)
        assert table.shape == (6, 101)
        true_positives, false_positives, _, false_negatives, precision, recall = table
        np.testing.assert_allclose(true_positives + false_negatives, row["num_objects"], rtol=1e-5)
        np.testing.assert_allclose(precision * (true_positives + false_positives), true_positives, atol=1e-4)
        assert (np.diff(recall) <= 0).all()


@pytest.mark.parametrize("seed", range(12))
def test_precision_and_scores_by_recall_are_pycocotools(seed: int) -> None:
    truth, found = random_case(seed)
    expected = run_pycocotools(truth, found).eval
    result = evaluate_coco(truth, found)
    for name, curves in (("precision", result.pr50), ("scores", result.scores50)):
        np.testing.assert_allclose(curves, expected[name][0, :, :, 0, 2].T, atol=1e-12)
    for row, precision in zip(result.per_class, result.pr50, strict=True):
        if row.num_objects:
            assert row.ap50 == pytest.approx(precision.mean())


def test_a_curve_at_thresholds_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(3)
    for num_reached in (0, 1, 40, 101):
        scores, precision = np.zeros(101), np.zeros(101)
        scores[:num_reached] = np.sort(rng.random(num_reached))[::-1]
        precision[:num_reached] = np.sort(rng.uniform(0.1, 1, num_reached))[::-1]
        table = counts_at_thresholds(precision, scores, 30)
        for k in range(101):
            reached = [place for place in range(num_reached) if scores[place] >= k / 100]
            recall = max(reached, default=0) / 100
            expected = precision[max(reached)] if reached else 1.0
            assert table[4, k] == pytest.approx(expected)
            assert table[5, k] == pytest.approx(recall)
            assert table[0, k] == pytest.approx(recall * 30)
            assert table[3, k] == pytest.approx(30 - recall * 30)
