"""The average on accelerators: three fused kernels that say what the CPU's interpolation says."""

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.support.device_watch import Watch
from yoloflow.optim.ema import EMA, step_towards


def test_three_kernels_take_the_step_of_an_interpolation() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(), (7,), (3, 5), (4, 3, 2, 2)]
    averaged, followed = ([torch.randn(s, generator=generator) for s in shapes] for _ in range(2))
    expected = [before.lerp(after, 0.125) for before, after in zip(averaged, followed, strict=True)]
    step_towards(averaged, followed, torch.tensor(0.125))
    torch.testing.assert_close(averaged, expected)
    before = [tensor.clone() for tensor in averaged]
    step_towards(averaged, followed, torch.tensor(0.0))
    assert all(torch.equal(a, b) for a, b in zip(averaged, before, strict=True))


def test_the_kernels_do_not_grow_with_the_network() -> None:
    counts = []
    for depth in (1, 20):
        ema = EMA(nn.Sequential(*(nn.BatchNorm2d(3) for _ in range(depth))))
        with FakeTensorMode(allow_non_fake_inputs=True):
            for network in (ema.network, ema._source):
                Watch.move(network)
            ema._updates = torch.empty((), device="cuda")
            skip = torch.zeros((), device="cuda")
            ema.update(skip)
            with Watch() as watch:
                ema.update(skip)
        assert not watch.waits
        counts.append(watch.operations)
    assert counts[0] == counts[1] <= 12
