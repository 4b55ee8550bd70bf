"""What the recipes for small data are for: trainings of few updates."""

import json
from pathlib import Path

import pytest

from yoloflow.config.reader import load_config
from yoloflow.flow import train


@pytest.mark.training
def test_a_training_of_fifty_updates_goes_on_assigning_objects(tmp_path: Path) -> None:
    settings = ["data.train_set=digits:train", "img_size=96", "epochs=2", "threads=1", "log_interval=5"]
    settings += ["run_eval=false", "report=false", f"save_dir={tmp_path}", "name=short"]
    train(load_config("yolov8n-small-data", settings))
    rows = map(json.loads, (tmp_path / "short" / "metrics.jsonl").read_text().splitlines())
    losses = [row["lbox"] for row in rows if row["kind"] == "step"]
    # Without clipping the class branches collapse in this training: no object is assigned from step 12 on.
    assert min(losses[len(losses) // 2 :]) > 1
