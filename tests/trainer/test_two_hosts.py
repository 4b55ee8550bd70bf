"""Two torchruns on two hosts, with a slow network that loses frames, end with the bytes of one machine.

`python -m pytest -m full -s tests/trainer/test_two_hosts.py` prints the figures that docs/devices.md has.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.support.dying_runs import SCRIPT, Trainings, assert_same
from tests.support.two_hosts import ADDRESSES, Host, Network, OwnName, two_hosts

pytestmark = [pytest.mark.process, pytest.mark.full]

DELAY_S, LOSS = 0.002, 0.01
RANK_TIMEOUT = 20
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


class Pair:
    """A training on two hosts."""

    def __init__(self, trainings: Trainings, name: str, hosts: tuple[Host, Host], network: Network) -> None:
        self.hosts, self.network, self.name, self._trainings = hosts, network, name, trainings
        self._settings = [*trainings.settings, f"name={name}", "per_batch_size=4"]
        self._settings.append(f"rank_timeout={RANK_TIMEOUT}")
        self.torchruns: dict[int, subprocess.Popen[str]] = {}

    def start(self, number: int, dying: tuple[int, int] = (0, 0), meets: str = "first") -> None:
        """Starts the torchrun of a host.

        Args:
            number: of the host.
            dying: the rank that is killed, once, and at which of its calls.
            meets: the host of the ranks' store, by name (found by c10d) or address (stated to each torchrun).
        """
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
        if meets in ADDRESSES:
            command += ["--rdzv-backend=c10d", f"--rdzv-endpoint={meets}:29400", "--rdzv-id=7"]
        else:
            command += [f"--master-addr={meets}", f"--node-rank={number}"]
        command += ["--max-restarts=1", str(SCRIPT), str(dying[1]), "9", *self._settings]
        mark = {"DYING_RANK": str(dying[0]), "DYING_ONCE": str(self._trainings.folder / f"{self.name}.died")}
        self.torchruns[number] = self.hosts[number].start(command, ENVIRONMENT | mark)

    def start_both(self, dying: tuple[int, int] = (0, 0), meets: str = "first") -> None:
        """Starts both torchruns."""
        for number in range(2):
            self.start(number, dying, meets)

    def wait_for_step(self, step: int) -> None:
        """Returns when the run has logged a step."""
        path, deadline = self._trainings.folder / self.name / "metrics.jsonl", time.monotonic() + 120
        while not path.exists() or path.read_text().count('"kind": "step"') < step:
            assert time.monotonic() < deadline
            assert all(process.poll() is None for process in self.torchruns.values())
            time.sleep(0.02)

    def end(self) -> list[tuple[int, str]]:
        """Waits for both torchruns; returns exit codes and what they said."""
        ends = []
        for _, process in sorted(self.torchruns.items()):
            output, errors = process.communicate(timeout=400)
            ends.append((process.returncode, output + errors))
        return ends

    def end_well(self) -> dict[str, Any]:
        """Waits for both; returns what the run left."""
        for code, said in self.end():
            assert code == 0, said[-4000:]
        carried, again = self.network.carried, sum(host.sent_again() for host in self.hosts)
        sys.stdout.write(
            f"\n{self.name}: {1000 * self.network.delay_s:g} ms each way, {self.network.loss:.1%} of frames "
            f"lost: {carried['bytes'] / 1e6:.0f} MB in {carried['frames']:,} frames, {carried['lost']:,} of "
            f"them lost, {again:,} TCP segments sent again, a step {self._seconds_of_a_step():.2f} s\n"
        )
        return self._trainings.outcome(self.name)

    def _seconds_of_a_step(self) -> float:
        """Returns the median, as its images a second say."""
        lines = (self._trainings.folder / self.name / "metrics.jsonl").read_text().splitlines()
        rates = [entry["images_per_second"] for entry in map(json.loads, lines) if entry["kind"] == "step"]
        return 8 / float(median(rates))


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    return Trainings(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def one_machine(trainings: Trainings) -> tuple[dict[str, Any], int]:
    """What two undisturbed ranks of one machine leave, and the calls of the rank that makes less."""
    process = trainings.start("one-machine", ranks=2)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return trainings.outcome("one-machine"), min(map(int, output.split()))


@pytest.fixture
def pair(request: pytest.FixtureRequest, trainings: Trainings, tmp_path: Path) -> Iterator[Pair]:
    """Two hosts; a parameter says what they find under their own names."""
    own_name: OwnName = getattr(request, "param", "network")
    name = request.node.name.removeprefix("test_").replace("[", "-").removesuffix("]")
    with ExitStack() as stack:
        try:
            first, second, network = stack.enter_context(two_hosts(tmp_path, DELAY_S, LOSS, own_name))
        except OSError as error:
            pytest.skip(f"no hosts on this machine: {error}")
        yield Pair(trainings, name, (first, second), network)


def test_undisturbed(pair: Pair, one_machine: tuple[dict[str, Any], int]) -> None:
    pair.start_both()
    assert_same(pair.end_well(), one_machine[0])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_is_killed(pair: Pair, rank: int, one_machine: tuple[dict[str, Any], int]) -> None:
    pair.start_both(dying=(rank, one_machine[1] // 2))
    assert_same(pair.end_well(), one_machine[0])


def lose_second_host(pair: Pair) -> None:
    """Its power is lost, and nobody is told: the first is stopped, and both torchruns are started again.

    A torchrun that goes on with a new one in place of the lost one waits for the lost one (torch 2.14.1).
    """
    pair.network.is_cut = True
    pair.hosts[1].lose()
    time.sleep(1)
    pair.torchruns[0].terminate()
    for process in pair.torchruns.values():
        process.communicate(timeout=200)
        assert process.returncode
    pair.network.is_cut = False
    pair.start_both()


def lose_first_host(pair: Pair) -> None:
    """The ranks' meeting place is lost with it, so both torchruns are started again."""
    pair.hosts[0].lose()
    for process in pair.torchruns.values():
        process.communicate(timeout=200)
        assert process.returncode
    pair.start_both()


def cut_for_long(pair: Pair) -> None:
    """For longer than ranks wait: they end, and torchrun starts them again."""
    pair.network.is_cut = True
    time.sleep(RANK_TIMEOUT + 10)
    pair.network.is_cut = False


def cut_for_a_moment(pair: Pair) -> None:
    """Nobody notices."""
    pair.network.is_cut = True
    time.sleep(3)
    pair.network.is_cut = False


@pytest.mark.parametrize("misfortune", [lose_second_host, lose_first_host, cut_for_long, cut_for_a_moment])
def test_misfortune(
    pair: Pair, misfortune: Callable[[Pair], None], one_machine: tuple[dict[str, Any], int]
) -> None:
    pair.start_both()
    pair.wait_for_step(7)
    misfortune(pair)
    assert_same(pair.end_well(), one_machine[0])


@pytest.mark.parametrize("pair", ["loopback"], indirect=True)
def test_hosts_whose_names_mean_themselves(pair: Pair, one_machine: tuple[dict[str, Any], int]) -> None:
    pair.start_both(meets=ADDRESSES["first"])
    assert_same(pair.end_well(), one_machine[0])


@pytest.mark.parametrize("pair", ["loopback"], indirect=True)
def test_a_host_that_cannot_tell_its_address_names_its_interfaces(pair: Pair) -> None:
    pair.start_both(meets="first")
    said = pair.end()
    assert "GLOO_SOCKET_IFNAME= and the network interface that leads to them: lan0 (10.77.0.1)" in said[0][1]
