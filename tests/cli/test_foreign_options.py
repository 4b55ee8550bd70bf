"""Command lines of other trainers, --version, --dry-run and completion."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import run
from yoloflow.data.digits import SceneRecipe, digits_dataset


@pytest.mark.parametrize(
    ("line", "written"),
    [
        (
            "train --config configs/v8.yaml --device_target CPU --per_batch_size 8 --ms_amp_level O2",
            "train configs/v8.yaml per_batch_size=8 amp_level=O2",
        ),
        (
            "train --weights v5s.pt --cfg v5s.yaml --img 640 --batch-size=16 --noval",
            "train v5s.yaml weight=v5s.pt img_size=640 per_batch_size=16 run_eval=false",
        ),
        ("train -f exps/x.py -b 64 --fp16", "train exps/x.py per_batch_size=64 amp_level=O1"),
        ("train yolov8n --lr0 0.1 epochs=3", "train yolov8n optimizer.lr_init=0.1 epochs=3"),
        ("predict runs/a a.jpg --conf 0.5", "predict runs/a a.jpg --conf-thres 0.5"),
        ("predict runs/a a.jpg --out there", "predict runs/a a.jpg --save-dir there"),
        (
            "train yolov8n --frobnicate 3 --epochs 2",
            "train yolov8n epochs=2\n  --frobnicate: there is no such",
        ),
        ("test runs/a --iou 0.5 --weight b.pt", "test runs/a iou_thres=0.5 --weight b.pt"),
        ("export runs/a -o a.onnx", "export runs/a --out a.onnx"),
        ("val runs/a", "yoloflow test"),
        ("task=detect mode=train", "a command comes first"),
    ],
)
def test_the_line_to_write_is_given(
    line: str, written: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *line.split()) == 2
    assert written in capsys.readouterr().err


def test_the_version_names_what_matters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--version") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("yoloflow ")
    assert any(line.startswith("torch ") for line in lines)


@pytest.mark.training
@pytest.mark.parametrize("images", [4, 9])
def test_a_dry_run_leaves_nothing_behind(
    images: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = SceneRecipe(num_train=4, num_val=1, side=64, digits_per_scene=(1, 1), digit_side=(16.0, 32.0))
    data = [f"data.{name}_set={digits_dataset(name, scenes, tmp_path)}" for name in ("train", "val")]
    small = ["img_size=64", f"per_batch_size={images}", "network.width_multiple=0.125", "epochs=3"]
    rest = [
        "data.num_parallel_workers=0",
        "memory_forecast=false",
        "device=cpu",
        f"save_dir={tmp_path / 'runs'}",
    ]
    code = run(monkeypatch, "train", "quickstart", *data, *small, *rest, "--dry-run")
    assert code == (0 if images == 4 else 2)  # more images in a batch than there are
    assert not list((tmp_path / "runs").glob("[a-z]*"))


@pytest.mark.process
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("yoloflow tra", "train"),
        ("yoloflow train yolov8n-sm", "yolov8n-small-data"),
        ("yoloflow train yolov8n optimizer.lr_i", "optimizer.lr_init="),
    ],
)
def test_the_shell_completes_commands_recipes_and_settings(typed: str, offered: str) -> None:
    asked = {
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
        "_YOLOFLOW_COMPLETE": "complete_bash",
    }
    code = "import sys; sys.argv[0] = 'yoloflow'; from yoloflow.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [offered]
