"""The cross-entropy of empty cells equals torch's, and so does its gradient."""

import pytest
import torch
from torch.nn import functional

from yoloflow.losses.softplus import softplus, sum_of_softplus

LOGITS = {
    "everywhere": torch.linspace(-120, 120, 20001),
    "near zero": torch.randn(10001, generator=torch.Generator().manual_seed(0)) * 1e-3,
    "as an untrained network gives": -11 + torch.linspace(-0.01, 0.01, 1001),
    "extreme": torch.tensor([-3e38, -1e-38, 0.0, -0.0, 1e-38, 3e38]),
}


@pytest.mark.parametrize("kind", LOGITS)
def test_each_entry_has_the_precision_of_float32(kind: str) -> None:
    exact = functional.softplus(LOGITS[kind].double(), threshold=1e9)
    error = (softplus(LOGITS[kind]).double() - exact).abs()
    assert bool((error <= 2e-7 * exact + 1e-45).all())


@pytest.mark.parametrize("shape", [(3, 5, 700), (1, 2**20), (0, 4), (7, 0)])
def test_the_sum_and_its_gradient_are_torch_s(shape: tuple[int, ...]) -> None:
    table = torch.randn(*shape, generator=torch.Generator().manual_seed(1)) * 4
    # As the class logits of a network: a part of a table.
    logits = torch.cat((table, table), 1)[:, shape[1] :].clone().requires_grad_()
    expected = functional.softplus(logits).sum() * 3
    (slopes,) = torch.autograd.grad(expected, logits)
    total = sum_of_softplus(logits) * 3
    (found,) = torch.autograd.grad(total, logits)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(found, slopes)


def test_gradients_are_those_of_finite_differences() -> None:
    logits = torch.linspace(-4, 4, 24, dtype=torch.float64).reshape(2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(sum_of_softplus, logits)


def test_not_a_number_stays_one() -> None:
    assert torch.isnan(sum_of_softplus(torch.tensor([[0.0, float("nan")]])))
    assert torch.isinf(sum_of_softplus(torch.tensor([[0.0, float("inf")]])))
