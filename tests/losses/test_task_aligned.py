"""The assigner by itself: who claims, who gets, and how much."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from yoloflow.boxes import box_iou
from yoloflow.losses.mindyolo import MindYOLOAssigner
from yoloflow.losses.task_aligned import Assignment, TaskAlignedAssigner, _pairwise_ciou

ASSIGNERS = [TaskAlignedAssigner, MindYOLOAssigner]


def grid(side: int, stride: int) -> Tensor:
    steps = (torch.arange(side // stride) + 0.5) * stride
    return torch.cartesian_prod(steps, steps).flip(1)


def assign(
    assigner: TaskAlignedAssigner, logits: Tensor, boxes: Tensor, anchors: Tensor, truth: Tensor
) -> Assignment:
    """Of one image whose objects are all of class 0."""
    scores = logits.sigmoid().expand(1, len(truth), -1)
    return assigner(scores, boxes[None], anchors, truth[None])


def used(assignment: Assignment) -> dict[int, tuple[int, float]]:
    """Anchor -> object and score, of image 0; fails where an anchor stands in two used entries."""
    rows = zip(*(column[0].tolist() for column in assignment), strict=True)
    entries = [(anchor, (owner, score)) for anchor, owner, score in rows if score > 0]
    assert len(dict(entries)) == len(entries)
    return dict(entries)


def test_pairwise_ciou_is_box_iou_of_every_pair() -> None:
    random = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 57, 2, 2, generator=random) * 640
    boxes = torch.cat((corners.amin(2), corners.amax(2)), -1)
    boxes[0, 0] = 0
    boxes[1, 3, 2:] = boxes[1, 3, :2]
    objects = torch.cat((boxes[:, :9], boxes[:, :9] + 5), 1)
    wanted = box_iou(objects.double()[:, :, None], boxes.double()[:, None], "ciou")
    torch.testing.assert_close(_pairwise_ciou(objects, boxes), wanted.float(), rtol=1e-5, atol=1e-5)


def test_an_anchor_on_the_border_is_not_inside() -> None:
    anchors = grid(32, 8)
    truth = torch.tensor([[4.0, 4.0, 20.0, 20.0]])  # the centres 4 and 20 lie on its border, 12 inside
    boxes = truth.expand(len(anchors), 4)
    found = used(assign(TaskAlignedAssigner(), torch.zeros(len(anchors)), boxes, anchors, truth))
    assert list(found) == [5]
    assert anchors[5].tolist() == [12, 12]


def test_an_object_gets_its_topk_and_the_best_anchor_the_objects_overlap() -> None:
    anchors = grid(64, 8)
    truth = torch.tensor([[0.0, 0.0, 64.0, 64.0]])
    boxes = torch.tensor([8.0, 8.0, 64.0, 64.0]).expand(len(anchors), 4)
    logits = torch.linspace(-3, 3, len(anchors))
    found = used(assign(TaskAlignedAssigner(topk=10), logits, boxes, anchors, truth))
    assert sorted(found) == list(range(54, 64))
    overlap = box_iou(truth[0], boxes[0], "ciou").item()
    assert found[63][1] == pytest.approx(overlap, rel=1e-6)
    share = (logits[54].sigmoid() / logits[63].sigmoid()).sqrt().item()
    assert found[54][1] == pytest.approx(overlap * share, rel=1e-6)


@pytest.mark.parametrize(("assigner", "owner"), [(TaskAlignedAssigner, 1), (MindYOLOAssigner, 2)])
def test_an_anchor_claimed_twice_goes_to_the_best_claimant_or_to_the_best_of_all(
    assigner: type[TaskAlignedAssigner], owner: int
) -> None:
    anchors = torch.tensor([[16.0, 16.0]])
    boxes = torch.tensor([[20.0, 20.0, 60.0, 60.0]])
    truth = torch.tensor(
        [[0.0, 0.0, 40, 40], [10, 10, 55, 55], [20, 20, 60, 60]]
    )  # the last does not contain it
    ((anchor, (found, score)),) = used(assign(assigner(), torch.zeros(1), boxes, anchors, truth)).items()
    assert (anchor, found) == (0, owner)
    assert score == pytest.approx(box_iou(truth[owner], boxes[0], "ciou").item(), rel=1e-5)


@pytest.mark.parametrize("assigner", ASSIGNERS)
def test_in_a_crowd_no_anchor_learns_two_objects(assigner: type[TaskAlignedAssigner]) -> None:
    random = torch.Generator().manual_seed(1)
    anchors = grid(64, 8)
    corners = torch.rand(40, 2, 2, generator=random) * 64
    truth = torch.cat((corners.amin(1), corners.amax(1)), 1)
    boxes = torch.cat((anchors - 12, anchors + 12), 1)
    found = used(assign(assigner(), torch.zeros(len(anchors)), boxes, anchors, truth))
    assert len(found) > 20
    assert len({owner for owner, _ in found.values()}) > 5


@pytest.mark.parametrize("assigner", ASSIGNERS)
def test_predictions_that_miss_everything_are_not_assigned(assigner: type[TaskAlignedAssigner]) -> None:
    anchors = grid(32, 8)
    truth = torch.tensor([[0.0, 0.0, 32, 32]])
    boxes = torch.tensor([100.0, 100, 110, 110]).expand(len(anchors), 4)
    assert not used(assign(assigner(), torch.zeros(len(anchors)), boxes, anchors, truth))
