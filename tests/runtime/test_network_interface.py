"""Ranks of several machines tell the others an address that these can reach, or say that there is none."""

import os
import socket

import pytest

from yoloflow.runtime.network_interface import choose_reachable_interface
from yoloflow.runtime.rank_failures import describe_no_connection
from yoloflow.structures import YoloflowError

VARIABLE = "GLOO_SOCKET_IFNAME"


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No interface is chosen, and this machine's own name means itself, as with 127.0.1.1 in /etc/hosts."""
    monkeypatch.setenv(VARIABLE, "")  # so that the end of the test removes what is set
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    return monkeypatch


def own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 1))  # nothing is sent
        except OSError:
            pytest.skip("this machine has no network")
        return str(probe.getsockname()[0])


def test_a_name_that_others_reach_is_left_to_gloo(named: pytest.MonkeyPatch) -> None:
    named.setattr(socket, "gethostname", lambda: "192.0.2.7")
    choose_reachable_interface("127.0.0.1", lambda: False)
    assert VARIABLE not in os.environ


def test_the_interface_that_leads_to_the_meeting_place_is_taken(named: pytest.MonkeyPatch) -> None:
    choose_reachable_interface(own_address(), lambda: False)
    assert os.environ[VARIABLE] in [name for _, name in socket.if_nameindex()]


def test_an_interface_that_the_user_names_is_kept(named: pytest.MonkeyPatch) -> None:
    named.setenv(VARIABLE, "eth7")
    choose_reachable_interface("127.0.0.1", lambda: False)
    assert os.environ[VARIABLE] == "eth7"


@pytest.mark.parametrize("place", ["127.0.0.1", "localhost"])
def test_a_meeting_place_on_no_network_is_refused_with_the_variable_to_set(
    named: pytest.MonkeyPatch, place: str
) -> None:
    with pytest.raises(
        YoloflowError, match=f"localhost, means 127.0.0.1 here.*{VARIABLE}= and the network|::1"
    ):
        choose_reachable_interface(place, lambda: False)


def test_ranks_that_are_all_on_this_machine_need_no_network(named: pytest.MonkeyPatch) -> None:
    choose_reachable_interface("localhost", lambda: True)
    assert VARIABLE not in os.environ


def test_ranks_that_cannot_connect_say_what_must_be_open() -> None:
    error = RuntimeError("Gloo connectFullMesh failed with [/a/pair.cc:152] timed out connecting: refused")
    said = describe_no_connection(1, "gloo", 20, error)
    assert said.startswith(
        "rank 1: no connection to the other ranks within 20 s (timed out connecting: refused)"
    )
    assert "GLOO_SOCKET_IFNAME" in said
