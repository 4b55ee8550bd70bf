"""The network interface by which ranks of several machines find each other over Gloo."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from yoloflow.structures import YoloflowError

_VARIABLE = "GLOO_SOCKET_IFNAME"

# Of linux/sockios.h: asks for the IPv4 address of an interface.
_SIOCGIFADDR = 0x8915


def name_of_machine() -> str:
    """Returns what processes share that reach each other by 127.0.0.1: system and network namespace."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/net')}"
    return socket.gethostname()  # no Linux


def choose_reachable_interface(meeting_place: str, is_one_machine: Callable[[], bool]) -> None:
    """Lets Gloo tell the other machines an address of this one that they can reach.

    Gloo takes the address of the machine's own name. Many systems have it as 127.0.0.1 or 127.0.1.1 in
    `/etc/hosts`, and then every rank looks for the others on its own machine. Where it is so, the interface
    that leads to the ranks' meeting place is taken, by the environment of this process: groups that are made
    later look there too.

    Args:
        meeting_place: name or address of the machine with the ranks' store, as torchrun's MASTER_ADDR.
        is_one_machine: whether all ranks are on this machine; asked only where no interface leads there.

    Raises:
        YoloflowError: no interface leads there.
    """
    if _VARIABLE in os.environ or not _means_this_machine_alone(own := _addresses_of(socket.gethostname())):
        return
    interfaces, own_address = _interfaces(), _source_to(meeting_place)
    found = next((name for name, address in interfaces.items() if address == own_address), None)
    if found is None:
        if is_one_machine():
            return
        names = ", ".join(f"{name} ({address})" for name, address in interfaces.items()) or "found none"
        raise YoloflowError(
            f"the name of this machine, {socket.gethostname()}, means {own[0] if own else 'nothing'} here, "
            f"and the meeting place {meeting_place} leads to no network: other machines cannot reach its "
            f"ranks. Write before torchrun {_VARIABLE}= and the network interface that leads to them: {names}"
        )
    os.environ[_VARIABLE] = found


def _addresses_of(name: str) -> list[str]:
    try:
        return [str(entry[4][0]) for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]
    except OSError:  # no such name
        return []


def _means_this_machine_alone(addresses: list[str]) -> bool:
    """Returns whether the first address, which Gloo takes, is none that others reach."""
    return not addresses or ip_address(addresses[0].partition("%")[0]).is_loopback


def _source_to(place: str) -> str | None:
    """Returns the IPv4 address from which this machine sends to another; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((place, 1))
        except OSError:  # no such name, no way there, or none for IPv4
            return None
        return str(probe.getsockname()[0])


def _interfaces() -> dict[str, str]:
    """Returns the IPv4 address of each interface that leads to other machines; on Linux alone."""
    try:
        import fcntl  # Windows has none
    except ImportError:
        return {}
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # it has no address
                continue
            address = socket.inet_ntoa(answer[20:24])
            if not ip_address(address).is_loopback:
                found[name] = address
    return found
