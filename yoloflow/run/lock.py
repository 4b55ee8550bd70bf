"""One training writes a run folder at a time."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import IO

from yoloflow.structures import YoloflowError

logger = logging.getLogger("yoloflow")

_held: dict[Path, IO[str]] = {}
"""The claims of this process: the lock file of each run folder, open."""

_claimed: ContextVar[list[Path] | None] = ContextVar("claimed", default=None)
"""The claims of the innermost `release_run_lock` around the code that asks."""

_mutex = threading.Lock()
"""Guards `_held` and the lock files: closing one anew would end this process's lock on it."""

_ATTEMPTS = 10
"""To make a lock file in a folder that other processes remove as they leave."""

_made: set[Path] = set()
"""Parents of run folders that were not there before this process."""


class AnotherProcessError(YoloflowError):
    """Another training, of this or another process, writes the folder."""


def acquire_run_lock(path: Path, patience_s: float = 0.0) -> None:
    """Claims a run folder, which need not exist, until `release_run_lock` or the process ends.

    It is a record lock (POSIX, `fcntl`) on `.locks/<name>.lock` beside the folder: it ends with the
    process, however that ends, is not inherited by loading processes, and holds over machines that share the
    folder. Where the system has no such locks, other processes are not kept out. Within a process a folder
    has one claim too, whichever thread asks.

    Args:
        path: the run folder.
        patience_s: seconds to wait for another training to leave.

    Raises:
        AnotherProcessError: another training holds it; the message names its process.
        YoloflowError: the parent folder cannot be written.
    """
    path = Path(os.path.realpath(path))  # by whatever links it is named, a folder has one lock
    deadline, has_spoken = time.monotonic() + patience_s, False
    while (holder := _claim(path)) is not None:
        if not holder:  # it has just left
            continue
        if time.monotonic() >= deadline:
            raise AnotherProcessError(
                f"{path} is being trained by {holder}: wait for it or stop it, or choose another name=..."
            )
        if not has_spoken:
            logger.info("%s is being trained by %s; waiting for it to end", path, holder)
            has_spoken = True
        time.sleep(0.1)
    claims = _claimed.get()
    if claims is not None:
        claims.append(path)


def _claim(path: Path) -> str | None:
    """Tries to claim a folder; returns None, or who holds it, "" where that one has just left."""
    with _mutex:
        if path in _held:
            return f"another training of this process ({os.getpid()})"
        if find_spec("fcntl") is None:  # Windows has none
            _held[path] = io.StringIO()
            return None
        file = _open(path)
        if not _is_locked(file, path):
            holder = _holder(file) if _is_there(file) else ""
            file.close()
            return holder
        _held[path] = file
        file.truncate(0)
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "started": started}, file)
        file.flush()
        return None


@contextmanager
def release_run_lock() -> Iterator[None]:
    """Releases the claims that a block (or a decorated function) has made, and removes their files."""
    before = _claimed.set([])
    try:
        yield
    finally:
        claims = _claimed.get() or []
        _claimed.reset(before)
        for path in claims:
            _release(path)


def _release(path: Path) -> None:
    with _mutex:
        file = _held.pop(path, None)
        if file is None or isinstance(file, io.StringIO):  # of the parent, before a fork; or no lock
            return
        with suppress(OSError):
            Path(file.name).unlink()  # as long as it is ours
        file.close()
        with suppress(OSError):  # others are in there
            Path(file.name).parent.rmdir()
            for folder in takewhile(_made.__contains__, path.parents):
                folder.rmdir()


def _open(path: Path) -> IO[str]:
    file_path = path.parent / ".locks" / f"{path.name}.lock"
    try:
        _made.update(folder for folder in path.parents if not folder.exists())
        for _ in range(_ATTEMPTS - 1):
            with suppress(FileNotFoundError, FileExistsError):  # the folder has gone in between
                return _make(file_path)
        return _make(file_path)
    except OSError as error:
        raise YoloflowError(
            f"{path}: cannot be written ({error.strerror}); choose another save_dir=..."
        ) from error


def _make(file_path: Path) -> IO[str]:
    file_path.parent.mkdir(parents=True, exist_ok=True)
    return file_path.open("a+", encoding="utf-8")


def _is_locked(file: IO[str], path: Path) -> bool:
    """Returns whether this process has the lock and its file is still the one that others would open."""
    import fcntl  # Windows has none

    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:  # a file system without locks
        logger.warning("%s: cannot be locked (%s); see to it that one process trains there", path, error)
        return True
    return _is_there(file)


def _is_there(file: IO[str]) -> bool:
    """Returns whether it is still the file of its name: the holder of the lock removes it at the end."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), Path(file.name).stat())
    return False


def _holder(file: IO[str]) -> str:
    """Describes the process that has the lock."""
    file.seek(0)
    try:
        content = json.loads(file.read())
        return f"process {content['pid']} on {content['host']} since {content['started']}"
    except (ValueError, KeyError, TypeError):  # it is being written
        return "another process"


def is_training(path: Path) -> bool | None:
    """Returns whether the training that claimed a run folder is alive; None where that is not known here.

    Args:
        path: the run folder.
    """
    path = Path(os.path.realpath(path))
    if path in _held:
        return True
    if find_spec("fcntl") is None:  # Windows, where a process that is asked for would be ended
        return None
    try:
        # Not opened where this process has the lock, which closing it would end.
        content = json.loads((path.parent / ".locks" / f"{path.name}.lock").read_bytes())
        if content["host"] != socket.gethostname():
            return None
        os.kill(int(content["pid"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return True


def _forget() -> None:
    """A process that was forked holds no claim of its parent."""
    _held.clear()
    _claimed.set(None)
    _mutex.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_mutex.acquire, after_in_parent=_mutex.release, after_in_child=_forget)
