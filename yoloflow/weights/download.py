"""The download of a file: resumable, and checked against its hash."""

from __future__ import annotations

import http.client
import logging
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from yoloflow.files import sha256_of
from yoloflow.structures import YoloflowError

logger = logging.getLogger(__name__)

PARTIAL_SUFFIX = ".part"
_BLOCK = 1 << 18
_TIMEOUT_S = 30.0
# No published file of weights is near it; a server that never ends must not fill the disk.
_MAX_BYTES = 4 << 30


def download(
    url: str, target: Path, sha256_prefix: str, progress: Callable[[int, int | None], None] | None = None
) -> None:
    """Downloads a file; what an earlier try has left is gone on with.

    The file has its name only when it is whole and its hash is right.

    Args:
        url: http or https.
        target: the file; its folder is made. A file that is there with the right hash is left as it is.
        sha256_prefix: first hexadecimal digits of the SHA-256 that it must have.
        progress: called with the bytes so far and, where the server says it, the bytes in all.

    Raises:
        YoloflowError: the server cannot be reached, does not have the file or breaks off; the hash is
            another; the disk is full or cannot be written to.
    """
    if target.is_file() and sha256_of(target).startswith(sha256_prefix):
        return
    partial = target.with_name(target.name + PARTIAL_SUFFIX)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, partial, progress or (lambda done, total: None))
        found = sha256_of(partial)
        if not found.startswith(sha256_prefix):
            partial.unlink()
            raise YoloflowError(
                f"{url}: what came has the SHA-256 {found[:16]}..., which should begin with {sha256_prefix}; "
                "it was deleted. Try again; if it stays so, a proxy or the server changes the file"
            )
        partial.replace(target)
    except OSError as error:
        raise YoloflowError(
            f"{target}: cannot be written ({error.strerror}); make room there, or set XDG_CACHE_HOME to a "
            "folder on another disk. What has come is kept: the same command goes on from there"
        ) from error


def _fetch(url: str, partial: Path, progress: Callable[[int, int | None], None]) -> None:
    """Appends to the partial file what it lacks."""
    start = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "yoloflow"})
    if not request.type.startswith("http"):
        raise YoloflowError(f"{url}: only addresses that begin with http:// or https:// are downloaded")
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # all of it is there already; its hash tells whether it is right
        raise YoloflowError(f"{url}: the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise YoloflowError(
            f"{url}: cannot be reached ({reason}). Is there a network, and does it need a proxy "
            "(https_proxy)? A file that was downloaded elsewhere is given as weight=FILE"
        ) from error
    with response:
        if response.status != http.client.PARTIAL_CONTENT or _first_byte(response) != start:
            start = 0  # the server sends all of it
        length = response.length
        total = None if length is None else start + length
        with partial.open("r+b" if start else "wb") as file:
            file.seek(start)
            done = _copy(url, response, file, start, total, progress)
    if total is not None and done < total:
        raise _broken_off(url, done, total)


def _first_byte(response: http.client.HTTPResponse) -> int | None:
    """Returns the place of the first byte that a server sends of a part."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _copy(
    url: str,
    response: http.client.HTTPResponse,
    file: BinaryIO,
    done: int,
    total: int | None,
    progress: Callable[[int, int | None], None],
) -> int:
    """Returns how many bytes the file has in the end."""
    while True:
        progress(done, total)
        try:
            block = response.read(_BLOCK)
        except (OSError, http.client.HTTPException) as error:
            raise _broken_off(url, done, total) from error
        if not block:
            return done
        done += len(block)
        if done > _MAX_BYTES:
            raise YoloflowError(f"{url}: goes on after {_MAX_BYTES >> 30} GiB; this is no file of weights")
        file.write(block)


def _broken_off(url: str, done: int, total: int | None) -> YoloflowError:
    of_all = "" if total is None else f" of {total:,}"
    return YoloflowError(
        f"{url}: broke off after {done:,}{of_all} bytes; the same command goes on from there"
    )
