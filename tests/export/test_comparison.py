"""When a difference between an exported file and torch is taken for rounding."""

from pathlib import Path

import pytest

from yoloflow.export.comparison import Comparison, accept_as_rounding
from yoloflow.structures import YoloflowError

FILE = Path("pets.onnx")


def test_a_deviation_that_torch_has_by_itself_is_accepted_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = Comparison(9e-4, 50, 0.3, 0.32)
    assert found.is_too_far(half=False)
    accept_as_rounding(FILE, found, Comparison(2e-3, 50, 0.3, 0.33), half=False)
    assert "pets.onnx: deviates from torch by 9.0e-04, and torch by 2.0e-03 from itself" in caplog.text


@pytest.mark.parametrize(
    ("found", "half", "words"),
    [
        (Comparison(9e-4), False, r"deviates from torch by 9.0e-04 \(allowed: 3.0e-04\)$"),
        (Comparison(9e-2), True, r"\(allowed: 5.0e-02\); half precision is too coarse for these weights"),
    ],
)
def test_a_deviation_beyond_rounding_is_refused(found: Comparison, half: bool, words: str) -> None:
    with pytest.raises(YoloflowError, match=words):
        accept_as_rounding(FILE, found, Comparison(1e-4), half)


def test_another_ap_than_rounding_gives_is_refused() -> None:
    with pytest.raises(YoloflowError, match=r"AP is 0.3000, but torch's is 0.4000"):
        accept_as_rounding(FILE, Comparison(2e-4, 9, 0.4, 0.3), Comparison(2e-4, 9, 0.4, 0.4), half=False)
