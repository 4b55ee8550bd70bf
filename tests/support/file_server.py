"""A web server on this machine that gives files out, and misbehaves where a test wants it to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What the server has, and what it was asked.

    Attributes:
        files: content by path.
        break_after: bytes after which an answer breaks off.
        takes_ranges: answers a request for a part with that part.
        says_length: states the length of an answer.
        ranges: the Range header of each request so far, "" where there was none.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    break_after: int | None = None
    takes_ranges: bool = True
    says_length: bool = True
    ranges: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def file_server() -> Iterator[FileServer]:
    """Serves on a free port of the loopback address while the block runs."""
    state = FileServer()

    class Handler(BaseHTTPRequestHandler):
        """Answers GET from `state`."""

        def do_GET(self) -> None:  # noqa: N802 - the base class calls it so
            """Sends a file, a part of it, or 404."""
            asked = self.headers.get("Range", "")
            state.ranges.append(asked)
            content = state.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and state.takes_ranges else 0
            if start >= len(content) > 0:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if state.says_length:
                self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:][: state.break_after])

        def log_message(self, *_: object) -> None:
            """Writes no log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
