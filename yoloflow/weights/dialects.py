"""The names that other projects give to the tensors of the same networks, recognised by counting."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from yoloflow.structures import YoloflowError
from yoloflow.weights.mindyolo import BATCH_NORM_LEAVES, constants_of, mindyolo_names
from yoloflow.weights.multimedia_tech_lab import multimedia_tech_lab_names, with_one_kernel_of_bins

_TORCH_LEAVES = {theirs: ours for ours, theirs in BATCH_NORM_LEAVES.items()}
_COUNTER = "num_batches_tracked"
_MULTIMEDIA = "MultimediaTechLab's YOLO"
FOR_INFERENCE = "numbered rows, for inference alone"
"""The dialect of files without the parts that only training needs."""

# Our row -> Megvii's path, in networks of all sizes; inside the rows its names are MindYOLO's.
_YOLOX_COMMON_ROWS = {
    "p2_down": "backbone.backbone.dark2.0",
    "p2": "backbone.backbone.dark2.1",
    "p3_down": "backbone.backbone.dark3.0",
    "p3": "backbone.backbone.dark3.1",
    "p4_down": "backbone.backbone.dark4.0",
    "p4": "backbone.backbone.dark4.1",
    "p5_down": "backbone.backbone.dark5.0",
    "head": "head",
}
# Likewise for the sizes nano to x.
_YOLOX_ROWS = {
    **_YOLOX_COMMON_ROWS,
    "stem": "backbone.backbone.stem",
    "p5_spp": "backbone.backbone.dark5.1",
    "p5": "backbone.backbone.dark5.2",
    "neck_p5": "backbone.lateral_conv0",
    "neck_p4_blocks": "backbone.C3_p4",
    "neck_p4": "backbone.reduce_conv1",
    "out_p3": "backbone.C3_p3",
    "pan_p4_down": "backbone.bu_conv2",
    "out_p4": "backbone.C3_n3",
    "pan_p5_down": "backbone.bu_conv1",
    "out_p5": "backbone.C3_n4",
}
# Likewise for darknet53. A row of several blocks begins at the number that its path ends in.
_YOLOX_DARKNET_ROWS = {
    **_YOLOX_COMMON_ROWS,
    "stem": "backbone.backbone.stem.0",
    "p1_down": "backbone.backbone.stem.1",
    "p1": "backbone.backbone.stem.2",
    "p5_blocks": "backbone.backbone.dark5.1",
    "p5_conv1": "backbone.backbone.dark5.5",
    "p5_conv2": "backbone.backbone.dark5.6",
    "p5_spp": "backbone.backbone.dark5.7",
    "p5_conv3": "backbone.backbone.dark5.8",
    "out_p5": "backbone.backbone.dark5.9",
    "neck_p5": "backbone.out1_cbl",
    "neck_p4_conv1": "backbone.out1.0",
    "neck_p4_conv2": "backbone.out1.1",
    "neck_p4_conv3": "backbone.out1.2",
    "neck_p4_conv4": "backbone.out1.3",
    "out_p4": "backbone.out1.4",
    "neck_p4_reduce": "backbone.out2_cbl",
    "neck_p3_conv1": "backbone.out2.0",
    "neck_p3_conv2": "backbone.out2.1",
    "neck_p3_conv3": "backbone.out2.2",
    "neck_p3_conv4": "backbone.out2.3",
    "out_p3": "backbone.out2.4",
}


@dataclass(slots=True)
class Translated:
    """The tensors of a file by the names of a network.

    Attributes:
        tensors: by our names.
        dialect: whose names the file has.
        file_names: our name -> the file's.
        unexpected: names of the file that the network does not have.
        constants: faults of values that both have and that must be equal, such as anchors.
    """

    tensors: dict[str, Tensor]
    dialect: str
    file_names: dict[str, str]
    unexpected: list[str] = field(default_factory=list)
    constants: list[str] = field(default_factory=list)


def translate(network: nn.Module, tensors: Mapping[str, Tensor]) -> Translated:
    """Finds whose names a file has, and gives its tensors our names.

    The dialect, and a prefix before all names, are those with most hits: "ema." of MindYOLO's averages,
    "module." of parallel trainings, and so on. Counters of batches are left out where ours has none.

    Args:
        network: made by `create_model`.
        tensors: by the file's names.

    Raises:
        YoloflowError: no name is of this network.
    """
    best: tuple[int, str, str, dict[str, str]] = (0, "", "", {})
    for dialect, names in dialects_of(network):
        for prefix in _prefixes(tensors, names):
            hits = sum(prefix + theirs in tensors for theirs in names)
            if hits > best[0]:
                best = (hits, dialect, prefix, names)
    hits, dialect, prefix, names = best
    if not hits:
        first = ", ".join(list(tensors)[:3]) + (", ..." if len(tensors) > 3 else "")
        raise YoloflowError(f"none of its {len(tensors)} names ({first}) is of this network")
    if dialect == _MULTIMEDIA:
        tensors = with_one_kernel_of_bins(tensors)
    found = Translated({}, dialect, {})
    before_rows = "model.model." if dialect == "numbered rows" else ""
    fixed = {name.removeprefix(before_rows): value for name, value in constants_of(network).items()}
    for name, tensor in tensors.items():
        bare = name.removeprefix(prefix) if name.startswith(prefix) else None
        if bare in names:
            found.tensors[names[bare]] = tensor
            found.file_names[names[bare]] = name
        elif bare is not None and bare in fixed:
            found.constants += _compare_constant(name, tensor, fixed[bare])
        elif not name.endswith(_COUNTER):
            found.unexpected.append(name)
    return found


def describe_kind(tensors: Mapping[str, Tensor]) -> str:
    """Returns a sentence on what a file is that fits no network here, "" where that is not known."""
    if any(".rbr_reparam." in name for name in tensors):
        return "its RepConvs are merged into one kernel each; take the file from before that"
    for name, tensor in tensors.items():
        # The grouped kernels of YOLOv9's box branches see a quarter of the channels.
        if re.search(r"\.22\.cv2\.0\.1\.conv\.weight$", name) and tensor.ndim == 4:
            is_v9 = any(re.search(r"\.9\.cv5\.conv\.weight$", other) for other in tensors)
            if is_v9 and tensor.shape[1] == tensor.shape[0]:
                return (
                    "it is Ultralytics' YOLOv9, whose head is another than the original's; "
                    "strict_load=false takes over its backbone and neck alone"
                )
    return ""


def dialects_of(network: nn.Module) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields each dialect with its name of every tensor of a network -> our name."""
    own = list(network.state_dict())
    yield "yoloflow", {name: name for name in own}
    numbers = {row: path.rpartition(".")[2] for row, path in getattr(network, "mindyolo_names", {}).items()}
    if numbers:  # our names under MindYOLO's table, whose rows have no names
        yield "yoloflow, unnamed rows", {_with_row(name, numbers): name for name in own}
    mindyolo = mindyolo_names(network)
    yield "MindYOLO", {theirs: ours for ours, theirs in mindyolo.items()}
    yield "MindYOLO, torch's leaves", {_torch_leaf(theirs): ours for ours, theirs in mindyolo.items()}
    numbered = _numbered_names(network, mindyolo)
    yield "numbered rows", {theirs: ours for ours, theirs in numbered.items()}
    for names in _inference_names(network, numbered):
        yield FOR_INFERENCE, names
    if getattr(network, "model_name", "") == "yolov9" and hasattr(network, "inference_part"):
        theirs_by_ours = multimedia_tech_lab_names(network, numbered)
        yield _MULTIMEDIA, {theirs: ours for ours, theirs in theirs_by_ours.items()}
    if getattr(network, "model_name", "") == "yolox":
        yield "YOLOX", {theirs: ours for ours, theirs in _yolox_names(network, mindyolo).items()}


def _prefixes(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> set[str]:
    """Returns what may stand before all names of a file, as some of the names show."""
    some = list(names)[:: max(1, len(names) // 4)]
    ends = [name.removesuffix(one) for one in some for name in tensors if name.endswith(one)]
    # A number would be a row, not what stands before all of them.
    return {""} | {prefix for prefix in ends if re.fullmatch(r"([^.\d]+\.)+", prefix)}


def _with_row(name: str, rows: Mapping[str, str]) -> str:
    """Returns a name with its row called otherwise."""
    row, dot, inner = name.partition(".")
    return f"{rows.get(row, row)}{dot}{inner}"


def _torch_leaf(name: str) -> str:
    path, dot, leaf = name.rpartition(".")
    return f"{path}{dot}{_TORCH_LEAVES.get(leaf, leaf)}"


def _numbered_names(network: nn.Module, mindyolo: Mapping[str, str]) -> dict[str, str]:
    """Returns our name -> name in the original torch repositories, after "model.", which is a prefix.

    Rows are numbered as in MindYOLO; inside of them `conv1` to `conv3` of blocks are `cv1` to `cv3`.
    """
    names = {ours: _torch_leaf(theirs).removeprefix("model.model.") for ours, theirs in mindyolo.items()}
    # A depthwise pair of kernels (RepVGGDW of YOLOv10) has the children conv and conv1 in both.
    pairs = {
        path[: -len("conv.conv.weight")] for path in names.values() if path.endswith(".conv.conv.weight")
    }

    def renamed(path: str) -> str:
        parts = path.split(".")
        for place, part in enumerate(parts[:-1]):
            if re.fullmatch(r"conv[123]", part) and ".".join((*parts[:place], "")) not in pairs:
                parts[place] = f"cv{part[-1]}"
        path = ".".join(parts)
        if getattr(network, "model_name", "") == "yolov9":
            for theirs, original in (("rbr_dense", "conv1"), ("rbr_1x1", "conv2")):
                path = path.replace(f"{theirs}.0.", f"{original}.conv.").replace(
                    f"{theirs}.1.", f"{original}.bn."
                )
        return path

    return {ours: renamed(path) for ours, path in names.items()}


def _inference_names(network: nn.Module, numbered: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Yields names in the original's files for inference -> ours: rows that only training needs do not count.

    The first row, where it does nothing, counts or not.
    """
    if not hasattr(network, "inference_part"):
        return
    rows, only_training = network.inference_part()  # type: ignore[operator]
    if not only_training:
        return
    head_name = rows[-1]
    head_names: dict[str, str] = getattr(network.get_submodule(head_name), "inference_names", {})
    kept = {ours: path for ours, path in numbered.items() if ours not in only_training}
    skipped = () if any(ours.startswith(f"{rows[0]}.") for ours in kept) else (0, 1)
    for first in skipped or (0,):
        places = {row: number for number, row in enumerate(rows[first:])}
        names = {}
        for ours, path in kept.items():
            row, child = ours.split(".")[:2]
            inner = path.partition(".")[2]
            if row == head_name and child in head_names:
                inner = f"{head_names[child]}.{inner.partition('.')[2]}"
            names[f"{places[row]}.{inner}"] = ours
        yield names


def _yolox_names(network: nn.Module, mindyolo: Mapping[str, str]) -> dict[str, str]:
    """Returns our name -> Megvii's; nothing for rows that it does not have."""
    rows = _YOLOX_DARKNET_ROWS if "p5_blocks" in dict(network.named_children()) else _YOLOX_ROWS
    found = {}
    for ours, theirs in mindyolo.items():
        row = ours.partition(".")[0]
        if row not in rows:
            continue
        inner = re.sub(r"^model\.model\.\d+\.", "", _torch_leaf(theirs))
        path = rows[row]
        block = re.match(r"(\d+)\.", inner)
        if rows is _YOLOX_DARKNET_ROWS and block and row != "head":
            base, _, first = path.rpartition(".")
            path, inner = f"{base}.{int(first) + int(block[1])}", inner[block.end() :]
        if rows is _YOLOX_DARKNET_ROWS and row in ("p1", "p2", "p3", "p4", "p5_blocks"):
            inner = re.sub(r"^conv([12])\.", r"layer\1.", inner)
        found[ours] = f"{path}.{inner}"
    return found


def _compare_constant(name: str, tensor: Tensor, ours: object) -> list[str]:
    """Returns a sentence where a value of the file is another than the network's; none is known for None."""
    if ours is None:
        return []
    theirs = tensor.double().numpy()
    expected = ours.detach().cpu().double().numpy() if isinstance(ours, Tensor) else np.asarray(ours, float)
    # A half has 11 bits.
    if expected.shape == theirs.shape and np.allclose(expected, theirs, rtol=1e-3):
        return []
    return [f"{name}: {theirs.tolist()} in the file, {expected.tolist()} here"]
