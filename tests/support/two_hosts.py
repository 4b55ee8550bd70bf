"""Two hosts on this machine: namespaces, and a network between them that delays and loses frames.

All of it belongs to the process that makes it: nothing is left when that ends, however it ends.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import random
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

T = TypeVar("T")

ADDRESSES = {"first": "10.77.0.1", "second": "10.77.0.2"}

OwnName = Literal["network", "loopback"]
"""What a host finds under its own name: its address, or 127.0.1.1, as Debian has it."""

# Of linux/sched.h and linux/if_tun.h.
_NEW_MOUNTS, _NEW_NAME, _NEW_NETWORK = 0x00020000, 0x04000000, 0x40000000
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_LARGEST_FRAME = 65_536


class Host:
    """A thread with a network, a name and mounts of its own; the processes it starts have them too.

    Attributes:
        wire: file descriptor of its network card; frames that it sends are read there.
    """

    def __init__(self, name: str, folder: Path, own_name: OwnName = "network") -> None:
        """Makes the host.

        Args:
            name: a key of `ADDRESSES`.
            folder: for its table of hosts.
            own_name: what it finds under its name.

        Raises:
            OSError: this machine does not permit it.
        """
        self.wire, self._name = -1, name
        known = {"localhost": "127.0.0.1", **ADDRESSES}
        if own_name == "loopback":
            known[name] = "127.0.1.1"
        self._table = folder / f"hosts of {name}"
        self._table.write_text("".join(f"{address} {host}\n" for host, address in known.items()))
        self._thread = ThreadPoolExecutor(1)
        try:
            self.call(self._enter)
        except BaseException:
            self.close()
            raise

    def call(self, work: Callable[[], T]) -> T:
        """Returns what a function returns on this host."""
        return self._thread.submit(work).result()

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
        """Starts a process of this host, the leader of a process group."""
        return self.call(
            lambda: subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | environment,
                start_new_session=True,
            )
        )

    def lose(self) -> None:
        """Kills all its processes, as a loss of power does."""
        here = self.call(lambda: os.stat("/proc/thread-self/ns/net"))
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended
                if int(process.name) != os.getpid() and os.path.samestat(here, (process / "ns/net").stat()):
                    os.kill(int(process.name), signal.SIGKILL)

    def sent_again(self) -> int:
        """Returns the TCP segments that this host has sent more than once."""
        lines = self.call(Path("/proc/thread-self/net/snmp").read_text).splitlines()
        names, values = (line.split() for line in lines if line.startswith("Tcp:"))
        return int(values[names.index("RetransSegs")])

    def close(self) -> None:
        """Removes it, its processes first; its namespaces go with the last of them."""
        if self.wire >= 0:
            self.lose()
        self._thread.shutdown()
        if self.wire >= 0:
            os.close(self.wire)

    def _enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_NEW_MOUNTS | _NEW_NAME | _NEW_NETWORK):
            raise OSError(f"namespaces are not permitted ({os.strerror(ctypes.get_errno())})")
        socket.sethostname(self._name)
        self.wire = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.wire, _TUNSETIFF, struct.pack("16sH22x", b"lan0", _IFF_TAP | _IFF_NO_PI))
        for command in (
            ["mount", "--make-rprivate", "/"],
            ["mount", "--bind", str(self._table), "/etc/hosts"],
            ["ip", "link", "set", "lo", "up"],
            ["ip", "address", "add", f"{ADDRESSES[self._name]}/24", "dev", "lan0"],
            ["ip", "link", "set", "lan0", "up"],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


@dataclass
class Network:
    """Carries frames between two hosts.

    Attributes:
        delay_s: seconds a frame is under way.
        loss: share of the frames that are lost, drawn from `seed`.
        is_cut: whether all are lost from now on.
        carried: frames, bytes and lost frames so far.
    """

    wires: tuple[int, int]
    delay_s: float = 0.0
    loss: float = 0.0
    seed: int = 0
    is_cut: bool = False
    carried: Counter[str] = field(default_factory=Counter)
    _is_over: bool = False

    def carry(self) -> None:
        """Carries frames until `end`."""
        rng, under_way, number = random.Random(self.seed), list[tuple[float, int, int, bytes]](), 0
        while not self._is_over:
            wait = min(max(under_way[0][0] - time.monotonic(), 0.0), 0.1) if under_way else 0.1
            for wire in select.select(self.wires, (), (), wait)[0]:
                for frame in _waiting_frames(wire):
                    self.carried.update(frames=1, bytes=len(frame))
                    if self.is_cut or rng.random() < self.loss:
                        self.carried["lost"] += 1
                        continue
                    number += 1
                    to = self.wires[wire == self.wires[0]]
                    heapq.heappush(under_way, (time.monotonic() + self.delay_s, number, to, frame))
            while under_way and under_way[0][0] <= time.monotonic():
                _, _, to, frame = heapq.heappop(under_way)
                os.write(to, frame)

    def end(self) -> None:
        """Lets `carry` return."""
        self._is_over = True


def _waiting_frames(wire: int) -> Iterator[bytes]:
    while True:
        try:
            yield os.read(wire, _LARGEST_FRAME)
        except BlockingIOError:
            return


@contextmanager
def two_hosts(
    folder: Path, delay_s: float = 0.0, loss: float = 0.0, own_name: OwnName = "network"
) -> Iterator[tuple[Host, Host, Network]]:
    """Makes two hosts and the network between them.

    Args:
        folder: for their tables of hosts.
        delay_s: seconds a frame is under way.
        loss: share of the frames that are lost.
        own_name: what each finds under its own name.

    Raises:
        OSError: this machine does not permit it.
    """
    with ExitStack() as stack:
        hosts = []
        for name in ADDRESSES:
            hosts.append(Host(name, folder, own_name))
            stack.callback(hosts[-1].close)
        network = Network((hosts[0].wire, hosts[1].wire), delay_s, loss)
        carrier = threading.Thread(target=network.carry, daemon=True)
        carrier.start()
        stack.callback(carrier.join)
        stack.callback(network.end)
        yield hosts[0], hosts[1], network
