"""The seconds of loading, by what was done."""

import time
from pathlib import Path

import pytest

from tests.support.toy_loader import mosaic_loader
from yoloflow.data.loading_time import LoadingTime, SpanTimer, describe_work


def test_inner_spans_do_not_count_for_outer_ones() -> None:
    timer = SpanTimer()
    with timer.span("outer"):
        time.sleep(0.02)
        for _ in range(2):
            with timer.span("inner"):
                time.sleep(0.03)
    seconds = timer.take()
    assert 0.06 <= seconds["inner"] < 0.5
    assert seconds["outer"] == pytest.approx(0.02, abs=0.02)
    assert timer.take() == {}


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_counts_its_work_and_the_waiting(tmp_path: Path, workers: int) -> None:
    loader = mosaic_loader(tmp_path, workers)
    started = time.perf_counter()
    for _ in loader.batches():
        pass
    passed = time.perf_counter() - started
    assert set(loader.loading_time.worked) == {"decode", "mosaic", "random_perspective", "batch"}
    assert 0 < loader.loading_time.waited <= passed
    assert all(value > 0 for value in loader.loading_time.worked.values())
    assert sum(loader.loading_time.worked.values()) <= passed * max(workers, 1)


def test_the_report_names_the_largest_parts_first() -> None:
    loading_time = LoadingTime()
    loading_time.add(1.0, {"decode": 1.0, "warp": 2.0, "hsv": 0.5, "batch": 0.25, "flip": 0.25})
    waited, worked = loading_time.take()
    assert waited == 1.0
    assert describe_work(worked) == "warp 50%, decode 25%, hsv 12%, batch 6%"
    assert loading_time.take() == (0.0, {})
