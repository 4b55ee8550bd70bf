"""The doctor: every kind of fault is found, what the user wants is done, and the account closes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.support.data_sets import annotation, voc_object, write_coco, write_picture, write_voc, write_yolo
from tests.support.rich_sets import GOOD, assert_account_closes, write_messy_set
from yoloflow.check import check_data
from yoloflow.cli import app
from yoloflow.config.reader import load_config
from yoloflow.data.index import read_index
from yoloflow.data.problems import KINDS, Policy, summarise_problems
from yoloflow.data.sets import read_sets
from yoloflow.structures import YoloflowError


def found(root: Path, **changes: Any) -> dict[str, int]:
    """Kinds of what a decoding check finds in the messy set, and how often."""
    index = read_index(str(root / "list.txt"), nc=2, decode=True, stop_at_errors=False, **changes)
    assert_account_closes(index)
    kinds: dict[str, int] = {}
    for problem in index.problems:
        kinds[problem.kind] = kinds.get(problem.kind, 0) + 1
    return kinds


def test_a_check_finds_every_fault_of_a_messy_set(tmp_path: Path) -> None:
    write_messy_set(tmp_path)
    assert found(tmp_path) == {
        "box-nan": 2,
        "box-negative": 2,
        "box-over-one": 1,
        "not-normalised": 1,
        "box-zero-area": 1,
        "duplicate-box": 3,
        "wrong-column-count": 2,
        "class-not-a-number": 1,
        "box-not-a-number": 1,
        "label-not-text": 1,
        "missing-label": 1,
        "orphan-label": 1,
        "class-out-of-range": 2,
        "missing-image": 1,
        "empty-image-file": 1,
        "not-an-image": 1,
        "truncated-image": 1,
        "damaged-image": 1,
        "duplicate-image": 1,
        "same-picture": 1,
        "wrong-suffix": 1,
        "exif-rotated": 1,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_each_action_is_carried_out_and_the_account_closes(tmp_path: Path, kind: str) -> None:
    source = write_messy_set(tmp_path)
    before = read_index(str(source), nc=2, decode=True, stop_at_errors=False)
    concerned = {p.image for p in before.problems if p.kind == kind and p.image} & set(before.image_paths)
    for action in KINDS[kind].actions:
        index = read_index(str(source), nc=2, policy={kind: action}, decode=True, stop_at_errors=False)
        assert_account_closes(index)
        done = {problem.action for problem in index.problems if problem.kind == kind}
        if action == "drop-image" and kind != "duplicate-image":
            assert not concerned & set(index.image_paths)
            # A box that is still in a used image belongs to none that a fault of this kind dropped.
            assert done <= {"drop-image", "drop-box"}
        elif action != "error" and done and action != "clip-box":
            assert done == {action}
        assert bool(Policy.of({kind: action}).errors(index.problems)) >= (action == "error" and bool(done))


def test_an_image_is_dropped_once_whatever_is_wrong_with_it(tmp_path: Path) -> None:
    source = write_messy_set(tmp_path)
    everything = {name: "drop-image" for name, kind in KINDS.items() if "drop-image" in kind.actions}
    index = read_index(str(source), nc=2, policy=everything, decode=True)
    assert_account_closes(index)
    names = sorted(Path(path).stem for path in index.image_paths)
    assert names == ["empty", "good"]
    dropped = [p.image for p in index.problems if p.action == "drop-image" and p.kind != "duplicate-image"]
    assert len(dropped) == len(set(dropped))


def test_training_decodes_only_if_the_user_wants_something_done_about_pixels(tmp_path: Path) -> None:
    source = str(write_messy_set(tmp_path))
    quick = read_index(source, nc=2, policy={"class-out-of-range": "drop-box"})
    assert quick.digests is None
    deep_policy = {
        "damaged-image": "drop-image",
        "class-out-of-range": "drop-box",
        "same-picture": "drop-image",
    }
    deep = read_index(source, nc=2, policy=deep_policy)
    assert deep.digests is not None
    stems = [{Path(path).stem for path in index.image_paths} for index in (quick, deep)]
    assert "second" in stems[0] - stems[1]
    with pytest.raises(YoloflowError, match=r"damaged.png: .* \[damaged-image\]"):
        read_index(source, nc=2, policy={"class-out-of-range": "drop-box", "damaged-image": "error"})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("ignore", 'data.problems=ignore: must be "repair", "error", or actions by kind'),
        ({"default": "keep"}, "data.problems=keep"),
        ({"box-nam": "error"}, "data.problems.box-nam: no such kind of problem; did you mean box-nan"),
        ({"box-nan": "keep"}, "data.problems.box-nan=keep: can be drop-box or drop-image or error"),
    ],
)
def test_a_wrong_policy_is_named_before_anything_is_read(setting: object, message: str) -> None:
    with pytest.raises(YoloflowError) as caught:
        read_index("nowhere.txt", nc=2, policy=setting)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_the_policy_of_a_recipe_is_checked_with_its_line(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("__BASE__: yolov8n\ndata:\n  problems:\n    box-nam: error\n")
    with pytest.raises(YoloflowError, match=r"mine\.yaml:4: .*box-nam: no such kind"):
        load_config(recipe)


def test_default_error_lets_remarks_pass(tmp_path: Path) -> None:
    source = write_yolo(tmp_path, {"a": GOOD})
    exif = Image.Exif()
    exif[0x0112] = 3
    write_picture(tmp_path / "images" / "a.png", exif=exif.tobytes())
    index = read_index(str(source), nc=2, policy="error")
    assert [problem.kind for problem in index.problems] == ["exif-rotated"]
    strict = {"default": "error", "exif-rotated": "error"}
    with pytest.raises(YoloflowError, match="turned or mirrored"):
        read_index(str(source), nc=2, policy=strict)


# Sets side by side


def sets_with_a_leak(root: Path) -> list[str]:
    """Overrides of two sets: one image listed in both, one copied under another name."""
    train = write_yolo(root / "train", {"a": GOOD, "b": GOOD, "c": GOOD + "1 .2 .2 .1 .1\n"})
    val = write_yolo(root / "val", {"d": GOOD, "e": GOOD})
    for number, path in enumerate(sorted(root.glob("*/images/*.png"))):
        Image.fromarray(np.full((80, 100, 3), 20 * number, np.uint8)).save(path)
    shutil.copy(root / "train" / "images" / "a.png", root / "val" / "images" / "e.png")
    val.write_text(val.read_text() + f"{root / 'train' / 'images' / 'b.png'}\n")
    return [f"data.train_set={train}", f"data.val_set={val}", "data.names=[cat, dog]", "per_batch_size=1"]


def test_leaks_between_training_and_validation_are_found_by_path_and_by_pixels(tmp_path: Path) -> None:
    overrides = sets_with_a_leak(tmp_path)
    config = load_config("yolov8n", overrides)
    quick = read_sets(config.data, 320, with_val=True)["train_set"]
    found_quickly = [(Path(p.file).stem, p.kind) for p in quick.problems if p.kind != "few-objects"]
    assert found_quickly == [("b", "leaked-image")]
    done = check_data(config)
    leaks = {Path(p.file).stem: p.detail for p in done.sets["train_set"].problems if p.kind == "leaked-image"}
    assert leaks.keys() == {"a", "b"}
    assert "has the pixels of" in leaks["a"]
    assert "e.png" in leaks["a"]


def test_leaked_images_leave_the_training_set_if_the_user_says_so(tmp_path: Path) -> None:
    overrides = [*sets_with_a_leak(tmp_path), "data.problems={leaked-image: drop-image}"]
    sets = read_sets(load_config("yolov8n", overrides).data, 320, with_val=True)
    assert [Path(path).stem for path in sets["train_set"].image_paths] == ["c"]
    assert len(sets["val_set"]) == 3
    assert_account_closes(sets["train_set"])
    config = load_config("yolov8n", [*sets_with_a_leak(tmp_path), "data.problems={leaked-image: error}"])
    with pytest.raises(YoloflowError, match="leaked-image"):
        read_sets(config.data, 320, with_val=True)


def test_orphans_are_label_files_and_not_any_text(tmp_path: Path) -> None:
    source = write_yolo(tmp_path, {"a": GOOD})
    for name, text in (("train.txt", "images/a.png\n"), ("classes.txt", "cat\n"), ("empty.txt", "")):
        (tmp_path / "labels" / name).write_text(text)
    assert read_index(str(source), nc=1).problems == []
    (tmp_path / "labels" / "b.txt").write_text(GOOD)
    (problem,) = read_index(str(source), nc=1).problems
    assert (Path(problem.file).name, problem.kind) == ("b.txt", "orphan-label")
    write_picture(tmp_path / "images" / "b.png")
    assert read_index(str(source), nc=1).problems == []


def test_coco_and_voc_problems_can_drop_their_image(tmp_path: Path) -> None:
    coco = write_coco(tmp_path / "coco", [annotation(), annotation(20, bbox=[1, 2, 3]), annotation(20, 99)])
    policy = {"wrong-column-count": "drop-image", "class-out-of-range": "drop-image"}
    index = read_index(str(coco), policy=policy)
    assert_account_closes(index)
    assert [Path(path).stem for path in index.image_paths] == ["1"]
    voc = write_voc(
        tmp_path / "voc", {"a": voc_object("cat", 1, 2, 30, 40), "b": voc_object("cat", 1, 2, "x", 40)}
    )
    index = read_index(str(voc), policy={"box-not-a-number": "drop-image"})
    assert_account_closes(index)
    assert [Path(path).stem for path in index.image_paths] == ["a"]


# The command


def run_check(*arguments: str) -> tuple[int, str]:
    outcome = CliRunner().invoke(app, ["data", "check", *arguments])
    return outcome.exit_code, outcome.output


def test_the_command_reports_all_and_its_exit_code_says_whether_a_training_would_start(
    tmp_path: Path,
) -> None:
    train, report = write_messy_set(tmp_path / "set"), tmp_path / "report.json"
    overrides = [f"data.train_set={train}", "data.names=[cat, dog]", "run_eval=false", "img_size=320"]
    code, output = run_check("yolov8n", *overrides, "--report", str(report))
    assert code == 1
    assert "3 errors (class-out-of-range, damaged-image): no training starts" in output
    assert "objects by class: cat 14, dog 1" in output
    content = json.loads(report.read_text())
    assert len(content["errors"]) == 3
    images = content["train_set"]["images"]
    assert images["listed"] == images["used"] + sum(images["dropped"].values()) == 22
    assert {row["kind"] for row in content["train_set"]["problems"]} >= {"same-picture", "exif-rotated"}
    assert content["train_set"]["statistics"]["classes"][0] == {"name": "cat", "objects": 14, "images": 13}
    repairs = "data.problems={class-out-of-range: drop-box, damaged-image: drop-image}"
    code, output = run_check("yolov8n", *overrides, repairs, "--report", str(report))
    assert code == 0
    assert "no errors: a training can start" in output


def test_a_check_without_a_validation_set_says_that_no_training_starts(tmp_path: Path) -> None:
    source = write_yolo(tmp_path, {"a": GOOD, "b": GOOD})
    overrides = [f"data.train_set={source}", "data.names=[cat, dog, bird]", "img_size=320"]
    report = tmp_path / "report.json"
    code, output = run_check("yolov8n", *overrides, "--report", str(report))
    assert code == 1
    assert "no validation set: give data.val_set=..." in output
    assert "no errors" not in output
    (error,) = json.loads(report.read_text())["errors"]
    assert error.endswith("or train without (run_eval=false)")
    with pytest.raises(YoloflowError, match="val_set is not set"):
        read_sets(load_config("yolov8n", overrides).data, 320, with_val=True)
    for more in ("run_eval=false", f"data.val_set={source}"):
        assert run_check("yolov8n", *overrides, more, "--report", str(report))[0] == 0
    plan = ["plan", "yolov8n", *overrides, "per_batch_size=1", "--out", str(tmp_path / "plan")]
    assert "no validation set: give" in CliRunner().invoke(app, plan).output
    assert "no validation set" not in CliRunner().invoke(app, [*plan, "run_eval=false"]).output


def test_remarks_on_the_set_as_a_whole(tmp_path: Path) -> None:
    tiny = "".join(f"0 .{i:02} .5 .002 .1\n" for i in range(1, 52))
    source = write_yolo(tmp_path, {"a": tiny + GOOD, "b": tiny, "c": "2 .5 .5 .3 .3\n"})
    overrides = [f"data.train_set={source}", "data.names=[cat, dog, bird]", "run_eval=false", "img_size=320"]
    index = check_data(load_config("yolov8n", overrides)).sets["train_set"]
    remarks = {p.kind: p.detail for p in index.problems if p.kind != "same-picture"}
    assert remarks == {
        "unused-class": "no object of 1 of 3 classes: dog",
        "few-objects": "fewer than 10 objects of 1 of 3 classes: bird 1",
        "class-imbalance": "cat has 103 objects, bird 1",
        "tiny-boxes": "102 of 104 objects (98.1%) are under 2 px wide or high at 320 px",
    }
    assert all(problem.kind in KINDS for problem in index.problems)
    assert any("tiny-boxes (1)" in line for line in summarise_problems(index))
