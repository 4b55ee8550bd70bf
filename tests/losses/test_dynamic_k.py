"""Dynamic-k matching against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from yoloflow.losses.dynamic_k import class_cost, k_cheapest, match_dynamic_k
from yoloflow.losses.mindyolo import below_the_next, up_to_the_kth

LARGEST_K = 5


def match_in_loops(cost: np.ndarray, overlaps: np.ndarray, possible: np.ndarray) -> dict[int, int]:
    """Candidate -> object of one image, as the originals do it."""
    takers: dict[int, list[int]] = {}
    for row in range(len(cost)):
        candidates = np.flatnonzero(possible[row])
        k = max(1, int(np.float32(np.sort(overlaps[row])[::-1][:LARGEST_K].sum())))
        for taken in sorted(candidates.tolist(), key=lambda c: float(cost[row, c]))[:k]:
            takers.setdefault(taken, []).append(row)
    result: dict[int, int] = {}
    for candidate, rows in takers.items():
        costs = np.where(possible[:, candidate], cost[:, candidate], np.inf)
        result[candidate] = rows[0] if len(rows) == 1 else int(costs.argmin())
    return result


def case(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cost, overlaps and possible pairs of 3 images, 6 objects and 40 candidates."""
    rng = np.random.default_rng(seed)
    possible = rng.random((3, 6, 40)) < rng.choice([0.05, 0.3, 1.0])
    possible[:, -1] = False
    overlaps = np.where(possible, rng.random((3, 6, 40)), 0).astype(np.float32)
    cost = (3 * -np.log(overlaps + 1e-7) + rng.random((3, 6, 40))).astype(np.float32)
    return torch.from_numpy(cost), torch.from_numpy(overlaps), torch.from_numpy(possible)


@pytest.mark.parametrize("seed", range(200))
def test_matching_equals_plain_loops(seed: int) -> None:
    cost, overlaps, possible = case(seed)
    found = match_dynamic_k(cost, overlaps, possible, LARGEST_K)
    for image in range(len(cost)):
        expected = match_in_loops(cost[image].numpy(), overlaps[image].numpy(), possible[image].numpy())
        matched = found.is_matched[image].nonzero()[:, 0].tolist()
        assert sorted(expected) == matched
        assert [expected[candidate] for candidate in matched] == found.objects[image][matched].tolist()


def test_an_object_takes_k_of_equal_candidates() -> None:
    overlaps = torch.full((1, 1, 12), 0.5)
    cost, possible = torch.zeros(1, 1, 12), torch.ones(1, 1, 12, dtype=torch.bool)
    numbers = [
        int(match_dynamic_k(cost, overlaps, possible, 10, take).is_matched.sum())
        for take in (k_cheapest, up_to_the_kth, below_the_next)
    ]
    assert numbers == [5, 12, 0]


def test_objects_in_another_order_get_the_same_candidates() -> None:
    cost, overlaps, possible = case(7)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    plain = match_dynamic_k(cost, overlaps, possible, LARGEST_K)
    moved = match_dynamic_k(cost[:, order], overlaps[:, order], possible[:, order], LARGEST_K)
    assert moved.is_matched.equal(plain.is_matched)
    assert order[moved.objects][plain.is_matched].equal(plain.objects[plain.is_matched])


def test_class_cost_is_the_cross_entropy_over_all_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, classes = torch.rand(2, 9, 4, generator=generator), torch.tensor([[0, 3, 2], [1, 1, 0]])
    wanted = torch.nn.functional.one_hot(classes, 4)[:, :, None].float().expand(-1, -1, 9, -1)
    expected = torch.nn.functional.binary_cross_entropy(
        scores[:, None].expand(-1, 3, -1, -1), wanted, reduction="none"
    )
    torch.testing.assert_close(class_cost(scores, classes), expected.sum(-1), rtol=1e-4, atol=1e-4)
