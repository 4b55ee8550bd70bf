"""What training asks of a network: recomputation, freezing, joined statistics, fusing, compiling."""

from __future__ import annotations

import copy
from importlib.resources import files
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import yaml
from torch import Tensor, nn

from yoloflow.models import Network, create_model, freeze_layers
from yoloflow.models.layers.normalization import SyncBatchNorm
from yoloflow.runtime.ranks import leave_ranks
from yoloflow.structures import YoloflowError

TABLE = Path(str(files("yoloflow"))) / "recipes/yolov8/network.yaml"
SPLIT = (3, 1)  # images of each rank: not the same, as in the last batch of an epoch


def small_network(seed: int = 0, sync_bn: bool = False, recompute_layers: int = 0) -> Network:
    torch.manual_seed(seed)
    section = yaml.safe_load(TABLE.read_text())["network"]
    section |= {"depth_multiple": 0.33, "width_multiple": 0.125, "max_channels": 256}
    section |= {"recompute": recompute_layers > 0, "recompute_layers": recompute_layers}
    return create_model("yolov8", section, 3, sync_bn=sync_bn)


def images_of(number: int, side: int = 64, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(number, 3, side, side, generator=torch.Generator().manual_seed(5), dtype=dtype)


def backward(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Gradients of the sum of squares of the raw predictions."""
    network.zero_grad()
    torch.stack([level.square().sum() for level in network(images)]).sum().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=0, msg=name)


def test_recomputing_rows_changes_neither_gradients_nor_running_statistics() -> None:
    plain, recomputing = small_network(), small_network(recompute_layers=6)
    images = images_of(2)
    for _ in range(2):
        assert_equal(backward(plain, images), backward(recomputing, images))
    assert_equal(dict(plain.named_buffers()), dict(recomputing.named_buffers()))
    assert recomputing.get_buffer("stem.bn.num_batches_tracked") == 2


def test_recomputed_rows_keep_fewer_activations() -> None:
    def kept_bytes(network: Network) -> int:
        kept = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            network(images_of(1))
        return kept

    assert kept_bytes(small_network(recompute_layers=23)) < 0.5 * kept_bytes(small_network())


def test_frozen_rows_and_their_statistics_stay_as_they_are() -> None:
    network = small_network()
    frozen = freeze_layers(network, ["stem.*", "p2.*.bn.*"])
    assert "stem.conv.weight" in frozen
    assert "p2.split.bn.bias" in frozen
    assert "p2.split.conv.weight" not in frozen
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.eval()
    network.train()
    gradients = backward(network, images_of(2))
    assert not set(gradients) & set(frozen)
    after = network.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert "p3_down.bn.running_mean" in changed
    assert not {name for name in changed if name.startswith(("stem.", "p2."))}


def test_a_batch_norm_with_one_frozen_parameter_goes_on_counting() -> None:
    network = small_network()
    freeze_layers(network, ["stem.bn.weight"])
    backward(network, images_of(2))
    assert network.get_buffer("stem.bn.num_batches_tracked") == 1


def test_a_freeze_pattern_without_a_match_is_an_error_that_names_rows() -> None:
    with pytest.raises(YoloflowError, match=r"'stm\.\*'; did you mean stem\.\*"):
        freeze_layers(small_network(), ["stm.*"])


@pytest.mark.parametrize(
    ("freeze", "rows"),
    [
        (0, []),
        (2, ["stem", "p2_down"]),
        ("stem.*", ["stem"]),
        (["head.*", 0, 10], ["stem", "head"]),
        (
            "backbone",
            ["stem", "p2_down", "p2", "p3_down", "p3", "p4_down", "p4", "p5_down", "p5_blocks", "p5"],
        ),
        (["head.*", "backbone"], None),
    ],
)
def test_rows_are_frozen_by_number_by_position_and_as_the_backbone(
    freeze: int | str | list[int | str], rows: list[str] | None
) -> None:
    network = small_network()
    frozen = list(dict.fromkeys(name.partition(".")[0] for name in freeze_layers(network, freeze)))
    if rows is not None:
        assert frozen == rows
    trained = {name.partition(".")[0] for name, weight in network.named_parameters() if weight.requires_grad}
    assert not trained & set(frozen)


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (24, "freeze=24: the network has 23 rows"),
        ([23], "freeze=23: the network has rows 0 to 22"),
        ("backbones", "no parameter matches 'backbones'; did you mean backbone"),
    ],
)
def test_a_choice_to_freeze_that_does_not_exist_is_refused(
    freeze: int | str | list[int | str], message: str
) -> None:
    with pytest.raises(YoloflowError, match=message):
        freeze_layers(small_network(), freeze)


def test_joined_statistics_in_one_process_are_batch_norm() -> None:
    plain, synced = small_network(), small_network(sync_bn=True)
    assert isinstance(synced.get_submodule("stem.bn"), SyncBatchNorm)
    assert plain.state_dict().keys() == synced.state_dict().keys()
    assert_equal(backward(plain, images_of(2)), backward(synced, images_of(2)))
    assert_equal(plain.state_dict(), synced.state_dict())


def run_rank(rank: int, folder: str) -> None:
    """One of two processes: its share of the batch through a network with joined statistics."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    network = small_network(sync_bn=True, recompute_layers=2).double()
    share = images_of(sum(SPLIT), dtype=torch.float64).split(SPLIT)[rank]
    outputs = [level.detach() for level in copy.deepcopy(network)(share)]
    gradients = backward(network, share)
    torch.save(
        {"gradients": gradients, "state": network.state_dict(), "outputs": outputs}, f"{folder}/{rank}.pt"
    )
    leave_ranks()


@pytest.mark.process
def test_two_ranks_with_joined_statistics_equal_one_process_with_the_joined_batch(tmp_path: Path) -> None:
    mp.spawn(run_rank, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    whole = small_network().double()
    images = images_of(sum(SPLIT), dtype=torch.float64)
    expected_outputs = [level.detach() for level in copy.deepcopy(whole)(images)]
    for level, expected in enumerate(expected_outputs):
        joined = torch.cat([rank["outputs"][level] for rank in ranks])
        torch.testing.assert_close(joined, expected, rtol=1e-9, atol=1e-9)
    for name, expected in backward(whole, images).items():
        summed = ranks[0]["gradients"][name] + ranks[1]["gradients"][name]
        scale = float(expected.abs().max())
        torch.testing.assert_close(summed, expected, rtol=0, atol=1e-9 * scale + 1e-12, msg=name)
    for rank in ranks:
        for name, expected in whole.state_dict().items():
            torch.testing.assert_close(rank["state"][name], expected, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("sync_bn", [False, True])
def test_a_fused_network_predicts_the_same_and_holds_no_batch_norm(sync_bn: bool) -> None:
    network = small_network(sync_bn=sync_bn)
    network(images_of(4))  # running statistics other than 0 and 1
    fused = network.eval().fuse()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert isinstance(network.get_submodule("stem.bn"), nn.BatchNorm2d)
    with torch.no_grad():
        torch.testing.assert_close(fused(images_of(2))[0], network(images_of(2))[0], rtol=1e-5, atol=1e-4)


@pytest.mark.compile
def test_a_training_step_with_recomputed_rows_compiles_into_one_graph() -> None:
    network = small_network(recompute_layers=4)
    original = copy.deepcopy(network)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    assert isinstance(compiled, nn.Module)
    backward(compiled, images_of(2))
    for name, expected in backward(original, images_of(2)).items():
        torch.testing.assert_close(network.get_parameter(name).grad, expected, rtol=1e-4, atol=1e-4, msg=name)
    assert_equal(dict(network.named_buffers()), dict(original.named_buffers()))


@pytest.mark.compile
def test_prediction_and_decoding_compile_into_one_graph() -> None:
    network = small_network().eval()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(images_of(2))[0], network(images_of(2))[0], rtol=1e-5, atol=1e-4)


def test_predictions_follow_the_size_of_the_images() -> None:
    network = small_network().eval()
    with torch.no_grad():
        for height, width in ((64, 64), (32, 96)):
            decoded, raw = network(torch.rand(1, 3, height, width))
            cells = sum((height // stride) * (width // stride) for stride in network.stride)
            assert decoded.shape == (1, cells, 7)
            assert [tuple(level.shape[2:]) for level in raw] == [
                (height // stride, width // stride) for stride in network.stride
            ]


def test_bytes_become_what_the_first_row_is_to_see() -> None:
    network = small_network().eval()
    pixels = (images_of(1) * 255).to(torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(network(pixels)[0], network(pixels.float() / 255)[0], rtol=0, atol=0)
        network.pixels = "bgr_byte"
        torch.testing.assert_close(
            network(pixels)[0], network(pixels[:, [2, 1, 0]].float())[0], rtol=0, atol=0
        )


def test_an_unknown_kind_of_pixels_is_refused() -> None:
    table = {"backbone": [["stem", -1, 1, "ConvNormAct", [8]]], "head": [], "pixels": "rgb_byte"}
    with pytest.raises(YoloflowError, match=r"network\.pixels='rgb_byte': did you mean bgr_byte or rgb_unit"):
        create_model("toy", table, 2)
