"""`yoloflow data show` draws what training sees."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from yoloflow.cli import app
from yoloflow.config.reader import load_config
from yoloflow.data.digits import SceneRecipe, digits_dataset
from yoloflow.data.stage_loaders import create_stage_loaders
from yoloflow.replay import Replay
from yoloflow.structures import YoloflowError

SCENES = SceneRecipe(num_train=12, num_val=2, side=64)


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    source = digits_dataset("train", SCENES, tmp_path_factory.mktemp("scenes"))
    return [
        f"data.train_set={source}",
        "img_size=64",
        "per_batch_size=4",
        "epochs=12",
        "data.rect=[false, true]",
    ]


def test_the_trace_of_a_sample_ends_with_what_training_gets(overrides: list[str]) -> None:
    config = load_config("yolov8n", overrides)
    index = config.data.read("train_set")
    loader = create_stage_loaders(index, config.stages(3), config.loader_options())
    batches = list(loader.batches())
    for step in (0, 5, 7, 35):
        stage = loader.loaders[loader.stage_of(step)]
        key = stage.epoch_batches(step // 3)[step % 3]
        for row, position in enumerate(key.indices):
            steps = stage.dataset.trace(key.epoch, position, key.shape_hw)
            assert steps[0][0] == "loaded"
            last = steps[-1][1].image[..., ::-1].transpose(2, 0, 1)
            assert np.array_equal(last, batches[step].images[row].numpy())
    assert [name for name, _ in steps][1:3] == ["letterbox", "random_perspective"]


def test_images_show_a_tile_for_each_step_and_for_each_sample(overrides: list[str]) -> None:
    replay = Replay(load_config("yolov8n", overrides))
    assert replay.draw_sample(1, 3).shape[:2] == (2 * (64 + 24 + 4) + 4, 4 * (64 + 4) + 4)
    assert replay.draw_batch(12, 2).shape[:2] == (64 + 24 + 2 * 4, 4 * (64 + 4) + 4)
    with pytest.raises(YoloflowError, match="epochs 1 to 12"):
        replay.draw_sample(13, 0)
    with pytest.raises(YoloflowError, match="images 0 to 11"):
        replay.draw_sample(1, 12)
    with pytest.raises(YoloflowError, match="batches 1 to 3"):
        replay.draw_batch(1, 4)


def test_an_image_that_an_epoch_leaves_out_is_not_shown(overrides: list[str]) -> None:
    replay = Replay(load_config("yolov8n", [*overrides, "per_batch_size=11"]))
    messages = []
    for image in range(12):
        try:
            replay.draw_sample(2, image)
        except YoloflowError as error:
            messages.append(str(error))
    assert len(messages) == 1
    assert "epoch 2 does not use image" in messages[0]


def test_the_command_writes_an_image_or_says_what_is_wrong(overrides: list[str], tmp_path: Path) -> None:
    out = tmp_path / "seen" / "sample.png"
    done = CliRunner().invoke(app, ["data", "show", "yolov8n", *overrides, "--epoch", "2", "--out", str(out)])
    assert done.exit_code == 0
    assert f"written: {out}" in done.output
    image = cv2.imread(str(out))
    assert image is not None
    assert image.shape[2] == 3
    for wrong, message in (
        (["--index", "1", "--batch", "1"], "not both"),
        (["--out", str(tmp_path / "x.gif")], "must end in .png or .jpg"),
    ):
        failed = CliRunner().invoke(app, ["data", "show", "yolov8n", *overrides, *wrong])
        assert failed.exit_code != 0
        assert message in str(failed.exception)
