import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.recipe_files import kinds
from yoloflow import load_config
from yoloflow.models import Network, create_model, load_pretrain
from yoloflow.models.heads.anchor import AnchorHead
from yoloflow.models.layers.contract import neutral_tensors
from yoloflow.structures import YoloflowError
from yoloflow.weights.dialects import FOR_INFERENCE, describe_kind, dialects_of, translate
from yoloflow.weights.files import save_weights

# Names as they stand in the files that the original repositories publish, and ours for the same tensors.
ORIGINAL = {
    "yolov3": {
        "model.2.cv1.conv.weight": "p1.conv1.conv.weight",
        "model.4.1.cv2.bn.running_var": "p2.1.conv2.bn.running_var",
        "model.28.m.0.weight": "head.convs.0.weight",
    },
    "yolov5n": {
        "model.0.conv.weight": "stem.conv.weight",
        "model.2.cv3.bn.weight": "p2.merge.bn.weight",
        "model.4.m.1.cv2.conv.weight": "p3.blocks.1.conv2.conv.weight",
        "model.9.cv1.conv.weight": "p5.reduce.conv.weight",
        "model.24.m.2.bias": "head.convs.2.bias",
    },
    "yolov7": {
        "model.51.cv5.conv.weight": "neck_p5.after_0.conv.weight",
        "model.102.rbr_dense.0.weight": "out_p3.dense.0.weight",
        "model.102.rbr_1x1.1.running_mean": "out_p3.pointwise.1.running_mean",
        "model.105.ia.0.implicit": "head.added.0.implicit",
        "model.105.im.2.implicit": "head.factors.2.implicit",
    },
    "yolov8n": {
        "model.2.m.0.cv1.conv.weight": "p2.blocks.0.conv1.conv.weight",
        "model.22.cv2.0.0.conv.weight": "head.box_branches.0.0.conv.weight",
        "model.22.cv3.2.2.bias": "head.class_branches.2.2.bias",
        "model.22.dfl.conv.weight": "head.dfl.conv.weight",
    },
    "yolov9c": {
        "model.3.cv2.0.m.0.cv1.conv1.conv.weight": "p2.first.0.blocks.0.rep.dense.0.weight",
        "model.3.cv2.0.m.0.cv1.conv2.bn.weight": "p2.first.0.blocks.0.rep.pointwise.1.weight",
        "model.3.cv2.0.m.0.cv2.conv.weight": "p2.first.0.blocks.0.conv.conv.weight",
        "model.10.cv5.conv.weight": "neck_p5.merge.conv.weight",
        "model.38.cv4.0.2.weight": "head.box_branches.0.2.weight",
        "model.38.dfl2.conv.weight": "head.dfl.conv.weight",
    },
    "yolov10n": {
        "model.5.cv2.conv.weight": "p4_down.space.conv.weight",
        "model.10.attn.qkv.conv.weight": "p5.block.attention.qkv.conv.weight",
        "model.22.m.0.cv1.2.conv1.conv.weight": "out_p5.blocks.0.chain.2.small.conv.weight",
        "model.23.one2one_cv3.0.1.0.conv.weight": "head.single_class_branches.0.1.0.conv.weight",
    },
    "yolov11n": {
        "model.6.m.0.cv3.conv.weight": "p4.blocks.0.merge.conv.weight",
        "model.6.m.0.m.1.cv2.bn.bias": "p4.blocks.0.blocks.1.conv2.bn.bias",
        "model.10.m.0.ffn.1.conv.weight": "p5.block.0.feed_forward.1.conv.weight",
        "model.23.cv3.0.0.1.conv.weight": "head.class_branches.0.0.1.conv.weight",
    },
    "yolox-nano": {
        "backbone.backbone.stem.conv.conv.weight": "stem.conv.conv.weight",
        "backbone.backbone.dark2.0.dconv.conv.weight": "p2_down.depthwise.conv.weight",
        "backbone.backbone.dark2.1.conv3.conv.weight": "p2.merge.conv.weight",
        "backbone.backbone.dark5.1.conv1.conv.weight": "p5_spp.reduce.conv.weight",
        "backbone.backbone.dark5.2.m.0.conv2.pconv.bn.weight": "p5.blocks.0.conv2.pointwise.bn.weight",
        "backbone.lateral_conv0.conv.weight": "neck_p5.conv.weight",
        "backbone.C3_n3.conv1.conv.weight": "out_p4.main.conv.weight",
        "backbone.bu_conv2.dconv.conv.weight": "pan_p4_down.depthwise.conv.weight",
        "head.cls_convs.0.1.dconv.conv.weight": "head.class_convs.0.1.depthwise.conv.weight",
        "head.obj_preds.2.bias": "head.object_outputs.2.bias",
    },
    "yolox-darknet53": {
        "backbone.backbone.stem.0.conv.weight": "stem.conv.weight",
        "backbone.backbone.stem.2.layer1.conv.weight": "p1.conv1.conv.weight",
        "backbone.backbone.dark3.8.layer2.bn.weight": "p3.7.conv2.bn.weight",
        "backbone.backbone.dark5.7.conv2.conv.weight": "p5_spp.merge.conv.weight",
        "backbone.out1_cbl.conv.weight": "neck_p5.conv.weight",
        "backbone.out2.4.conv.weight": "out_p3.conv.weight",
        "head.reg_preds.0.weight": "head.box_outputs.0.weight",
    },
}


def network_of(recipe: str, classes: int = 3) -> Network:
    config = load_config(recipe, ["network.width_multiple=0.125"])
    return create_model(config.network.model_name, config.network_table(), classes)


def renamed(network: Network, dialect: str, prefix: str = "") -> dict[str, Tensor]:
    """The network's tensors as another project's file has them."""
    state = network.state_dict()
    names = dict(dialects_of(network))[dialect]
    return {f"{prefix}{theirs}": state[ours] for theirs, ours in names.items()}


@pytest.mark.parametrize("recipe", ORIGINAL)
def test_original_names_are_ours(recipe: str) -> None:
    with torch.device("meta"):
        network = network_of(recipe)
    names = {f"model.{theirs}": ours for theirs, ours in dict(dialects_of(network))["numbered rows"].items()}
    names |= dict(dialects_of(network)).get("YOLOX", {})
    for theirs, ours in ORIGINAL[recipe].items():
        assert names[theirs] == ours


@pytest.mark.parametrize("recipe", kinds())
def test_in_each_dialect_each_tensor_has_one_name(recipe: str) -> None:
    with torch.device("meta"):
        network = network_of(recipe)
    own = {name for name in network.state_dict() if not name.endswith("num_batches_tracked")}
    for dialect, names in dialects_of(network):
        left_out = network.inference_part()[1] if dialect == FOR_INFERENCE else set()
        assert own - left_out <= set(names.values()), dialect
        assert len(set(names.values())) == len(names), dialect


@pytest.mark.parametrize("dialect", ["MindYOLO", "numbered rows", "yoloflow, unnamed rows", "YOLOX"])
@pytest.mark.parametrize("prefix", ["", "ema.", "module.", "model."])
def test_names_and_what_stands_before_them_are_recognised(dialect: str, prefix: str) -> None:
    network = network_of("yolox-nano")
    tensors = renamed(network, dialect, prefix)
    found = translate(network, tensors)
    assert found.dialect == dialect
    assert found.unexpected == []
    for ours, tensor in found.tensors.items():
        assert tensor is tensors[found.file_names[ours]]
    assert len(found.tensors) == len(tensors)


def test_a_torch_file_with_numbered_rows_is_loaded_with_its_anchors_compared(tmp_path: Path) -> None:
    first, second = network_of("yolov5n"), network_of("yolov5n")
    tensors = renamed(first, "numbered rows", "model.")
    head = second.head_layer
    assert isinstance(head, AnchorHead)
    anchors = head.anchors
    torch.save({"model": tensors | {"model.24.anchors": anchors.half()}}, tmp_path / "w.pt")
    report = load_pretrain(second, tmp_path / "w.pt", strict=True)
    assert (report.format, report.dialect) == ("PyTorch", "numbered rows")
    torch.testing.assert_close(
        second.get_parameter("stem.conv.weight"), first.get_parameter("stem.conv.weight")
    )
    torch.save({"model": tensors | {"model.24.anchors": anchors * 2}}, tmp_path / "w.pt")
    with pytest.raises(YoloflowError, match=r"constant: model.24.anchors: .* in the file, .* here"):
        load_pretrain(second, tmp_path / "w.pt")


def test_a_file_of_another_family_is_refused_with_its_names(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", {"layers.encoder.weight": torch.ones(2)})
    with pytest.raises(YoloflowError, match=r"w.safetensors: none of its 1 names \(layers.encoder.weight\)"):
        load_pretrain(network_of("yolov8n"), tmp_path / "w.safetensors")


def test_a_value_that_is_not_finite_is_named_before_any_training(tmp_path: Path) -> None:
    network = network_of("yolov8n")
    state = renamed(network, "MindYOLO")
    state["model.model.0.conv.weight"] = state["model.model.0.conv.weight"] * float("nan")
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(YoloflowError, match=r"1 of its tensors hold NaN .* model.model.0.conv.weight"):
        load_pretrain(network, tmp_path / "w.pt")


# Recipe -> names in the original's files for inference, and ours.
CONVERTED = {
    "yolov9t": {
        "model.21.cv4.conv.weight": "out_p5.merge.conv.weight",
        "model.22.cv2.0.1.conv.weight": "head.box_branches.0.1.conv.weight",
        "model.22.cv3.2.2.bias": "head.class_branches.2.2.bias",
        "model.22.dfl.conv.weight": "head.dfl.conv.weight",
    },
    "yolov9c": {
        "model.0.conv.weight": "stem.conv.weight",
        "model.21.cv4.conv.weight": "out_p5.merge.conv.weight",
        "model.22.cv3.2.2.bias": "head.class_branches.2.2.bias",
    },
    "yolov9e": {
        "model.1.conv.weight": "stem.conv.weight",
        "model.29.cv5.conv.weight": "neck_p5.merge.conv.weight",
        "model.42.cv2.0.0.conv.weight": "head.box_branches.0.0.conv.weight",
    },
    "yolov7-w6": {
        "model.117.conv.weight": "out_p6.conv.weight",
        "model.118.m.3.weight": "head.convs.3.weight",
    },
    "yolov7": {"model.105.m.0.weight": "head.convs.0.weight"},
}


@pytest.mark.oracle
@pytest.mark.parametrize("recipe", CONVERTED)
def test_files_for_inference_give_the_same_output_and_say_what_they_lack(recipe: str, tmp_path: Path) -> None:
    first, second = network_of(recipe, 80), network_of(recipe, 80)
    neutral = neutral_tensors(first)
    with torch.no_grad():
        for key, value in neutral.items():
            first.state_dict()[key].fill_(value)
    *_, (_, names) = (
        (dialect, names)
        for dialect, names in dialects_of(first)
        if dialect in ("numbered rows", FOR_INFERENCE)
        and CONVERTED[recipe].items() <= {f"model.{theirs}": ours for theirs, ours in names.items()}.items()
    )
    state = first.state_dict()
    left_out = {*neutral, *first.inference_part()[1]}
    tensors = {f"model.{theirs}": state[ours] for theirs, ours in names.items() if ours not in left_out}
    torch.save({"model": tensors}, tmp_path / "converted.pt")
    report = load_pretrain(second, tmp_path / "converted.pt", strict=True)
    assert set(report.trimmed) == {key for key in left_out if not key.endswith("num_batches_tracked")}
    assert f"begun anew {len(report.trimmed)} tensors, which inference does not" in report.describe(
        "x", second
    )
    images = torch.rand(1, 3, 64, 64) if recipe != "yolov7-w6" else torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        torch.testing.assert_close(second.eval()(images)[0], first.eval()(images)[0])
    del tensors[next(iter(CONVERTED[recipe]))]
    torch.save({"model": tensors}, tmp_path / "cut.pt")
    with pytest.raises(YoloflowError, match="missing in the file"):
        load_pretrain(second, tmp_path / "cut.pt", strict=True)


# MultimediaTechLab's names and ours.
MULTIMEDIA = {
    "yolov9s": {
        "0.conv.weight": "stem.conv.weight",
        "2.conv2.conv.weight": "p2.first.conv.weight",
        "3.conv.conv.weight": "p3_down.conv.conv.weight",
        "4.conv2.0.bottleneck.2.conv1.conv2.bn.weight": "p3.first.0.blocks.2.rep.pointwise.1.weight",
        "4.conv3.1.conv.weight": "p3.second.1.conv.weight",
        "9.conv5.conv.weight": "neck_p5.merge.conv.weight",
        "22.heads.1.anchor_conv.2.weight": "head.box_branches.1.2.weight",
        "22.heads.0.class_conv.0.conv.weight": "head.class_branches.0.0.conv.weight",
        "22.heads.0.anc2vec.anc2vec.weight": "head.dfl.conv.weight",
        "23.conv1.conv.weight": "aux_out_p5.reduce.conv.weight",
        "30.heads.2.class_conv.2.bias": "head.auxiliary_class_branches.2.2.bias",
    },
    "yolov9c": {
        "3.conv1.conv.weight": "p3_down.conv.conv.weight",
        "21.conv4.conv.weight": "out_p5.merge.conv.weight",
        "22.heads.0.anchor_conv.0.conv.weight": "head.box_branches.0.0.conv.weight",
        "23.conv.weight": "links_p3.conv.weight",
        "26.conv.weight": "aux_p1.conv.weight",
        "38.heads.0.anchor_conv.0.conv.weight": "head.auxiliary_box_branches.0.0.conv.weight",
    },
}


@pytest.mark.parametrize("recipe", MULTIMEDIA)
def test_the_layers_of_multimedia_tech_lab_are_ours(recipe: str) -> None:
    with torch.device("meta"):
        network = network_of(recipe)
    assert MULTIMEDIA[recipe].items() <= dict(dialects_of(network))["MultimediaTechLab's YOLO"].items()


@pytest.mark.oracle
@pytest.mark.parametrize("recipe", MULTIMEDIA)
@pytest.mark.parametrize("prefix", ["", "model.model."])
def test_files_of_multimedia_tech_lab_are_read(recipe: str, prefix: str, tmp_path: Path) -> None:
    first, second = network_of(recipe), network_of(recipe)
    tensors = renamed(first, "MultimediaTechLab's YOLO", prefix)
    for name in [name for name in tensors if name.endswith("anc2vec.weight")]:
        for level in range(3):
            tensors[name.replace("heads.0", f"heads.{level}")] = torch.arange(16.0).view(1, 16, 1, 1, 1)
    lightning = {"state_dict": tensors, "epoch": 3, "optimizer_states": [{"state": {0: torch.ones(3)}}]}
    torch.save(lightning if prefix else tensors, tmp_path / "v9.pt")
    report = load_pretrain(second, tmp_path / "v9.pt", strict=True)
    assert report.dialect == "MultimediaTechLab's YOLO"
    state = second.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in first.state_dict().items())
    tensors[f"{prefix}22.heads.1.anc2vec.anc2vec.weight"] *= 2
    torch.save(tensors, tmp_path / "v9.pt")
    with pytest.raises(YoloflowError, match="not in the network: .*22.heads.1.anc2vec"):
        load_pretrain(second, tmp_path / "v9.pt")


def test_a_file_of_a_hub_has_two_prefixes(tmp_path: Path) -> None:
    first, second = network_of("yolov10n"), network_of("yolov10n")
    tensors = {
        name: tensor.contiguous() for name, tensor in renamed(first, "numbered rows", "model.model.").items()
    }
    save_weights(tmp_path / "model.safetensors", tensors)
    report = load_pretrain(second, tmp_path / "model.safetensors", strict=True)
    assert (report.dialect, report.faults()) == ("numbered rows", "")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("model.22.cv2.0.1.conv.weight", "model.9.cv5.conv.weight"), "Ultralytics' YOLOv9"),
        (("model.102.rbr_reparam.weight", "model.0.conv.weight"), "merged into one kernel"),
        (("model.22.cv2.0.1.conv.weight", "model.0.conv.weight"), "^$"),
    ],
)
def test_files_that_fit_no_network_are_told_apart(names: tuple[str, ...], message: str) -> None:
    assert re.search(message, describe_kind(dict.fromkeys(names, torch.ones(64, 64, 3, 3))))
