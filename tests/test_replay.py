"""`yoloflow data show` draws what training sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.support.data_sets import annotation, write_coco, write_yolo
from tests.support.images import read_image
from yoloflow.cli import app
from yoloflow.config.reader import load_config
from yoloflow.data.sets import read_set
from yoloflow.data.stage_loaders import create_stage_loaders
from yoloflow.replay import Replay
from yoloflow.structures import YoloflowError


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    labels: dict[str, str | bytes | None] = {f"{number:02}": "0 .5 .5 .4 .3\n" for number in range(12)}
    source = write_yolo(tmp_path_factory.mktemp("images"), labels)
    return [
        f"data.train_set={source}",
        "data.nc=1",
        "img_size=64",
        "per_batch_size=4",
        "epochs=12",
        "data.rect=[false, true]",
    ]


@pytest.mark.parametrize("partners", ["anywhere", "window"])
def test_the_trace_of_a_sample_ends_with_what_training_gets(overrides: list[str], partners: str) -> None:
    config = load_config("yolov8n", [*overrides, f"data.mosaic_partners={partners}"])
    index = read_set(config.data, "train_set")
    loader = create_stage_loaders(index, config.stages(3), config.data, config)
    batches = list(loader.batches())
    for step in (0, 5, 7, 35):
        stage = loader.loaders[loader.stage_of(step)]
        key = stage.epoch_batches(step // 3)[step % 3]
        for row, position in enumerate(key.indices):
            steps = stage.dataset.trace(key.epoch, position, key.shape_hw, key.nearby(row))
            assert steps[0][0] == "loaded"
            last = steps[-1][1].image[..., ::-1].transpose(2, 0, 1)
            assert np.array_equal(last, batches[step].images[row].numpy())
    assert [name for name, _ in steps][1:3] == ["letterbox", "random_perspective"]


def test_images_show_a_tile_for_each_step_and_for_each_sample(overrides: list[str]) -> None:
    replay = Replay(load_config("yolov8n", overrides))
    assert replay.draw_sample(1, 3).shape[:2] == (2 * (512 + 28 + 4) + 4, 4 * (512 + 4) + 4)
    assert replay.draw_batch(12, 2).shape[:2] == (512 + 28 + 2 * 4, 4 * (512 + 4) + 4)
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
    assert read_image(out).shape[2] == 3
    for wrong, message in (
        (["--index", "1", "--batch", "1"], "not both"),
        (["--out", str(tmp_path / "x.gif")], "must end in .png or .jpg"),
    ):
        failed = CliRunner().invoke(app, ["data", "show", "yolov8n", *overrides, *wrong])
        assert failed.exit_code != 0
        assert message in str(failed.exception)


def test_outlines_and_drawn_masks_are_shown(tmp_path: Path) -> None:
    outline = [[20, 20, 80, 20, 80, 60, 20, 60]]
    rows = [annotation(10 * number, bbox=[20, 20, 60, 40], segmentation=outline) for number in range(1, 5)]
    source = write_coco(tmp_path, rows, num_images=4)
    chain = "[{func_name: letterbox, scaleup: true}, {func_name: segment_poly2mask}]"
    overrides = [f"data.train_set={source}", "img_size=128", "per_batch_size=4", "epochs=1", "run_eval=false"]
    replay = Replay(load_config("yolov8n-seg", [*overrides, f"data.train_transforms={chain}"]))
    shown = replay.draw_sample(1, 0)
    tiles = np.split(shown[4 : 4 + 28 + 512, 4:], np.arange(1, 3) * 516, axis=1)
    for tile in tiles:
        middle = tile[28 + 256, 256].astype(int)
        assert np.ptp(middle) > 40  # coloured as its mask is
