"""Layer tables: what rows mean, and what is said about rows that mean nothing."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from torch import nn

from yoloflow.models import create_model
from yoloflow.models.heads.yolov4 import YOLOv4Head
from yoloflow.models.network import Variant
from yoloflow.structures import YoloflowError

TINY: dict[str, Any] = {
    "depth_multiple": 1.0,
    "width_multiple": 0.25,
    "reg_max": 16,
    "stride": [2, 4],
    "backbone": [
        ["stem", -1, 1, "ConvNormAct", [32, 3, 2]],
        ["down", -1, 1, "ConvNormAct", [64, 3, 2]],
    ],
    "head": [
        ["up", "down", 1, "Upsample", [None, 2, "nearest"]],
        ["joined", [-1, "stem"], 1, "Concat", [1]],
        ["head", ["joined", 1], 1, "YOLOv8Head", ["nc", "reg_max", "stride"]],
    ],
}


def table(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(TINY) | changes


def with_row(section: str, number: int, row: Any) -> dict[str, Any]:
    changed = table()
    changed[section][number] = row
    return changed


def test_names_numbers_and_relative_numbers_mean_the_same_rows() -> None:
    torch.manual_seed(0)
    named = create_model("tiny", table(), 3).eval()
    numbered = table(
        backbone=[row[1:] for row in TINY["backbone"]],
        head=[
            [-1, 1, "Upsample", ["None", 2, "'nearest'"]],
            [[2, 0], 1, "Concat", [1]],
            [[-1, -3], 1, "YOLOv8Head", ["nc", "reg_max", "stride"]],
        ],
    )
    other = create_model("tiny", numbered, 3).eval()
    assert next(iter(other.state_dict())) == "0.conv.weight"
    other.load_state_dict(dict(zip(other.state_dict(), named.state_dict().values(), strict=True)))
    images = torch.rand(1, 3, 16, 8)
    torch.testing.assert_close(named(images)[0], other(images)[0], rtol=0, atol=0)
    assert named(images)[0].shape == (1, 8 * 4 + 4 * 2, 4 + 3)


def test_channels_are_limited_scaled_and_rounded_up_to_eight() -> None:
    changed = with_row("backbone", 0, ["stem", -1, 1, "ConvNormAct", [100, 3, 2]]) | {"max_channels": 60}
    network = create_model("tiny", changed, 3)
    assert network.get_parameter("stem.conv.weight").shape == (16, 3, 3, 3)  # 60 / 4 = 15


def test_repeats_are_scaled_inside_a_block_and_stacked_outside() -> None:
    rows = [TINY["backbone"][0], ["down", -1, 1, "ConvNormAct", [64, 3, 2]]]
    rows += [["inside", -1, 3, "C2f", [64, True]], ["outside", -1, 3, "Bottleneck", [64]]]
    network = create_model(
        "tiny",
        table(backbone=rows, depth_multiple=0.67)
        | {
            "head": [
                ["up", -1, 1, "Upsample", [None, 2, "nearest"]],
                ["head", ["up", "outside"], 1, "YOLOv8Head", ["nc", "reg_max", "stride"]],
            ]
        },
        3,
    )
    names = network.state_dict()
    assert "inside.blocks.1.conv1.conv.weight" in names
    assert "inside.blocks.2.conv1.conv.weight" not in names
    assert "outside.1.conv1.conv.weight" in names
    assert "outside.2.conv1.conv.weight" not in names
    assert network(torch.rand(1, 3, 16, 16))[1].shape == (1, 67, 4, 4)


def test_an_activation_is_chosen_by_keyword() -> None:
    row = ["stem", -1, 1, "ConvNormAct", [32, 3, 2, "act=nn.LeakyReLU(0.1)"]]
    act = create_model("tiny", with_row("backbone", 0, row), 3).get_submodule("stem.act")
    assert isinstance(act, nn.LeakyReLU)
    assert act.negative_slope == 0.1


@pytest.mark.parametrize(
    ("section", "number", "row", "message"),
    [
        ("backbone", 1, ["down", -1, 1, "ConvNormAkt", [64]], r"backbone\[1\] \(down\).*ConvNormAct"),
        (
            "backbone",
            1,
            ["down", "stemm", 1, "ConvNormAct", [64]],
            r"no row 'stemm' above; did you mean stem",
        ),
        ("backbone", 1, ["down", 1, 1, "ConvNormAct", [64]], "1 is no row above this one"),
        ("backbone", 1, ["down", -2, 1, "ConvNormAct", [64]], "-2 is no row above this one"),
        ("backbone", 1, ["down", 0.5, 1, "ConvNormAct", [64]], "a row's name or number, found 0.5"),
        ("backbone", 1, ["down", [0, 0], 1, "ConvNormAct", [64]], "takes one map, from names 2"),
        ("backbone", 1, ["down", -1, 0, "ConvNormAct", [64]], "number must be a whole number from 1"),
        ("backbone", 1, ["down", -1, 1, "ConvNormAct", []], r"takes \[channels, kernel.*missing"),
        (
            "backbone",
            1,
            ["down", -1, 1, "ConvNormAct", [64, "width=3"]],
            "unexpected keyword argument 'width'",
        ),
        ("backbone", 1, ["down", -1, 1, "ConvNormAct", ["chanels"]], "unknown word 'chanels'"),
        ("backbone", 1, ["down", -1, 1, "ConvNormAct", [64, "__import__('os')"]], "unknown word"),
        ("backbone", 1, ["down", -1, 1, "ConvNormAct", ["anchors"]], "network.anchors is not set"),
        ("backbone", 1, ["down", -1, 1, "ConvNormAct", [64, 3, 2, None, 5]], "ConvNormAct with args.*groups"),
        ("backbone", 1, ["down", -1, 1, "ConvNormAct"], "number must be a whole number from 1, found -1"),
        ("backbone", 1, [-1, 1, "ConvNormAct"], r"backbone\[1\]: expected \[name, from"),
        ("backbone", 1, ["stem", -1, 1, "ConvNormAct", [64]], "already a row 'stem'"),
        ("backbone", 1, ["to.p3", -1, 1, "ConvNormAct", [64]], "a row's name is a letter"),
        ("backbone", 1, ["forward", -1, 1, "ConvNormAct", [64, 3, 2]], "PyTorch or we use it"),
        ("head", 0, ["up", "down", 1, "Upsample", [64, 2, "nearest"]], r"takes \[None, scale, nearest\]"),
        ("head", 1, ["joined", ["down", "stem"], 1, "Concat", [1]], "maps of strides 4, 2"),
        ("head", 1, ["joined", [-1, "stem"], 1, "Concat", [2]], "axis 2"),
        ("head", 2, ["head", [1, "joined"], 1, "YOLOv8Head", ["nc", 16, "stride"]], r"\[4.*, 2"),
        ("head", 2, ["end", "joined", 1, "ConvNormAct", [64]], "the last row must be a head"),
    ],
)
def test_a_wrong_row_is_named_with_what_is_wrong(section: str, number: int, row: Any, message: str) -> None:
    changed = with_row(section, number, row)
    if changed["head"][0][1] == "down" and row[0] in ("to.p3", "forward"):
        changed["head"] = [[entry if entry != "down" else 1 for entry in line] for line in changed["head"]]
    with pytest.raises(YoloflowError, match=message):
        create_model("tiny", changed, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widht_multiple": 0.5}, "network.widht_multiple: unknown key; did you mean width_multiple"),
        ({"width_multiple": 0}, "network.width_multiple: must be a number above 0"),
        ({"depth_multiple": "1"}, "network.depth_multiple: must be a number"),
        ({"head": []}, "network.head: expected a list of rows"),
        ({"model_name": "yolov5"}, "'yolov5', but the network asked for is 'tiny'"),
        ({"recompute": True}, "recompute_layers: with recompute on it must be 1 to 5"),
        ({"recompute": True, "recompute_layers": 9}, "found 9"),
    ],
)
def test_a_wrong_setting_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(YoloflowError, match=message):
        create_model("tiny", table(**changes), 3)


def test_a_wrong_variant_or_number_of_classes_is_refused() -> None:
    with pytest.raises(YoloflowError, match="did you mean published"):
        create_model("tiny", table(), 3, variant="publish")  # type: ignore[arg-type]
    with pytest.raises(YoloflowError, match="num_classes"):
        create_model("tiny", table(), 0)


def test_another_class_count_in_the_network_section_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="yoloflow"):
        create_model("tiny", table(nc=80), 3)
    assert "network.nc = 80 is not used: the data has 3 classes" in caplog.text


def test_yolov4_s_boxes_follow_their_formula() -> None:
    head = YOLOv4Head([4, 4], [[142, 110], [192, 243], [36, 75], [76, 55]], [32, 16], 3)
    torch.manual_seed(0)
    raw = head([torch.randn(1, 4, 2, 3) * 3, torch.randn(1, 4, 4, 6) * 3])
    decoded = head.decode(raw)[0].detach().double()
    assert decoded.shape == (2 * (6 + 24), 8)
    # Level 1, row 2, column 5, anchor 1; a level's rows come before columns, columns before anchors.
    logits = raw[1][0][0, 2, 5, 1].double()
    found = decoded[2 * 6 + (2 * 6 + 5) * 2 + 1]
    centre = (logits[:2].sigmoid() * 1.1 - 0.05 + torch.tensor([5.0, 2.0])) * 16
    size = logits[2:4].exp() * torch.tensor([76.0, 55.0])
    expected = torch.cat((centre, size, logits[4:].sigmoid()))
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-5)


def test_yolov4_s_sizes_stay_finite_whatever_the_network_says() -> None:
    head = YOLOv4Head([4], [[142, 110], [192, 243]], [32], 3)
    assert head.decode(head([torch.full((1, 4, 2, 2), 1e6)])).isfinite().all()


def test_inner_channels_are_as_written_in_the_variant_of_the_reference() -> None:
    table = {
        "stride": [8],
        "width_multiple": 0.5,
        "reg_max": 4,
        "backbone": [
            ["stem", -1, 1, "ConvNormAct", [16, 3, 8]],
            ["elan", -1, 1, "ELAN1", [32, 22, 15]],
            ["rep", -1, 1, "RepNCSPELAN4", [32, 22, 15, 1]],
            ["pool", -1, 1, "SPPELAN", [32, 15]],
            ["parts", -1, 1, "CBLinear", [[15, 9]]],
        ],
        "head": [["head", "pool", 1, "YOLOv8Head", ["nc", "reg_max", "stride"]]],
    }

    def shapes(variant: Variant) -> dict[str, tuple[int, ...]]:
        network = create_model("yolov8", table, 3, variant=variant)
        names = ("elan.split", "elan.first", "rep.second.1", "pool.reduce")
        found = {name: network.get_parameter(f"{name}.conv.weight") for name in names}
        return {
            **{name: tuple(weight.shape[:2]) for name, weight in found.items()},
            "parts": tuple(network.get_parameter("parts.conv.weight").shape[:2]),
        }

    # Only the channels that a row gives are scaled; ours scale the inner ones too.
    assert shapes("mindyolo") == {
        "elan.split": (22, 8),
        "elan.first": (15, 11),
        "rep.second.1": (15, 15),
        "pool.reduce": (15, 16),
        "parts": (24, 16),
    }
    assert shapes("published") == {
        "elan.split": (16, 8),
        "elan.first": (8, 8),
        "rep.second.1": (8, 8),
        "pool.reduce": (8, 16),
        "parts": (16, 16),
    }
