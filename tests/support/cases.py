"""Random cases in two parts: a few for the quick tests, all others with a mark."""

import pytest


def few_and_many(few: int, total: int) -> pytest.MarkDecorator:
    """Parametrizes `seeds`: the first few without a mark, the rest up to `total` marked `oracle`."""
    return pytest.mark.parametrize(
        "seeds",
        [
            pytest.param(range(few), id="few"),
            pytest.param(range(few, total), id="many", marks=pytest.mark.oracle),
        ],
    )
