"""Label lines of other forms than boxes and outlines: keypoints, tracks, pixels."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.data_sets import HEIGHT, WIDTH, write_yolo
from yoloflow.check import check_data
from yoloflow.config.reader import load_config
from yoloflow.convert import convert
from yoloflow.data.index import read_index
from yoloflow.structures import DatasetIndex, YoloflowError

BOX = "0 .5 .5 .4 .2"
CORNERS = [0.3 * WIDTH, 0.4 * HEIGHT, 0.7 * WIDTH, 0.6 * HEIGHT]
IN_2D = " .4 .45 .6 .55"
IN_3D = " .4 .45 1 .6 .55 2"


def read_lines(root: Path, lines: str, kpt_shape: list[int] | None = None) -> DatasetIndex:
    source = write_yolo(root, {"a": f"{lines}\n", "b": "1 .2 .2 .1 .1\n"})
    return read_index(str(source), nc=2, kpt_shape=kpt_shape)


def kinds_of(index: DatasetIndex) -> list[tuple[str, str]]:
    return [(problem.kind, problem.action) for problem in index.problems if problem.kind != "unused-class"]


@pytest.mark.parametrize(("points", "shape"), [(IN_2D, [2, 2]), (IN_3D, [2, 3]), (" 0 0 0" * 17, [17, 3])])
def test_the_box_before_keypoints_is_read_where_kpt_shape_says_so(
    tmp_path: Path, points: str, shape: list[int]
) -> None:
    index = read_lines(tmp_path, f"{BOX}{points}\n{BOX.replace('0 ', '1 ', 1)}", shape)
    np.testing.assert_allclose(index.boxes_xyxy[:2], [CORNERS] * 2)
    assert not len(index.polygon_points)
    assert kinds_of(index) == [("unused-keypoints", "keep")]
    assert index.num_boxes_listed == len(index.classes) == 3


def test_lines_that_contradict_kpt_shape_are_named(tmp_path: Path) -> None:
    index = read_lines(tmp_path, f"{BOX}{IN_2D}", [2, 3])
    assert kinds_of(index) == [("wrong-column-count", "drop-box")]
    assert "9 columns, not 5 (class cx cy w h) or 11" in index.problems[0].detail


@pytest.mark.parametrize("shape", ["[4]", "[8,1]", "4", "[4,2,1]"])
def test_kpt_shape_is_two_numbers(shape: str) -> None:
    with pytest.raises(YoloflowError, match=r"kpt_shape: \[number of keypoints, 2 or 3 figures of each\] is"):
        load_config("yolov8n", [f"data.kpt_shape={shape}"])


def test_keypoints_that_nobody_announced_are_said(tmp_path: Path) -> None:
    index = read_lines(tmp_path, f"{BOX}{IN_2D}\n1 .3 .3 .2 .2 .25 .35 .31 .29")
    assert kinds_of(index) == [("maybe-keypoints", "keep")]
    assert "data.kpt_shape=[2, 2]" in index.problems[0].detail
    assert len(index.polygon_points) == 8


@pytest.mark.parametrize("points", [IN_3D, IN_3D + IN_3D, IN_3D * 2 + " .5 .5 0"])
def test_keypoints_with_visibility_are_never_an_outline(tmp_path: Path, points: str) -> None:
    index = read_lines(tmp_path, f"{BOX}{points}\n{BOX}{points.replace('2', '1')}")
    assert kinds_of(index) == [("wrong-column-count", "drop-box")] * 2
    count = len(points.split()) // 3
    assert all(f"data.kpt_shape=[{count}, 3]" in problem.detail for problem in index.problems)


def pose_lines(figures: int = 2) -> list[str]:
    """Returns 20 lines of a box and four keypoints in it."""
    random = np.random.default_rng(0)
    lines = []
    for _ in range(20):
        centre = 0.5 + 0.1 * random.random(2)
        points = centre + 0.3 * (random.random((4, 2)) - 0.5)
        rows = np.hstack((points, random.random((4, figures - 2))))
        lines.append("0 " + " ".join(f"{value:.4f}" for value in (*centre, 0.3, 0.3, *rows.ravel())))
    return lines


def test_a_stray_keypoint_a_box_past_the_edge_and_an_outline_do_not_hide_the_keypoints(
    tmp_path: Path,
) -> None:
    lines = pose_lines()
    lines[3] = "0 .5 .5 .3 .3 .9 .9 .4 .45 .6 .55 .5 .5"
    lines[4] = "0 .1 .5 .3 .3 .1 .5 .1 .45 .2 .55 .1 .5"
    lines[5] = OUTLINE
    index = read_lines(tmp_path, "\n".join(lines))
    (problem,) = [one for one in index.problems if one.kind == "maybe-keypoints"]
    assert problem.detail.startswith("18 of 20 lines of over 5 columns")
    assert "data.kpt_shape=[4, 2]" in problem.detail


def test_keypoints_with_a_confidence_are_said(tmp_path: Path) -> None:
    index = read_lines(tmp_path, "\n".join(pose_lines(3)))
    assert kinds_of(index) == [("maybe-keypoints", "keep")]
    assert "data.kpt_shape=[4, 3]" in index.problems[0].detail


def test_small_outlines_of_one_length_are_no_keypoints(tmp_path: Path) -> None:
    corners = [(0.3 + 0.01 * row, 0.4 - 0.01 * row) for row in range(8)]
    lines = [f"0 {x} {y} {x + 0.05} {y} {x + 0.05} {y + 0.06} {x} {y + 0.06}" for x, y in corners]
    assert kinds_of(read_lines(tmp_path, "\n".join(lines))) == []


def test_a_stray_keypoint_with_visibility_does_not_make_outlines_of_the_lines(tmp_path: Path) -> None:
    lines = [f"{BOX} .4 .45 1 .6 .55 0 .5 .5 1 .5 .{y} 1" for y in range(45, 55)]
    lines[2] = f"{BOX} .4 .95 1 .9 .55 0 .5 .5 1 .5 .5 1"
    index = read_lines(tmp_path, "\n".join(lines))
    assert kinds_of(index) == [("wrong-column-count", "drop-box")] * 10
    assert "data.kpt_shape=[4, 3]" in index.problems[0].detail


@pytest.mark.parametrize("identity", ["17", "1", "0", "3.0"])
@pytest.mark.parametrize("is_last", [True, False])
def test_the_box_of_a_tracker_s_line_is_read(tmp_path: Path, identity: str, is_last: bool) -> None:
    index = read_lines(tmp_path, f"{BOX} .91 {identity}" if is_last else f"{BOX} {identity} .91")
    np.testing.assert_allclose(index.boxes_xyxy[0], CORNERS)
    assert kinds_of(index) == [("extra-columns", "keep")]
    assert f"({float(identity):g})" in index.problems[0].detail


def test_a_triangle_beside_other_outlines_stays_a_triangle_and_is_counted_if_it_can_be_a_track(
    tmp_path: Path,
) -> None:
    index = read_lines(tmp_path, "0 .5 .5 .4 .2 .91 1\n1 .1 .1 .9 .1 .9 .9 .1 .9")
    assert kinds_of(index) == [("maybe-tracks", "keep")]
    assert index.problems[0].detail.startswith("1 lines of 7 columns with 0 or 1 in one of the last two")
    assert index.polygon_offsets.tolist() == [0, 3, 7, 7]


OUTLINE = "1 .1 .1 .9 .1 .9 .9 .1 .9"
TRIANGLE = "1 .2 .1 .9 .1 .9 .9"


@pytest.mark.parametrize("identity", ["0", "1"])
@pytest.mark.parametrize("others", [OUTLINE, TRIANGLE, f"{OUTLINE}\n{TRIANGLE}"])
def test_a_track_id_of_0_or_1_is_known_by_the_tracks_with_larger_ids(
    tmp_path: Path, identity: str, others: str
) -> None:
    index = read_lines(tmp_path, f"{BOX} {identity} .91\n{BOX} 7 .8\n{others}")
    assert [kind for kind, _ in kinds_of(index)] == ["extra-columns"] * 2 + ["duplicate-box"]
    index = read_lines(tmp_path / "last", f"{BOX} .91 {identity}\n{BOX} .8 7\n{others}")
    assert [kind for kind, _ in kinds_of(index)] == ["extra-columns"] * 2 + ["duplicate-box"]
    np.testing.assert_allclose(index.boxes_xyxy[0], CORNERS)
    assert len(index.polygon_points) == sum(len(line.split()) // 2 for line in others.split("\n"))


def test_a_tracker_s_box_that_passes_the_edge_is_clipped(tmp_path: Path) -> None:
    index = read_lines(tmp_path, f"0 .1 .5 .4 .2 .91 1\n{BOX} .8 7\n{OUTLINE}")
    assert sorted(kinds_of(index)) == [("box-negative", "clip-box"), *[("extra-columns", "keep")] * 2]
    np.testing.assert_allclose(index.boxes_xyxy[0], [0, 0.4 * HEIGHT, 0.3 * WIDTH, 0.6 * HEIGHT])


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("0,.5,.5,.2,.2", "columns are parted by spaces"),
        ("0;.5;.5;.2;.2", "columns are parted by spaces"),
        ("0 0,5 0,5 0,2 0,2", "a fraction is written with a point"),
        ("0, .5, .5, .2, .2", "columns are parted by spaces"),
        ("cat .5 .5 .2 .2", "a class is a number, counted from 0 in the order of the names"),
    ],
)
def test_a_text_that_is_no_number_is_told_with_what_to_write(tmp_path: Path, line: str, hint: str) -> None:
    index = read_lines(tmp_path, line)
    assert hint in index.problems[0].detail
    assert index.num_boxes_listed == len(index.classes) + 1


def test_one_line_that_can_be_a_box_with_keypoints_is_said(tmp_path: Path) -> None:
    index = read_lines(tmp_path, f"{BOX}{IN_2D}")
    assert kinds_of(index) == [("maybe-keypoints", "keep")]
    assert "one line of over 5 columns" in index.problems[0].detail
    assert kinds_of(read_lines(tmp_path / "outline", OUTLINE)) == []


def test_an_outline_that_leaves_the_image_a_little_is_clipped_still(tmp_path: Path) -> None:
    index = read_lines(tmp_path, "0 -.2 .1 1.4 .1 .9 .9 .1 .9 .1 .5")
    assert kinds_of(index) == [("box-negative", "clip-box")]


def test_pixels_are_named_with_their_line_and_never_clipped(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": "0 20 10 60 50\n"})
    with pytest.raises(YoloflowError, match=r"none of its 1 boxes.*a\.txt:1: column 2 is 20, .*pixels\?"):
        read_index(str(tmp_path / "list.txt"), nc=1)


def test_kpt_shape_of_a_data_set_file_reaches_every_command(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": f"{BOX}{IN_2D}\n"})
    path = tmp_path / "data.yaml"
    path.write_text("train: images\nval: images\nnames: [cat]\nkpt_shape: [2, 2]\nflip_idx: [1, 0]\n")
    config = load_config("yolov8n", [f"data={path}"])
    assert config.data.kpt_shape == [2, 2]
    for index in check_data(config).sets.values():
        np.testing.assert_allclose(index.boxes_xyxy, [CORNERS])
    convert([str(path)], "yolo", tmp_path / "out")
    assert (tmp_path / "out/labels/val/a.txt").read_text() == "0 0.5 0.5 0.4 0.2\n"


@pytest.mark.parametrize("line", ["0 .9 .5 1.2 .2", "0 1.5 .5 .4 .2", "0 .5 .5 1.9 1.9"])
def test_a_box_that_ends_far_outside_is_told_with_the_likely_cause(tmp_path: Path, line: str) -> None:
    index = read_lines(tmp_path, line)
    assert [kind in ("box-over-one", "box-negative") for kind, _ in kinds_of(index)] == [True]
    assert "are these pixels, percent, or corners instead of a centre and a size?" in index.problems[0].detail
    near = read_lines(tmp_path / "near", "0 .9 .5 .3 .2")
    assert "?" not in near.problems[0].detail


def test_percent_is_a_likely_cause_of_figures_up_to_100(tmp_path: Path) -> None:
    index = read_lines(tmp_path, "0 50 50 20 20\n0 500 50 20 20")
    assert ["percent" in problem.detail for problem in index.problems[:2]] == [True, False]
