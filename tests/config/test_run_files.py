"""Settings that are decided when a run begins stay when it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.toy_loader import square_index
from yoloflow.config.reader import dump_config, load_config
from yoloflow.config.run_files import settle_stages
from yoloflow.run.folder import RunFolder
from yoloflow.runtime.ranks import Ranks
from yoloflow.structures import DatasetIndex

TINY = ["img_size=64", "per_batch_size=4", "epochs=2"]


@pytest.fixture
def index(tmp_path: Path) -> DatasetIndex:
    return square_index(tmp_path / "images")


def settled(index: DatasetIndex, run: RunFolder, *overrides: str) -> str:
    config, stages = settle_stages(load_config("yolov8n", [*TINY, *overrides]), run, index, Ranks())
    assert sum(stage.steps for stage in stages) == 2 * (24 // 4)
    return config.data.mosaic_partners


def test_partners_are_decided_when_a_run_begins_and_stay(tmp_path: Path, index: DatasetIndex) -> None:
    run = RunFolder(tmp_path / "run", resumed=False)
    assert settled(index, run, "data.cache=ram") == "anywhere"
    assert settled(index, run, "data.cache=none") == "window"
    run.path.mkdir()
    config, _ = settle_stages(load_config("yolov8n", [*TINY, "data.cache=none"]), run, index, Ranks())
    (run.path / "config.yaml").write_text(dump_config(config))
    goes_on = RunFolder(run.path, resumed=True)
    assert settled(index, goes_on, "data.cache=ram") == "window"
    assert settled(index, goes_on, "data.mosaic_partners=anywhere") == "anywhere"


def test_a_run_from_before_the_setting_took_partners_from_the_whole_set(
    tmp_path: Path, index: DatasetIndex
) -> None:
    path = tmp_path / "old"
    path.mkdir()
    text = dump_config(load_config("yolov8n", TINY))
    assert "  mosaic_partners: auto\n" in text
    (path / "config.yaml").write_text(text.replace("  mosaic_partners: auto\n", ""))
    assert load_config(path).data.mosaic_partners == "anywhere"
    assert load_config(path, ["data.mosaic_partners=window"]).data.mosaic_partners == "window"
    assert settled(index, RunFolder(path, resumed=True), "data.cache=none") == "anywhere"
