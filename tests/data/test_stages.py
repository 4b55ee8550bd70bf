"""Stage lengths follow the number of epochs."""

import logging

import pytest

from yoloflow.data.stages import fit_stages
from yoloflow.structures import YoloflowError

# planned, epochs, fitted
REFERENCE = [
    ([490, 10], 500, [490, 10]),
    ([490, 10], 100, [90, 10]),
    ([490, 10], 600, [590, 10]),
    ([300], 12, [12]),
    ([490, 10], 1, [1, 0]),
]
EXTENDED = [
    ([200, 285, 15], 500, [200, 285, 15]),
    ([200, 285, 15], 600, [300, 285, 15]),
    ([200, 285, 15], 400, [100, 285, 15]),
    ([200, 285, 15], 200, [1, 184, 15]),
    ([200, 285, 15], 10, [1, 1, 8]),
    ([200, 285, 15], 3, [1, 1, 1]),
    ([490, 10], 11, [1, 10]),
    ([490, 10], 10, [1, 9]),
    ([490, 10], 2, [1, 1]),
]


@pytest.mark.parametrize(("planned", "epochs", "fitted"), REFERENCE)
def test_stages_fit_as_in_the_reference(planned: list[int], epochs: int, fitted: list[int]) -> None:
    assert fit_stages(planned, epochs) == fitted


@pytest.mark.parametrize(("planned", "epochs", "fitted"), EXTENDED)
def test_no_middle_stage_vanishes(planned: list[int], epochs: int, fitted: list[int]) -> None:
    assert fit_stages(planned, epochs) == fitted
    assert sum(fitted) == epochs


def test_stages_that_vanish_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "yoloflow"):
        assert fit_stages([5, 5, 5], 1) == [1, 0, 0]
    assert "stage 2, 3 will not be trained" in caplog.text


@pytest.mark.parametrize(("planned", "epochs"), [([], 3), ([5, 0], 3), ([5], 0)])
def test_impossible_lengths_are_refused(planned: list[int], epochs: int) -> None:
    with pytest.raises(YoloflowError):
        fit_stages(planned, epochs)
