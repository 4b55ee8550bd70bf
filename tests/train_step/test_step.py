"""The train step on small networks: accumulation, clipping, overflow, precision, memory format, resuming."""

import copy
import inspect
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from tests.support.toy_training import MeanTimesBatch
from yoloflow.losses import create_loss
from yoloflow.models.precision import auto_mixed_precision
from yoloflow.optim.ema import EMA
from yoloflow.optim.groups import create_group_param
from yoloflow.optim.optimizer import create_optimizer
from yoloflow.optim.schedule import create_schedule
from yoloflow.optim.settings import OptimizerName, OptimizerSettings, RunLength
from yoloflow.structures import YoloflowError
from yoloflow.train_step.step import (
    StepResult,
    StepSettings,
    TrainStep,
    create_train_step_fn,
    get_gradreducer,
    get_loss_scaler,
)

SETTINGS = OptimizerSettings(
    group_param="yolov8",
    nesterov=True,
    lr_init=0.05,
    warmup_momentum=0.5,
    warmup_epochs=1,
    warmup_bias_lr=0.1,
    gp_weight_decay=0.01,
)
IMAGES = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.rand(8, 2, 6, generator=torch.Generator().manual_seed(2))


def toy_network(has_norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    middle: nn.Module = nn.BatchNorm2d(4, momentum=0.03) if has_norm else nn.Identity()
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), middle, nn.SiLU(), nn.Conv2d(4, 2, 1))


def toy_step(
    network: nn.Module,
    options: StepSettings | None = None,
    settings: OptimizerSettings = SETTINGS,
    scaler: str = "static",
    amp_level: str = "O0",
    keep_loss_fp32: bool = True,
    loss_ratio: float = 1.0,
) -> TrainStep:
    options = options or StepSettings()
    # The groups' decay is scaled by the images of an update, so this makes equal updates decay equally.
    length = RunLength(
        epochs=5, steps_per_epoch=4, total_batch_size=8 // options.accumulate, accumulate=options.accumulate
    )
    return create_train_step_fn(
        network,
        MeanTimesBatch(),
        create_optimizer(create_group_param(network, settings, length), settings),
        create_schedule(settings, RunLength(epochs=5, steps_per_epoch=4, total_batch_size=8)),
        scaler=get_loss_scaler(scaler),
        ema=EMA(network),
        precision=auto_mixed_precision(amp_level, "cpu", keep_loss_fp32=keep_loss_fp32),
        settings=options,
        loss_ratio=loss_ratio,
    )


def snapshot(step: TrainStep) -> dict[str, torch.Tensor]:
    tensors, _ = step.state_dict()
    return {name: tensor.clone() for name, tensor in tensors.items()}


def assert_no_trace(step: TrainStep, before: dict[str, torch.Tensor]) -> None:
    for name, tensor in snapshot(step).items():
        assert torch.equal(tensor, before[name] + (name == "skipped_updates")), name


def norm_of(result: StepResult) -> torch.Tensor:
    assert result.grad_norm is not None
    return result.grad_norm


def assert_equal_states(one: TrainStep, other: TrainStep, atol: float = 1e-6) -> None:
    first, second = snapshot(one), snapshot(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(
            tensor, second[name], rtol=1e-5, atol=atol, msg=partial("{}: {}".format, name)
        )


def test_accumulated_micro_batches_equal_the_large_batch() -> None:
    large = toy_step(toy_network(), StepSettings(clip_grad=True, clip_grad_value=0.5))
    small = toy_step(toy_network(), StepSettings(accumulate=4, clip_grad=True, clip_grad_value=0.5))
    for _ in range(3):
        norm = norm_of(large(IMAGES, LABELS))
        results = [small(IMAGES[i : i + 2], LABELS[i : i + 2]) for i in range(0, 8, 2)]
        assert [result.updated for result in results] == [False, False, False, True]
        torch.testing.assert_close(results[-1].grad_norm, norm)
        assert norm > 0.5, "the clipping was at work"
    assert large.updates == small.updates == 3
    assert_equal_states(large, small)


def test_frozen_batch_norm_accumulates_to_the_large_batch_too() -> None:
    steps: list[TrainStep] = []
    for accumulate in (1, 4):
        network = toy_network(has_norm=True)
        steps.append(toy_step(network, StepSettings(accumulate=accumulate)))
        norm = network.get_submodule("1")
        norm.train = lambda mode=True, norm=norm: norm  # type: ignore[method-assign, misc]
        norm.eval().training = False
    steps[0](IMAGES, LABELS)
    for i in range(0, 8, 2):
        steps[1](IMAGES[i : i + 2], LABELS[i : i + 2])
    assert_equal_states(steps[0], steps[1])


def test_the_loss_scale_changes_nothing_in_float32() -> None:
    plain, scaled = toy_step(toy_network(), scaler="none"), toy_step(toy_network(), scaler="static")
    for _ in range(3):
        plain(IMAGES, LABELS)
        scaled(IMAGES, LABELS)
    for name, tensor in plain.network.state_dict().items():
        torch.testing.assert_close(scaled.network.state_dict()[name], tensor)


def test_the_gradient_is_clipped_to_the_given_norm_after_unscaling() -> None:
    settings = OptimizerSettings(lr_init=1.0, momentum=0.0)
    network = toy_network()
    before = copy.deepcopy(network)
    step = toy_step(network, StepSettings(clip_grad=True, clip_grad_value=0.01), settings)
    result = step(IMAGES, LABELS)
    moved = torch.stack(
        [(a - b).square().sum() for a, b in zip(network.parameters(), before.parameters(), strict=True)]
    )
    assert moved.sum().sqrt().item() == pytest.approx(0.01, rel=1e-4)
    assert norm_of(result) > 0.01


def test_a_small_gradient_is_not_clipped() -> None:
    free, clipped = (
        toy_step(toy_network()),
        toy_step(toy_network(), StepSettings(clip_grad=True, clip_grad_value=1e3)),
    )
    free(IMAGES, LABELS)
    clipped(IMAGES, LABELS)
    assert_equal_states(free, clipped, atol=0.0)


def test_the_loss_ratio_multiplies_the_gradient_and_not_the_report() -> None:
    one, two = toy_step(toy_network()), toy_step(toy_network(), loss_ratio=2.0)
    first, second = one(IMAGES, LABELS), two(IMAGES, LABELS)
    torch.testing.assert_close(norm_of(second), 2 * norm_of(first))
    torch.testing.assert_close(second.loss_items, first.loss_items)


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
@pytest.mark.parametrize("first_is_bad", [True, False])
def test_an_overflow_leaves_no_trace_but_the_schedule_moves_on(
    optimizer: OptimizerName, first_is_bad: bool
) -> None:
    settings = OptimizerSettings(optimizer=optimizer, warmup_epochs=1, warmup_momentum=0.5)
    step = toy_step(toy_network(has_norm=True), settings=settings)
    if not first_is_bad:
        step(IMAGES, LABELS)
    before = snapshot(step)
    bad = IMAGES.clone()
    bad[0, 0, 0, 0] = float("inf")
    result = step(bad, LABELS)
    assert not result.finite
    assert result.updated
    assert_no_trace(step, before)
    assert step.updates == (1 if first_is_bad else 2)
    good = step(IMAGES, LABELS)
    assert good.finite
    assert step.optimizer.param_groups[0]["lr"] == step.schedule.lr(step.updates - 1)["all"]
    assert all(torch.isfinite(tensor).all() for tensor in snapshot(step).values())


def test_a_bad_micro_batch_skips_the_whole_update() -> None:
    step = toy_step(toy_network(), StepSettings(accumulate=2))
    before = snapshot(step)
    assert not step(IMAGES * float("nan"), LABELS).finite
    assert not step(IMAGES, LABELS).finite
    assert_no_trace(step, before)


def test_an_overflow_is_applied_where_that_is_asked_for() -> None:
    step = toy_step(toy_network(), StepSettings(overflow_still_update=True))
    step(IMAGES * float("nan"), LABELS)
    assert step.network.get_parameter("0.weight").isnan().any()


def test_a_foreach_optimizer_skips_an_overflow_too() -> None:
    network = toy_network()
    step = toy_step(network)
    groups = create_group_param(network, SETTINGS, RunLength(epochs=5, steps_per_epoch=4, total_batch_size=8))
    slow = create_train_step_fn(
        network, MeanTimesBatch(), torch.optim.SGD(groups, lr=0.1, momentum=0.9), step.schedule
    )
    before = snapshot(slow)
    slow(IMAGES * float("nan"), LABELS)
    assert_no_trace(slow, before)
    slow(IMAGES, LABELS)
    assert not torch.equal(slow.network.get_parameter("0.weight"), before["network.0.weight"])


def test_a_dynamic_scale_halves_on_overflow_and_doubles_after_its_window() -> None:
    scaler = get_loss_scaler("dynamic", 4.0)
    scaler._window = 3
    seen = []
    for is_finite in [False, True, True, False, True, True, True, True, False, False, False]:
        scaler.adjust(torch.tensor(is_finite))
        seen.append(scaler.scale.item())
    assert seen == [2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 1.0]


def test_static_scalers_stay_as_they_are() -> None:
    for kind, scale in (("static", 1024.0), ("none", 1.0)):
        scaler = get_loss_scaler(kind)
        scaler.adjust(torch.tensor(False))
        assert scaler.scale.item() == scale


@pytest.mark.parametrize("amp_level", ["O1", "O2", "O3"])
def test_half_precision_follows_float32_and_keeps_parameters_in_it(amp_level: str) -> None:
    exact, half = toy_step(toy_network()), toy_step(toy_network(), amp_level=amp_level)
    for _ in range(3):
        expected, found = exact(IMAGES, LABELS), half(IMAGES, LABELS)
        assert found.loss_items.dtype == torch.float32
        torch.testing.assert_close(found.loss_items, expected.loss_items, rtol=0.03, atol=0.0)
    assert {parameter.dtype for parameter in half.network.parameters()} == {torch.float32}


def test_without_keep_loss_fp32_the_loss_sees_half_precision() -> None:
    with pytest.raises(AssertionError):
        toy_step(toy_network(), amp_level="O2", keep_loss_fp32=False)(IMAGES, LABELS)


def test_channels_last_trains_the_same_and_keeps_its_format() -> None:
    plain = toy_step(toy_network(has_norm=True))
    last = toy_step(toy_network(has_norm=True), StepSettings(channels_last=True))
    for _ in range(3):
        plain(IMAGES, LABELS)
        last(IMAGES, LABELS)
    assert_equal_states(plain, last, atol=1e-5)
    restored = toy_step(toy_network(has_norm=True), StepSettings(channels_last=True))
    restored.load_state_dict(*_saved(last))
    for step in (last, restored):
        weight = step.network.get_parameter("0.weight")
        momentum = step.optimizer.state[weight]["momentum_buffer"]
        assert weight.is_contiguous(memory_format=torch.channels_last)
        assert momentum.stride() == weight.stride()
        step(IMAGES, LABELS)
    assert_equal_states(last, restored, atol=0.0)


@pytest.mark.compile
def test_a_compiled_step_equals_the_plain_one() -> None:
    plain = toy_step(toy_network(has_norm=True))
    compiled = toy_step(toy_network(has_norm=True), StepSettings(jit=True, jit_backend="aot_eager"))
    for _ in range(2):
        plain(IMAGES, LABELS)
        compiled(IMAGES, LABELS)
    assert_equal_states(plain, compiled)


def _saved(step: TrainStep) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """What a file gives back: contiguous copies."""
    tensors, numbers = step.state_dict()
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, dict(numbers)


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
@pytest.mark.parametrize("micro_batches", [4, 5])
def test_a_resumed_step_goes_on_bit_for_bit(optimizer: OptimizerName, micro_batches: int) -> None:
    settings = OptimizerSettings(optimizer=optimizer, warmup_epochs=1, warmup_momentum=0.5)
    options = StepSettings(accumulate=2, clip_grad=True, clip_grad_value=1.0)
    whole = toy_step(toy_network(has_norm=True), options, settings, scaler="dynamic")
    for _ in range(micro_batches):
        whole(IMAGES, LABELS)
    resumed = toy_step(toy_network(has_norm=True).requires_grad_(True), options, settings, scaler="dynamic")
    with torch.no_grad():
        resumed.network.get_parameter("0.weight").zero_()
    resumed.load_state_dict(*_saved(whole))
    assert resumed.updates == 2
    assert resumed.ema is not None
    assert resumed.ema.updates == 3
    for _ in range(3):
        whole(IMAGES, LABELS)
        resumed(IMAGES, LABELS)
    assert_equal_states(whole, resumed, atol=0.0)
    assert whole.updates == resumed.updates


def test_a_state_of_another_network_is_refused_by_name() -> None:
    step = toy_step(toy_network())
    tensors, numbers = _saved(toy_step(toy_network(has_norm=True)))
    with pytest.raises(YoloflowError, match=r"has unknown \d+ tensors, first ema.network.1.bias"):
        step.load_state_dict(tensors, numbers)
    tensors, numbers = _saved(step)
    del tensors["optimizer.0.bias.momentum_buffer"]
    with pytest.raises(YoloflowError, match=r"lacks 1 tensors, first optimizer.0.bias.momentum_buffer"):
        step.load_state_dict(tensors, numbers)


def test_frozen_parameters_stay_and_are_averaged_all_the_same() -> None:
    network = toy_network()
    first = network.get_submodule("0").requires_grad_(False).get_parameter("weight")
    before = first.clone()
    step = toy_step(network)
    step(IMAGES, LABELS)
    assert torch.equal(first, before)
    assert step.ema is not None
    torch.testing.assert_close(step.ema.network.get_parameter("0.weight"), before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StepSettings(accumulate=0), "accumulate: should be greater than or equal to 1, not 0"),
        (lambda: StepSettings(clip_grad_value=0.0), "clip_grad_value: should be greater than 0, not 0.0"),
        (lambda: get_loss_scaler("dynamik"), "loss_scaler=dynamik: unknown; did you mean dynamic"),
        (lambda: get_loss_scaler("static", 0.0), "loss_scaler_value=0.0: must be above 0"),
        (lambda: auto_mixed_precision("O4", "cpu"), "amp_level=O4: unknown"),
        (lambda: auto_mixed_precision("O2", "cpu", "float61"), "did you mean float16"),
        (lambda: get_gradreducer(is_parallel=True), "start with torchrun"),
    ],
)
def test_a_wrong_option_is_refused_by_name(make: Callable[[], object], message: str) -> None:
    with pytest.raises(YoloflowError, match=message):
        make()


def test_the_dtype_follows_the_device() -> None:
    assert auto_mixed_precision("O2", "cpu").dtype == torch.bfloat16
    assert auto_mixed_precision("O2", "cuda").dtype == torch.float16
    assert auto_mixed_precision("O3", "cuda", "bfloat16").dtype == torch.bfloat16
    assert auto_mixed_precision("O0", "cuda", "bfloat16").dtype is None


@pytest.mark.compile
def test_the_loss_changes_with_the_stage_and_a_compiled_step_follows() -> None:
    torch._dynamo.reset()
    loss = create_loss("YOLOXLoss", stride=[8, 16, 32], nc=5, stages=[{}, {"use_l1": True}])
    torch.manual_seed(0)
    outputs, images = torch.rand(1, 84, 10) * 4 + 1, torch.zeros(1, 3, 64, 64)
    labels = torch.tensor([[[0.0, 2, 0.4, 0.5, 0.3, 0.4]]])
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        found = []
        for stage in (0, 1, 2, 0):
            loss.begin_stage(stage)
            found.append(function(outputs, labels, images)[1][loss.loss_item_name.index("lboxl1")])
        assert found[0] == found[3] == 0
        assert found[1] == found[2] > 0


@pytest.mark.compile
@pytest.mark.skipif(
    "recompile_limit" not in inspect.signature(torch.compile).parameters,
    reason="torch before 2.14 compiles for eight networks of a process",
)
def test_a_process_compiles_more_networks_than_torch_allows_by_itself() -> None:
    for depth in range(10):
        network = nn.Sequential(toy_network(), *(nn.Conv2d(2, 2, 1) for _ in range(depth)))
        step = toy_step(network, StepSettings(jit=True, jit_backend="eager"))
        assert step(IMAGES, LABELS).finite
