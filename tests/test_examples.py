"""The examples run: each does on a tiny network what it is there to show."""

import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.tiny_run import tiny_run, write_images
from yoloflow import Detector, load_config, train
from yoloflow.callbacks import CALLBACKS
from yoloflow.data.digits import SceneRecipe, digits_dataset
from yoloflow.data.transforms import TRANSFORMS
from yoloflow.export import ExportSettings, InnerNms, export
from yoloflow.families import FAMILIES
from yoloflow.weights.files import load_weights

EXAMPLES = Path(__file__).parents[1] / "examples"
SCENES = SceneRecipe(num_train=8, num_val=4, side=64, digits_per_scene=(1, 2), digit_side=(16.0, 24.0))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The settings of a tiny training on drawn scenes."""
    cache = tmp_path_factory.mktemp("scenes")
    return [
        *(f"data.{part}_set={digits_dataset(part, SCENES, cache)}" for part in ("train", "val")),
        *("img_size=64", "epochs=1", "per_batch_size=4", "network.width_multiple=0.125", "report=false"),
        *("data.num_parallel_workers=0", "device=cpu", "threads=1", "name=run"),
    ]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own; the tables that an example adds to are afterwards as they were."""
    tables: tuple[dict[str, Any], ...] = (CALLBACKS, FAMILIES, TRANSFORMS)
    before = [dict(table) for table in tables]
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)


def run_example(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> dict[str, Any]:
    """Run an example as a script; returns its names."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


def weights_of(run: str, name: str = "last_ema") -> dict[str, torch.Tensor]:
    return load_weights(Path("runs") / run / "weights" / f"{name}.safetensors")


def test_every_example_has_a_test_and_the_eight_steps_fit_on_a_page() -> None:
    here = Path(__file__).read_text() + (EXAMPLES.parent / "tests/mindyolo/test_flow.py").read_text()
    names = {path.stem for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    assert len(names) >= 9
    assert [name for name in sorted(names) if f'"{name}' not in here] == []
    page = (EXAMPLES / "eight_steps.py").read_text()
    assert len(page.splitlines()) < 80
    assert [number for number in range(1, 9) if f"    # {number}. " not in page] == []
    assert "yoloflow." not in page.replace("yoloflow as yf", "")


@pytest.mark.training
def test_the_eight_steps_give_the_weights_of_the_flow(
    sets: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*sets, "epochs=2", "run_eval_interval=1"]
    run_example(monkeypatch, "eight_steps", "quickstart", *settings)
    summary = train(load_config("quickstart", [*settings, "name=flow"]))
    for name in ("last", "last_ema", "best_ema"):
        ours, flow = weights_of("run", name), weights_of("flow", name)
        assert ours.keys() == flow.keys()
        assert all(torch.equal(tensor, flow[key]) for key, tensor in ours.items())
    assert summary["steps"] == 4
    with pytest.raises(ValueError, match="runs/run"):  # a run is never overwritten
        run_example(monkeypatch, "eight_steps", "quickstart", *settings)


@pytest.mark.training
def test_finetuning_begins_with_the_weights_that_are_given(
    sets: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(load_config("quickstart", [*sets, "name=trained"]))
    Path("data.yaml").write_text(
        "\n".join(text.replace("data.", "").replace("_set=", ": ") for text in sets[:2])
    )
    tiny = [text for text in sets if not text.startswith("data.train_set")][1:]
    names = run_example(monkeypatch, "finetune", "quickstart", "runs/trained", "data.yaml", *tiny)
    assert "best epoch" in capsys.readouterr().out
    assert (Path("runs/run") / "weights.json").is_file()
    image = next(iter(sorted(Path(sets[0].partition("=")[2]).parent.rglob("*.png"))))
    names["show"]("runs/run", str(image))
    assert Path("found.jpg").is_file()


@pytest.mark.training
def test_a_callback_of_ones_own_writes_its_file(sets: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run_example(monkeypatch, "custom_callback", "quickstart", *sets, "epochs=2", "run_eval_interval=1")
    rows = [line.split(",") for line in Path("runs/run/worst.csv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["1", "2"]
    assert all(row[1] in "0123456789" and 0 <= float(row[2]) <= 1 for row in rows)


@pytest.mark.training
def test_a_loss_of_ones_own_has_its_item_and_its_setting(
    sets: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_example(monkeypatch, "custom_loss", "quickstart", *sets, "log_interval=1", "loss.logits=0.5")
    assert '"logits": ' in Path("runs/run/metrics.jsonl").read_text()
    assert "logits: 0.5" in Path("runs/run/config.yaml").read_text()


@pytest.mark.training
def test_a_head_of_ones_own_trains_and_predicts(sets: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run_example(monkeypatch, "custom_head", "quickstart", *sets)
    assert weights_of("run")["head.class_branches.0.weight"].shape[2:] == (1, 1)
    detector = Detector.load("runs/run", device="cpu")
    assert detector(np.zeros((50, 70, 3), np.uint8))[0].boxes_xyxy.shape[1] == 4


@pytest.mark.process
def test_a_transform_of_ones_own_works_in_loading_processes(sets: list[str]) -> None:
    command = [sys.executable, str(EXAMPLES / "custom_transform.py"), "quickstart", *sets]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    subprocess.run([*command, "data.num_parallel_workers=1"], env=environment, check=True, timeout=300)
    assert Path("runs/run/config.yaml").read_text().count("func_name: greyed") == 2


def test_the_transform_of_ones_own_mixes_with_grey(monkeypatch: pytest.MonkeyPatch) -> None:
    names = runpy.run_path(str(EXAMPLES / "custom_transform.py"))
    image = np.zeros((2, 2, 3), np.uint8)
    image[..., 0] = 90

    class Stub:
        def __init__(self) -> None:
            self.image = image

        def with_image(self, changed: np.ndarray) -> np.ndarray:
            return changed

    assert names["Greyed"](1.0)(Stub(), None).tolist() == np.full((2, 2, 3), 30).tolist()
    assert names["Greyed"](0.5)(Stub(), None)[0, 0].tolist() == [60, 15, 15]
    assert image[0, 0, 0] == 90
    with pytest.raises(ValueError, match="strength"):
        names["Greyed"](2.0)


@pytest.mark.training
def test_the_notebook_runs_and_shows_progress_and_images(
    sets: list[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    (place_of_settings,) = (
        number for number, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])
    )
    tiny = nbformat.v4.new_code_cell(f"settings = {[*sets, 'name=notebook']}")
    notebook.cells.insert(place_of_settings + 1, tiny)
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    client = nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(place)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    shown = [kind for output in outputs for kind in output.get("data", {}) if kind.startswith("image/")]
    assert len(shown) == 4
    text = "".join(output.get("text", "") for output in outputs)
    assert "epoch 1/1: AP " in text
    assert [output for output in outputs if output.get("name") == "stderr"] == []
    training = next(number for number, cell in enumerate(notebook.cells) if "train(config)" in cell.source)
    with client.setup_kernel():  # again, in a new kernel
        for number in (*range(place_of_settings, place_of_settings + 3), training):
            client.execute_cell(notebook.cells[number], number)
    assert "is finished: nothing is left to train" in str(notebook.cells[training].outputs)


@pytest.mark.full
def test_own_data_goes_from_the_files_of_a_label_tool_to_drawn_images(
    sets: list[str], shared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in sorted((shared / "data/bccd/voc/Annotations").glob("*.xml"))[:30]:
        image = (shared / "data/bccd/images" / file.name).with_suffix(".jpg")
        for source, folder in ((file, "Annotations"), (image, "JPEGImages")):
            Path(folder).mkdir(exist_ok=True)
            shutil.copy(source, folder)
    tiny = [text for text in sets if not text.startswith("data.train_set")][1:]
    run_example(monkeypatch, "own_data", "Annotations", "yolov8n", *tiny, "report=true")
    said = capsys.readouterr().out
    assert "no errors: a training can start" in said
    assert "Platelets" in said
    assert len(list(Path("runs/run/found").glob("*.jpg"))) > 3
    assert Path("runs/run/report.html").is_file()


@pytest.mark.compile
@pytest.mark.parametrize("shape_hw", [(64, 64), (64, 96)])
def test_plain_onnxruntime_finds_what_the_detector_finds(place: Path, shape_hw: tuple[int, int]) -> None:
    write_images(place, {"a.png": (40, 64), "b.png": (150, 300), "c.png": (64, 30)})
    run = tiny_run(place / "run")
    settings = ExportSettings(shape_hw, nms=InnerNms(conf_thres=0.01))
    file = str(export(str(run), ["device=cpu"], settings=settings).path)
    names = runpy.run_path(str(EXAMPLES / "onnx_inference.py"))
    # An upright image is shrunk twice for a flat input, and once in the example.
    for image in ("a.png", "b.png", "c.png")[: 3 if shape_hw == (64, 64) else 2]:
        (expected,) = Detector.load(file, device="cpu")(image, conf_thres=0.01)
        found = names["detect"](file, image)
        assert len(found) == len(expected) > 0
        for (name, score, box), other in zip(found, expected, strict=True):
            assert (name, score) == (other.name, pytest.approx(other.score, abs=1e-5))
            assert box == pytest.approx(other.box_xyxy, abs=0.01)
