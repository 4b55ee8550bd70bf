"""Fixtures that every test file may use, and the time limit of tests without a mark."""

import gc
import logging
import os
import time
from collections.abc import Generator
from importlib import import_module
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported: tests that run side by side share the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

NATURES = {"process", "training", "compile", "browser", "oracle", "fuzz", "full"}
TRIES = 3
ORDINARY_SECONDS = 0.07  # of the loop in `slowness`; machines at half the usual speed took 0.14 s and more

# The same cases every time: a failure in CI is a failure here.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def logger_as_before() -> Generator[None, None, None]:
    """Takes back what a command does to the logger of its process."""
    logger = logging.getLogger("yoloflow")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escapes what is no text in captured output: file names of some tests, which xdist cannot pass on."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--slow-limit",
        type=float,
        default=None,
        metavar="SECONDS",
        help="fail a test without a mark that takes longer, so that the quick tests stay quick",
    )


def pytest_sessionstart(session: pytest.Session) -> None:
    if session.config.getoption("--slow-limit") is not None:
        # The first optimizer and the first plot of a process take two seconds each for imports and fonts; no
        # test should be charged for them, nor for the collection of garbage among the modules.
        import_module("torch._dynamo")
        figure = import_module("matplotlib.figure").Figure()
        figure.subplots().set_title("fonts are loaded")
        import_module("matplotlib.backends.backend_agg").FigureCanvasAgg(figure).draw()


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.getoption("--slow-limit") is not None:
        gc.collect()
        gc.freeze()


def slowness() -> float:
    """How many times longer than on an ordinary machine this process takes for a loop now; at least 1."""
    started = time.perf_counter()
    for _ in range(3_000_000):
        pass
    return max(1.0, (time.perf_counter() - started) / ORDINARY_SECONDS)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Runs a test with a time limit, in seconds of an ordinary machine; a slow pass is tried again."""
    limit = item.config.getoption("--slow-limit")
    if limit is None or any(item.get_closest_marker(name) for name in NATURES):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for _ in range(TRIES):
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        slowest = max(reports, key=lambda report: report.duration)
        # A slow or busy machine is no fault of the test, so a loop in the same process is the measure; it
        # takes time itself, so only slow tests are measured by it.
        is_quick = slowest.duration <= limit or slowest.duration <= limit * slowness()
        if is_quick or not all(report.passed for report in reports):
            break
    else:
        marks = ", ".join(sorted(NATURES))
        slowest.outcome = "failed"
        slowest.longrepr = (
            f"{item.nodeid}: {slowest.when} took {slowest.duration:.1f} s, and a test without a mark has "
            f"{limit:g} s: make it faster or give it the mark of its nature ({marks})"
        )
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.fixture(scope="session", autouse=True)
def caches_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The user's own caches are left alone."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the reference figures and real data sets; tests that need it are skipped without it."""
    folder = os.environ.get("YOLOFLOW_SHARED")
    if not folder:
        pytest.skip("YOLOFLOW_SHARED is not set: the reference figures and real data sets are not here")
    return Path(folder)
