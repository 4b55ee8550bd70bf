"""Network ports for processes that find each other."""

import socket


def free_port() -> int:
    """Returns a port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port
