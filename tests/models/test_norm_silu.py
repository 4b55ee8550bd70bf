"""BatchNorm and SiLU in one kernel, beside torch in float64; and where there is no kernel."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from yoloflow.models.layers.convolution import ConvNormAct, join_norms
from yoloflow.models.layers.norm_silu import can_join, norm_silu, require_norm_silu
from yoloflow.models.layers.routing import Upsample
from yoloflow.runtime.native import load_native
from yoloflow.structures import YoloflowError
from yoloflow.train_step.compilation import settle_jit

# Tiles that are full and not; channels that fill groups of four registers and do not; one cell an image.
SHAPES = [(2, 16, 40, 52), (3, 80, 13, 11), (2, 512, 5, 5), (1, 16, 1, 2), (5, 48, 1, 1), (1, 1040, 3, 3)]
Function = Callable[[Tensor, nn.BatchNorm2d], Tensor]


@pytest.fixture(scope="module", autouse=True)
def _kernel() -> None:
    try:
        require_norm_silu()
    except YoloflowError as error:
        pytest.skip(str(error))


def separate(features: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    return nn.functional.silu(norm(features))


def maps_of(shape: tuple[int, ...], offset: float = 1.0) -> tuple[Tensor, Tensor]:
    """Returns a map and a gradient, in channels_last."""
    generator = torch.Generator().manual_seed(1)
    features, gradient = (torch.randn(shape, generator=generator) for _ in range(2))
    parts = [part.contiguous(memory_format=torch.channels_last) for part in (3 * features + offset, gradient)]
    return parts[0], parts[1]


def norm_of(channels: int) -> nn.BatchNorm2d:
    generator, norm = torch.Generator().manual_seed(2), nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(channels, generator=generator) + 0.5)
        norm.bias.copy_(torch.randn(channels, generator=generator))
    return norm


def results(function: Function, features: Tensor, gradient: Tensor) -> list[Tensor]:
    """Returns output, gradients and running statistics."""
    norm = norm_of(features.shape[1]).to(features.dtype)
    leaf = features.clone().requires_grad_()
    output = function(leaf, norm)
    output.backward(gradient)
    found = (output, leaf.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var)
    return [tensor.detach() for tensor in found if tensor is not None]


def largest_errors(found: list[Tensor], exact: list[Tensor]) -> list[float]:
    pairs = zip(found, exact, strict=True)
    return [float((ours.double() - truth).abs().max() / truth.abs().max()) for ours, truth in pairs]


@pytest.mark.parametrize("offset", [1.0, 300.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_gradients_and_statistics_are_those_of_float64(shape: tuple[int, ...], offset: float) -> None:
    features, gradient = maps_of(shape, offset)
    exact = results(separate, features.double(), gradient.double())
    ours = largest_errors(results(norm_silu, features, gradient), exact)
    torchs = largest_errors(results(separate, features, gradient), exact)
    assert all(own < max(4e-6, 2 * other) for own, other in zip(ours, torchs, strict=True)), (ours, torchs)


def test_the_number_of_threads_changes_no_bit() -> None:
    features, gradient = maps_of((4, 48, 31, 29))
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            found.append(results(norm_silu, features, gradient))
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(map(torch.equal, found[0], others))


@pytest.mark.parametrize("kind", ["part of a wider map", "one value", "nchw"])
def test_a_gradient_may_lie_otherwise_than_the_map(kind: str) -> None:
    features, gradient = maps_of((2, 32, 9, 7))
    gradient = {
        "part of a wider map": torch.cat((gradient, gradient + 1, gradient), 1)[:, 32:64],
        "one value": torch.ones(()).expand_as(gradient),
        "nchw": gradient.contiguous(),
    }[kind]
    dense = gradient.clone(memory_format=torch.channels_last)
    assert all(map(torch.equal, results(norm_silu, features, gradient), results(norm_silu, features, dense)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(value: float) -> None:
    features, gradient = maps_of((2, 32, 9, 7))
    features[1, 5, 3, 3] = value
    output, of_features, *_ = results(norm_silu, features, gradient)
    assert not output[:, 5].isfinite().any()
    assert not of_features[:, 5].isfinite().any()
    assert output[:, 4].isfinite().all()


@pytest.mark.parametrize("size", [-1e4, -90.0, -30.0, 0.0, 30.0, 90.0, 1e4])
def test_silu_holds_for_large_arguments(size: float) -> None:
    features, gradient = maps_of((1, 16, 4, 4))
    norm = norm_of(16)
    with torch.no_grad():
        norm.bias.fill_(size)
    assert torch.allclose(norm_silu(features, norm), separate(features, norm), rtol=1e-5, atol=1e-6)
    assert gradient.isfinite().all()


def test_maps_and_layers_of_other_kinds_are_left_to_torch() -> None:
    features, norm, act = maps_of((2, 32, 9, 7))[0], norm_of(32), nn.SiLU()
    assert can_join(features, norm, act)
    others = (
        features.contiguous(),
        features.double(),
        features[:, :24],
        features.bfloat16(),
        features[:1, :, :1, :1],
    )
    assert not any(can_join(other, norm, act) for other in others)
    assert not can_join(features, norm, nn.Mish())
    assert not can_join(features, nn.BatchNorm2d(32, affine=False), act)
    assert not can_join(features, nn.BatchNorm2d(32, momentum=None), act)
    assert not can_join(features, norm_of(32).eval(), act)


def test_hooks_of_norm_and_activation_are_called() -> None:
    block, called = ConvNormAct(3, 16, 3), []
    join_norms(block)
    block.to(memory_format=torch.channels_last)
    images = torch.rand(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    joined = block(images)
    for module in (block.bn, block.act):
        module.register_forward_hook(lambda *arguments: called.append(arguments[0]))
    assert torch.allclose(block(images), joined, atol=1e-5)
    assert called == [block.bn, block.act]


def test_a_block_can_be_copied_and_pickled() -> None:
    block = ConvNormAct(3, 16, 3)
    join_norms(block)
    assert pickle.loads(pickle.dumps(block)).joins_norm
    assert copy.deepcopy(block).joins_norm
    join_norms(block, False)
    assert not block.joins_norm


@pytest.mark.parametrize("scale", [2, 3])
def test_repeated_cells_have_torchs_gradient(scale: int) -> None:
    layer, (features, _) = Upsample(scale), maps_of((2, 16, 5, 4))
    wide = maps_of((2, 24, 5 * scale, 4 * scale))[1][:, :16]
    gradients = []
    for training in (True, False):
        leaf = features.clone().requires_grad_()
        layer.train(training)(leaf).backward(wide)
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-6, atol=1e-6)


def test_the_kernel_takes_the_openmp_threads_of_torch() -> None:
    maps = Path("/proc/self/maps").read_text().split()
    assert len({path for path in maps if "libgomp" in path}) == 1


def test_a_file_that_cannot_be_built_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, place = tmp_path / "broken.cpp", tmp_path / "tmp"
    source.write_text("int main( {")
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    with pytest.raises(YoloflowError, match=r"could not build broken\.cpp: .*broken\.cpp"):
        load_native(source)
    assert not list(place.iterdir())


def test_without_a_compiler_auto_is_torch_and_norm_is_refused(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", "no-such-compiler")
        with pytest.raises(YoloflowError, match="no C.. compiler was found .no-such-compiler"):
            load_native(tmp_path / "any.cpp")


@pytest.mark.process
@pytest.mark.parametrize("command", ["env g++", "'g++"])
def test_the_compiler_may_be_a_command_with_arguments(command: str) -> None:
    code = (
        "from yoloflow.train_step.compilation import settle_jit\n"
        "print(settle_jit('auto', 'cpu', channels_last=True))\n"
    )
    environment = {**os.environ, "CXX": command}
    ended = subprocess.run(
        (sys.executable, "-c", code), capture_output=True, text=True, env=environment, check=False
    )
    assert (ended.stdout.strip(), ended.stderr) == ("norm" if command == "env g++" else "False", "")


@pytest.mark.process
def test_a_process_without_a_compiler_says_so_and_goes_on() -> None:
    code = (
        "import logging, sys; logging.basicConfig(level='INFO', stream=sys.stdout, format='%(message)s')\n"
        "from yoloflow.train_step.compilation import settle_jit\n"
        "print(settle_jit('auto', 'cpu', channels_last=True, is_told=True))\n"
        "settle_jit('norm', 'cpu', channels_last=True)\n"
    )
    environment = {**os.environ, "CXX": "no-such-compiler"}
    ended = subprocess.run(
        (sys.executable, "-c", code), capture_output=True, text=True, env=environment, check=False
    )
    told, settled = ended.stdout.splitlines()
    assert told.startswith(
        "jit=auto: no C++ compiler was found (no-such-compiler), so torch's kernels are taken"
    )
    assert settled == "False"
    assert "jit=norm: no C++ compiler was found (no-such-compiler); jit=false takes torch's" in ended.stderr


def test_auto_takes_the_kernel_where_it_is_of_use(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "yoloflow"):
        assert settle_jit("auto", "cpu", channels_last=True, is_told=True) == "norm"
    assert caplog.messages[0].startswith("BatchNorm and SiLU run in one kernel, built in ")
    assert settle_jit("auto", "cpu", channels_last=False) is False
    assert settle_jit("auto", "cuda", channels_last=True) is False
    assert settle_jit("auto", "cpu", channels_last=True, is_float32=False) is False
    assert settle_jit(True, "cpu", channels_last=True) is True
    assert settle_jit(False, "cpu", channels_last=True) is False
