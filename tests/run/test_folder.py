"""One training, one folder: found, numbered, claimed, continued, never overwritten."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from yoloflow.cli import main
from yoloflow.config.reader import dump_config, load_config
from yoloflow.run.checkpoint import remove_leftovers
from yoloflow.run.folder import RunFolder, choose_run, find_weights, names_of_run
from yoloflow.run.lock import AnotherProcessError, acquire_run_lock, is_training, release_run_lock
from yoloflow.runtime.ranks import Ranks
from yoloflow.structures import YoloflowError


def begin_run(
    folder: Path, name: str | None, resume: str = "never", config_text: str = "epochs: 1\n"
) -> RunFolder:
    with release_run_lock():
        run = choose_run(str(folder), name, "yolov8n", resume, Ranks())
        run.create(config_text, ["cat"], {})
    return run


def test_a_claim_that_comes_to_nothing_leaves_no_trace(tmp_path: Path) -> None:
    with release_run_lock():
        choose_run(str(tmp_path / "runs"), "pets", "yolov8n", "never", Ranks())
        assert (tmp_path / "runs" / ".locks" / "pets.lock").exists()
    assert not list(tmp_path.iterdir())


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    begin_run(tmp_path, "pets")
    with pytest.raises(YoloflowError, match="pets exists already.*resume=auto"):
        begin_run(tmp_path, "pets")


def test_a_run_without_a_name_takes_the_recipes_and_a_number(tmp_path: Path) -> None:
    assert [begin_run(tmp_path, None).path.name for _ in range(3)] == ["yolov8n", "yolov8n-2", "yolov8n-3"]


def test_resume_auto_starts_afresh_and_then_continues(tmp_path: Path) -> None:
    first = begin_run(tmp_path, "pets", "auto")
    second = begin_run(tmp_path, "pets", "auto", "epochs: 2\n")
    assert (first.resumed, second.resumed) == (False, True)
    assert first.path == second.path


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(YoloflowError, match="cannot be written"):
        begin_run(tmp_path / "file", "pets")


def test_the_best_averaged_weights_are_the_ones_to_use(tmp_path: Path) -> None:
    run = begin_run(tmp_path, "pets")
    with pytest.raises(YoloflowError, match="this run has no weights yet"):
        find_weights(run.path)
    for name in ("last", "last_ema", "best", "best_ema"):
        (run.weights / f"{name}.safetensors").write_bytes(b"")
        assert find_weights(run.path).stem == name


# Claims a folder, says which, and holds it until its standard input ends.
HOLDER = """
import sys
import threading
import time
from yoloflow.run.folder import choose_run
from yoloflow.runtime.ranks import Ranks
save_dir, name, resume = sys.argv[1:]
run = choose_run(save_dir, name or None, "yolov8n", resume, Ranks())
print(run.path.name, run.resumed, flush=True)
sys.stdin.read()
"""


def start_holder(folder: Path, name: str = "", resume: str = "never") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(folder), name, resume]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, stderr=pipe)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.process
def test_processes_that_start_at_once_without_a_name_have_a_folder_each(tmp_path: Path) -> None:
    holders = [start_holder(tmp_path) for _ in range(3)]
    assert sorted(first_line(holder).split()[0] for holder in holders) == [
        "yolov8n",
        "yolov8n-2",
        "yolov8n-3",
    ]
    for holder in holders:
        holder.communicate(timeout=60)
    assert not (tmp_path / "yolov8n").exists()  # nothing is written where nothing is trained


@pytest.mark.process
def test_a_folder_in_which_another_process_trains_is_refused_with_its_number(tmp_path: Path) -> None:
    holder = start_holder(tmp_path, "pets")
    assert first_line(holder) == "pets False"
    with pytest.raises(YoloflowError, match=f"pets is being trained by process {holder.pid} on .*name="):
        choose_run(str(tmp_path), "pets", "yolov8n", "never", Ranks())
    holder.communicate(timeout=60)
    assert not choose_run(str(tmp_path), "pets", "yolov8n", "never", Ranks()).resumed


@pytest.mark.process
def test_a_folder_that_is_named_by_a_link_is_refused_too(tmp_path: Path) -> None:
    begin_run(tmp_path, "pets")
    (tmp_path / "latest").symlink_to("pets")
    holder = start_holder(tmp_path, "pets", "auto")
    assert first_line(holder) == "pets True"
    with pytest.raises(AnotherProcessError, match=f"by process {holder.pid} on "):
        acquire_run_lock(tmp_path / "latest")
    holder.communicate(timeout=60)


# Claims and frees a folder again and again; given a file to make there, it fails where two are in at once.
COMER_AND_GOER = """
import os, sys
from pathlib import Path
from yoloflow.run.lock import AnotherProcessError, acquire_run_lock, release_run_lock
folder, mark = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(300):
    try:
        with release_run_lock():
            acquire_run_lock(folder)
            if mark.name:
                os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
                mark.unlink()
    except AnotherProcessError:
        assert mark.name
"""


@pytest.mark.process
@pytest.mark.parametrize("is_shared", [False, True])
def test_processes_that_come_and_go_do_not_hinder_each_other_and_are_never_two_in_a_folder(
    tmp_path: Path, is_shared: bool
) -> None:
    mark = str(tmp_path / "mark") if is_shared else ""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COMER_AND_GOER, str(tmp_path / (f"run{number}", "run")[is_shared]), mark],
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    assert [process.communicate(timeout=60)[1] for process in processes] == ["", "", ""]
    assert not list(tmp_path.iterdir())


@pytest.mark.process
def test_a_run_is_continued_as_soon_as_a_killed_process_is_gone(tmp_path: Path) -> None:
    begin_run(tmp_path, "pets")
    holder = start_holder(tmp_path, "pets", "auto")
    assert first_line(holder) == "pets True"
    heir = start_holder(tmp_path, "pets", "auto")
    with pytest.raises(subprocess.TimeoutExpired):
        heir.wait(timeout=3)
    holder.kill()
    holder.communicate(timeout=60)
    assert first_line(heir) == "pets True"
    heir.communicate(timeout=60)


def finish(run: RunFolder) -> None:
    run.summary.write_text(json.dumps({"epochs": 1000}))


def test_without_a_name_the_run_that_is_not_finished_goes_on(tmp_path: Path) -> None:
    runs = [begin_run(tmp_path, None) for _ in range(3)]
    with pytest.raises(YoloflowError, match=r"not finished \(yolov8n, yolov8n-2, yolov8n-3\); add name="):
        begin_run(tmp_path, None, "auto")
    for finished in (runs[0], runs[2]):
        finish(finished)
    assert begin_run(tmp_path, None, "auto").path == runs[1].path
    finish(runs[1])
    assert choose_run(str(tmp_path), None, "yolov8n", "auto", Ranks()).path == runs[2].path


def test_a_removed_run_does_not_hide_those_with_higher_numbers(tmp_path: Path) -> None:
    runs = [begin_run(tmp_path, None) for _ in range(10)]
    for run in runs[:9]:
        shutil.rmtree(run.path)
    begin_run(tmp_path, "yolov8n-small")
    assert begin_run(tmp_path, None, "auto").path == runs[9].path
    finish(begin_run(tmp_path, "yolov8n-2"))
    finish(runs[9])
    with release_run_lock():
        assert choose_run(str(tmp_path), None, "yolov8n", "auto", Ranks()).path == runs[9].path


def test_a_folder_with_the_name_of_a_recipe_is_not_taken_for_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    with release_run_lock():
        run = choose_run("runs", "quickstart", "quickstart", "never", Ranks())
        run.create(dump_config(load_config("quickstart")), ["0"], {})
    finish(run)
    command = ["yoloflow", "train", "quickstart", "resume=auto", "data.train_set=nowhere.txt"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert f"{Path('runs/quickstart')} is finished" in caplog.text


def test_the_run_folder_that_the_command_names_is_the_one_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("quickstart", "quickstart-2"):
        run = choose_run(str(tmp_path / "runs"), name, "quickstart", "never", Ranks())
        run.create(dump_config(load_config("quickstart", [f"name={name}", "save_dir=runs"])), ["0"], {})
        finish(run)
    for folder, changed in ((tmp_path, ["epochs=77"]), (tmp_path / "runs", [])):
        monkeypatch.chdir(folder)
        named = os.path.relpath(tmp_path / "runs" / "quickstart-2")
        monkeypatch.setattr(sys, "argv", ["yoloflow", "train", named, "resume=auto", *changed])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        assert f"{tmp_path / 'runs' / 'quickstart-2'} is finished: nothing is left to train" in caplog.text
        assert ("are not those it was trained with: epochs. Nothing is trained" in caplog.text) == bool(
            changed
        )
        caplog.clear()


@pytest.mark.parametrize("content", ["[1, 2", "[1]", "{}", "[" * 100_000])
def test_damaged_class_names_are_a_clear_error(tmp_path: Path, content: str) -> None:
    run = begin_run(tmp_path, "pets")
    (run.path / "names.json").write_text(content)
    with pytest.raises(
        YoloflowError, match=r"names\.json(:1:\d+)?: (no valid JSON|the content.* should be a)"
    ):
        names_of_run(run.path)


def test_what_a_killed_process_was_writing_is_removed_and_nothing_else(tmp_path: Path) -> None:
    run = begin_run(tmp_path, "pets")
    kept = ["state-00000002.json", "state-00000002.safetensors", "best.safetensors", "note.txt"]
    for name in (*kept, ".state-00000004.safetensors.77.partial", "state-00000004.safetensors"):
        (run.weights / name).write_bytes(b"x")
    (run.plots / ".curves.png.77.partial").write_bytes(b"x")
    others = [run.path / ".report.html.78.partial", run.path / "predictions" / ".predictions.json.partial"]
    others[1].parent.mkdir()
    for path in (*others, run.path / ".config.yaml.77.partial"):
        path.write_bytes(b"x")
    assert remove_leftovers(run.path, run.weights) == 4
    assert all(path.exists() for path in others)  # other commands may be writing these
    assert sorted(path.name for path in run.weights.iterdir()) == sorted(kept)
    assert not list(run.plots.iterdir())


@pytest.mark.process
def test_within_a_process_a_folder_has_one_claim_and_one_owner(tmp_path: Path) -> None:
    with release_run_lock():
        acquire_run_lock(tmp_path / "mine")
        with release_run_lock():
            acquire_run_lock(tmp_path / "other")
            for name in ("mine", "other"):
                with pytest.raises(AnotherProcessError, match="another training of this process"):
                    acquire_run_lock(tmp_path / name)
        assert [path.name for path in (tmp_path / ".locks").iterdir()] == ["mine.lock"]
        assert (is_training(tmp_path / "mine"), is_training(tmp_path / "other")) == (True, None)
        holder = start_holder(tmp_path, "mine")
        assert "by process" in holder.communicate(timeout=60)[1]
    acquire_run_lock(tmp_path / "mine")


@pytest.mark.process
def test_a_process_that_was_killed_is_known_to_train_no_more(tmp_path: Path) -> None:
    holder = start_holder(tmp_path, "pets")
    assert first_line(holder) == "pets False"
    assert is_training(tmp_path / "pets")
    holder.kill()
    holder.communicate(timeout=60)
    assert is_training(tmp_path / "pets") is False


def test_what_was_refused_leaves_none_of_the_folders_that_it_needed(tmp_path: Path) -> None:
    with release_run_lock():
        acquire_run_lock(tmp_path / "a" / "b" / "c" / "run")
        assert (tmp_path / "a" / "b" / "c").is_dir()
    assert list(tmp_path.iterdir()) == []
    with release_run_lock():
        acquire_run_lock(tmp_path / "d" / "e" / "run")
        (tmp_path / "d" / "kept").touch()
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["kept"]


def test_a_run_that_another_training_finishes_meanwhile_is_not_extended(tmp_path: Path) -> None:
    begin_run(tmp_path, "pets")
    (tmp_path / "pets" / "summary.json").write_text('{"epochs": 1}')
    found: list[RunFolder] = []

    def resume() -> None:
        with release_run_lock():
            wants = (str(tmp_path), "pets", "yolov8n", "auto", Ranks(), lambda summary: summary["epochs"] < 2)
            found.append(choose_run(*wants))

    with release_run_lock():
        acquire_run_lock(tmp_path / "pets")
        second = threading.Thread(target=resume)
        second.start()
        time.sleep(0.2)
        (tmp_path / "pets" / "summary.json").write_text('{"epochs": 2}')
    second.join()
    assert [(run.extends, run.finished_summary) for run in found] == [(False, {"epochs": 2})]
