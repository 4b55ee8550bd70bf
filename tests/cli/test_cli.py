"""The command: light to start, readable when it refuses."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from rich.console import Console

from tests.support.coco_oracle import pycocotools_stats, random_mask_case, run_pycocotools
from tests.support.command import run
from tests.support.report_data import write_run
from tests.support.tiny_run import NAMES, tiny_run, write_images
from yoloflow.cli import app, main
from yoloflow.cli.evaluation import CLASS_FIGURES, _show_classes, _table
from yoloflow.config.reader import load_config
from yoloflow.data.digits import SceneRecipe, digits_dataset
from yoloflow.evaluation.coco import ClassResult, CocoResult
from yoloflow.evaluation.metrics import METRICS


@pytest.mark.process
def test_help_needs_no_heavy_module() -> None:
    code = (
        "import sys, yoloflow.cli\n"
        "sys.argv = ['yoloflow', '--help']\n"
        "try: yoloflow.cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'cv2', 'matplotlib', 'yaml', 'hotcoco'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    for command in ("train", "test", "predict", "plan", "recipes"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["predict", "runs/pet", "a.png"], "runs/pets"),
        (["predict", "pets", "a.png"], "runs/pets"),
        (["predict", "runs/pets/weights/bst.safetensors", "a.png"], "runs/pets/weights/best.safetensors"),
        (["test", "runs/pet"], "runs/pets"),
        (["test", "runs/pets", "weight=runs/pets/weights/bst.safetensors"], "runs/pets/weights/best.safe"),
        (["export", "runs/pet"], "runs/pets"),
        (["report", "runs/pet"], "runs/pets"),
        (["watch", "runs/pet"], "runs/pets"),
        (["train", "runs/pet"], "runs/pets"),
    ],
)
def test_a_misspelt_run_or_file_is_answered_with_the_one_that_is_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    meant: str,
) -> None:
    tiny_run(tmp_path / "runs" / "pets")
    write_images(tmp_path, {"a.png": (20, 30)})
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == 2
    assert f"did you mean {meant}" in capfd.readouterr().err


def in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)


def test_the_path_of_a_result_is_shown_once_in_a_terminal_and_on_stdout_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = write_run(tmp_path / "run") / "report.html"
    command = ["report", str(page.parent), "--no-evaluate"]
    assert run(monkeypatch, *command) == 0
    assert capsys.readouterr().out == f"{page}\n"
    in_a_terminal(monkeypatch)
    assert run(monkeypatch, *command) == 0
    assert capsys.readouterr().out == ""
    assert run(monkeypatch, "--log-level", "warning", *command) == 0
    assert capsys.readouterr().out == f"{page}\n"


def test_errors_are_broken_between_words_in_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["test", "--predictions", "a.json", "--against", "b.json"]
    assert run(monkeypatch, *command) == 2
    (in_a_pipe,) = capsys.readouterr().err.splitlines()
    assert len(in_a_pipe) > 80
    in_a_terminal(monkeypatch)
    assert run(monkeypatch, *command) == 2
    shown = capsys.readouterr().err
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.split() == in_a_pipe.split()


@pytest.mark.process
def test_an_evaluation_of_a_network_does_not_import_torch_s_compiler(tmp_path: Path) -> None:
    code = (
        "import sys, yoloflow.cli\n"
        "from yoloflow import create_model, load_config\n"
        "from yoloflow.data.digits import SceneRecipe, digits_dataset\n"
        "from yoloflow.weights.files import save_weights\n"
        "folder = sys.argv[1]\n"
        "scenes = digits_dataset('val', SceneRecipe(num_train=4, num_val=4, side=64), folder)\n"
        "settings = ['network.width_multiple=0.125', 'img_size=64', 'data.num_parallel_workers=0']\n"
        "settings += ['per_batch_size=4', f'data.val_set={scenes}']\n"
        "config = load_config('quickstart', settings)\n"
        "network = create_model(config.network.model_name, config.network_table(), 10)\n"
        "save_weights(folder + '/w.safetensors', network.state_dict())\n"
        "weight = '--weight=' + folder + '/w.safetensors'\n"
        "sys.argv = ['yoloflow', 'test', 'quickstart', weight, *settings]\n"
        "try: yoloflow.cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' in sys.modules\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=tmp_path)


@pytest.mark.process
def test_predictions_are_evaluated_without_torch(tmp_path: Path) -> None:
    truth = {
        "images": [{"id": 1, "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0}
        ],
    }
    found = [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 50], "score": 0.9}]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(found))
    out = tmp_path / "new" / "out.json"
    code = (
        "import sys, yoloflow.cli\n"
        f"sys.argv = ['yoloflow', 'test', '--predictions', {str(tmp_path / 'found.json')!r},"
        f" '--annotations', {str(tmp_path / 'truth.json')!r}, '--json', {str(out)!r},"
        f" '--diagnostics', {str(tmp_path / 'diagnostics.json')!r}]\n"
        "try: yoloflow.cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    stats = json.loads(out.read_text())["stats"]
    assert len(stats) == 12
    assert stats[0] == pytest.approx(1.0)
    assert stats[3] == -1.0
    assert "AP50" in done.stdout
    assert "cat" in done.stdout
    diagnostics = json.loads((tmp_path / "diagnostics.json").read_text())
    assert diagnostics["stats"] == stats
    assert diagnostics["confusion"]["matrix"] == [[1, 0], [0, 0]]
    assert "AP lies between 1.0000 and 1.0000 (95% interval)" in done.stdout


def test_masks_of_a_file_of_predictions_are_evaluated_beside_boxes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, found = random_mask_case(8)
    files = {name: tmp_path / f"{name}.json" for name in ("truth", "found", "figures")}
    files["truth"].write_text(json.dumps(truth))
    arguments = ["--predictions", files["found"], "--annotations", files["truth"], "--json", files["figures"]]
    for number_without, is_said in ((0, False), (1, True), (len(found), False)):
        for row in found[:number_without]:
            row.pop("segmentation", None)
        files["found"].write_text(json.dumps(found))
        assert run(monkeypatch, "test", *map(str, arguments)) == 0
        shown, figures = capsys.readouterr().out, json.loads(files["figures"].read_text())
        has_masks = number_without == 0
        assert ("mask_stats" in figures, "masks of class" in shown) == (has_masks, has_masks)
        assert (
            f"{len(found) - 1} of {len(found)} detections have masks, which count only" in shown
        ) == is_said
        assert figures["stats"] == pycocotools_stats(truth, found)
        if has_masks:
            assert figures["mask_stats"] == run_pycocotools(truth, found, iou_type="segm").stats.tolist()


def test_the_help_lists_the_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    for command in ("train", "plan", "recipes", "test", "export", "predict", "report", "watch", "data"):
        assert f" {command} " in text


def test_a_run_is_evaluated_and_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_images(tmp_path / "images", {"a.png": (50, 64), "b.png": (64, 40)})
    truth = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(NAMES)],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 30, 30], "area": 900, "iscrowd": 0}
        ],
    }
    (folder / "val.json").write_text(json.dumps(truth))
    trained, out = tiny_run(tmp_path / "run"), tmp_path / "diagnostics.json"
    settings = [f"data.val_set={folder / 'val.json'}", "device=cpu", "data.num_parallel_workers=0"]
    files = ["--diagnostics", str(out), "--json", str(tmp_path / "figures.json")]
    monkeypatch.setitem(METRICS, "images_seen", lambda coco, truth, detections: float(coco.num_images))
    assert run(monkeypatch, "test", str(trained), *settings, *files) == 0
    shown = capsys.readouterr().out
    assert "2 images" in shown
    assert "images_seen 2.0000" in shown
    assert "cost in AP" in shown
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["stats"] == json.loads(out.read_text())["stats"]


@pytest.mark.training
def test_an_epoch_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = SceneRecipe(num_train=2, num_val=1, side=64, digits_per_scene=(1, 1), digit_side=(16.0, 32.0))
    data = [f"data.{name}_set={digits_dataset(name, scenes, tmp_path)}" for name in ("train", "val")]
    small = ["img_size=64", "per_batch_size=2", "network.width_multiple=0.125", "epochs=1"]
    switches = [
        "data.num_parallel_workers=0",
        "report=false",
        "memory_forecast=false",
        "run_eval=false",
        "device=cpu",
    ]
    folder = [f"save_dir={tmp_path}", "name=run"]
    assert run(monkeypatch, "train", "quickstart", *data, *small, *switches, *folder) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["epochs"] == 1


def test_two_files_of_predictions_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    box = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 50]}
    contents = {
        "truth": {
            "images": [{"id": 1}],
            "categories": [{"id": 1, "name": "[/] :cat: [red]"}],  # no markup
            "annotations": [box | {"id": 1, "area": 2500, "iscrowd": 0}],
        },
        "good": [box | {"score": 0.9}],
        "bad": [box | {"score": 0.9, "bbox": [10, 10, 50, 40]}],
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    files = {name: str(tmp_path / f"{name}.json") for name in (*contents, "out")}
    arguments = ["--predictions", files["good"], "--annotations", files["truth"], "--against", files["bad"]]
    assert run(monkeypatch, "test", *arguments, "--json", files["out"]) == 0
    shown = capsys.readouterr().out
    assert "+0.3000 to +0.3000" in shown
    assert "good.json" in shown
    assert "[/] :cat: [red]" in shown
    result = json.loads(Path(files["out"]).read_text())
    assert result["AP"]["difference"] == pytest.approx(0.3)
    assert result["per_class"][0]["ap_b"] == pytest.approx(0.7)
    assert run(monkeypatch, "test", *arguments, "--diagnostics", files["out"]) == 2
    assert "--diagnostics is of one set of predictions" in capsys.readouterr().err


@pytest.mark.process
def test_the_module_is_the_same_command() -> None:
    texts = [
        subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for command in (
            [sys.executable, "-m", "yoloflow", "recipes"],
            [sys.executable, "-c", "from yoloflow.cli import main; main()", "recipes"],
        )
    ]
    assert texts[0] == texts[1]
    assert "quickstart" in texts[0]


def test_a_users_mistake_is_one_message_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "recipes", "yolov8n", "epoch=3") == 2
    assert capsys.readouterr().err == "yoloflow: override epoch=3: epoch: unknown key; did you mean epochs?\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["recipes", "yolov8q"], "unknown recipe; did you mean"),
        (["recipes", "qqqqq"], "qqqqq: unknown recipe; `yoloflow recipes` lists them"),
        (["train", "nope.onnx"], "nope.onnx: there is no such file"),
        (["train", "yolov8n.pt"], "yolov8n.pt: there is no such file; as a recipe: did you mean yolov8n"),
        (["export", "nope.onnx"], "nope.onnx: there is no such file"),
        (["export", "no/such/"], "no/such/: there is no such file or folder; there is no folder no either"),
        (["test"], "give a run or recipe, or --predictions FILE --annotations FILE"),
        (["test", "--predictions", "a.json"], "--predictions and --annotations go together"),
        (
            ["test", "yolov8n", "--predictions", "a.json", "--annotations", "b.json"],
            "without a run or recipe",
        ),
        (["test", "yolov8n", "--against", "a.json"], "--against needs both"),
        (
            ["test", "--predictions", "a.json", "--annotations", "b.json", "--save-predictions", "c.json"],
            "without a run or recipe, --weight and --save-predictions",
        ),
        (["test", "yolov8n", "--json", "."], ".: is a folder"),
        (
            ["test", "yolov8n", "--save-predictions", "/dev/null/c.json"],
            "/dev/null/c.json: cannot be written",
        ),
        (["plan", "yolov8n"], "data.train_set is not set"),
        (["export", "yolov8n", "data.nc=3"], "a recipe has no weights of its own"),
        (["train", "yolov8n"], "data.train_set is not set"),
        (["--log-level", "loud", "recipes"], "--log-level loud"),
    ],
)
def test_commands_refuse_in_words(
    arguments: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *arguments) == 2
    message = capsys.readouterr().err
    assert words in message
    assert "Traceback" not in message


def test_a_recipe_is_printed_so_that_it_runs_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "recipes", "yolov8s", "epochs=3") == 0
    path = tmp_path / "mine.yaml"
    path.write_text(capsys.readouterr().out)
    assert load_config(path) == load_config("yolov8s", ["epochs=3"])


def test_the_help_of_train_names_every_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "train", "--help") == 0
    text = capsys.readouterr().out
    for key in ("epochs", "optimizer.lr_init", "data.train_set", "network.width_multiple", "ema_decay"):
        assert f"  {key} (" in text


def test_plan_writes_its_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "plan"
    assert run(monkeypatch, "plan", "yolov8n", "epochs=20", "--steps-per-epoch", "80", "--out", str(out)) == 0
    assert "1600 updates" in capsys.readouterr().out
    assert json.loads((out / "plan.json").read_text())["stage_epochs"] == [10, 10]
    assert (out / "plan.png").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["test", "r", "json=a.json"], {"json_file": Path("a.json")}),
        (["test", "r", "json=a.json", "iou_thres=0.6"], {"overrides": ["iou_thres=0.6"]}),
        (["test", "r", "weight=b.onnx"], {"weight": "b.onnx"}),
        (["predict", "r", "a.jpg", "conf_thres=0.5"], {"conf_thres": 0.5, "sources": ["a.jpg"]}),
        (["predict", "r", "a.jpg", "class=[cat, 'dog']"], {"classes": ["cat", "'dog'"]}),
        (["predict", "r", "a.jpg", "save_images=false"], {"save_images": False}),
        (["predict", "r", "a.jpg", "multi_label=true"], {"multi_label": True}),
        (["predict", "r", "a.jpg", "batch_size=null"], {"batch_size": None}),
        (["predict", "r", "a.jpg", "data.test_rect=true"], {"sources": ["a.jpg", "data.test_rect=true"]}),
        (["export", "r", "half=true", "img_size=64x96"], {"half": True, "img_size": "64x96"}),
    ],
)
def test_options_are_given_as_settings_too(arguments: list[str], expected: dict[str, object]) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    params = group.commands[arguments[0]].make_context(arguments[0], arguments[1:]).params
    assert {key: params[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "runs/none", "source=a.jpg"], "source=a.jpg: sources are given without a key: a.jpg"),
        (["predict", "runs/none", "a.jpg", "multi_label=maybe"], "multi_label=maybe: must be true or false"),
        (["export", "runs/none", "conf_thres=0.1"], "thresholds are in the file with --nms alone"),
        (["export", "runs/none", "--img-size", "wide"], "--img-size wide: give a side in pixels (640)"),
    ],
)
def test_settings_that_a_command_cannot_use_are_named(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["yoloflow", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.process
def test_ctrl_c_while_modules_are_imported_ends_at_once_with_130(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import os, signal\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n    [None for _ in range(10**6)]\n"
        "except KeyboardInterrupt:\n    pass\n"
    )
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from yoloflow import __main__, cli\n"
        "cli.app = lambda: __import__('slow')\n"
        "__main__.main()\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "yoloflow: interrupted\n")


@pytest.mark.process
def test_ctrl_c_while_the_command_itself_is_imported_is_one_line_and_130(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'yoloflow.cli': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from yoloflow.__main__ import main\n"
        "main()\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "yoloflow: interrupted\n")


@pytest.mark.parametrize(("columns", "has_sizes"), [(60, False), (72, False), (80, True), (120, True)])
def test_names_of_classes_stay_whole_and_figures_that_do_not_fit_are_named(
    columns: int, has_sizes: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = (0.1234,) * len(CLASS_FIGURES)
    names = ["motorcycle", "traffic light", "baseball glove"]
    rows = tuple(ClassResult(k, name, 10070, *figures) for k, name in enumerate(names))
    result = CocoResult((0.1,) * 12, rows, 1, np.zeros((3, 101)), np.zeros((3, 101)))
    shown = io.StringIO()
    _show_classes(Console(file=shown, width=columns), "class", result)
    text = shown.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= columns
    assert [line.split("  ")[0].strip() for line in text.splitlines() if "0.1234" in line] == names
    assert ("medium" in text) == has_sizes
    assert ("AP of small, medium and large objects: in a" in capsys.readouterr().out) != has_sizes


def test_a_table_with_an_uncommonly_long_name_fits_a_terminal_with_all_its_figures() -> None:
    table = _table("class", "objects", *CLASS_FIGURES)
    figures = [f"0.{number}234" for number in range(len(CLASS_FIGURES))]
    table.add_row("an-uncommonly-long-name-of-a-class", "10070", *figures)
    shown = io.StringIO()
    Console(file=shown, width=80).print(table)
    text = shown.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert [figure for figure in ("10070", *figures) if figure not in text] == []
    name = "".join(line.split("  ")[0].strip() for line in text.splitlines())
    assert "an-uncommonly-long-name-of-a-class" in name


@pytest.mark.parametrize("command", [[], ["predict"], ["test"], ["watch"], ["data"], ["weights"]])
def test_help_is_of_whole_words_in_80_columns(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(monkeypatch, *command, "--help") == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r"…|\w\.\.\.(\n|$)", text)
    assert ("--save-images / --no-save-images" in text) == (command == ["predict"])


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("command", [["recipes"], ["weights", "list"], ["train", "--help"]])
def test_lists_fit_the_terminal_and_lose_no_word(
    command: list[str], columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert run(monkeypatch, *command) == 0
    in_a_pipe = capsys.readouterr().out.rpartition("Settings (")[2]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run(monkeypatch, *command) == 0
    in_a_terminal = capsys.readouterr().out.rpartition("Settings (")[2]
    # A path stays whole, so that it can be copied.
    too_wide = [line for line in in_a_terminal.splitlines() if len(line) > columns and len(line.split()) > 1]
    assert too_wide == []
    assert in_a_terminal.split() == in_a_pipe.split()
