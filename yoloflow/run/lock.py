"""One process trains in a run folder at a time."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from yoloflow.structures import YoloflowError

logger = logging.getLogger("yoloflow")

_held: dict[Path, IO[str]] = {}
"""The locks of this process: the lock file of each run folder, open."""

_ATTEMPTS = 10
"""To make a lock file in a folder that other processes remove as they leave."""

_made: set[Path] = set()
"""Parents of run folders that were not there before this process."""


class AnotherProcessError(YoloflowError):
    """Another process trains in the folder."""


def acquire_run_lock(path: Path, patience_s: float = 0.0) -> None:
    """Locks a run folder, which need not exist, until `release_run_lock` or the process ends.

    It is a record lock (POSIX, `fcntl`) on `.locks/<name>.lock` beside the folder: it ends with the
    process, however that ends, is not inherited by loading processes, and holds over machines that share the
    folder. Where the system has no such locks nothing is locked.

    Args:
        path: the run folder.
        patience_s: seconds to wait for another process to leave.

    Raises:
        AnotherProcessError: another process holds it; the message names it.
        YoloflowError: the parent folder cannot be written.
    """
    path = Path(os.path.realpath(path))  # by whatever links it is named, a folder has one lock
    if path in _held or find_spec("fcntl") is None:  # Windows has none
        return
    deadline, has_spoken = time.monotonic() + patience_s, False
    while not _is_locked(file := _open(path), path):
        holder = _holder(file) if _is_there(file) else None
        file.close()
        if holder is None:  # it has just left
            continue
        if time.monotonic() >= deadline:
            raise AnotherProcessError(
                f"{path} is being trained by {holder}: wait for it or stop it, or choose another name=..."
            )
        if not has_spoken:
            logger.info("%s is being trained by %s; waiting for it to end", path, holder)
            has_spoken = True
        time.sleep(0.1)
    _held[path] = file
    file.truncate(0)
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    json.dump({"pid": os.getpid(), "host": socket.gethostname(), "started": started}, file)
    file.flush()


@contextmanager
def release_run_lock() -> Iterator[None]:
    """Releases the locks that were taken in a block (or a decorated function), and removes their files."""
    before = set(_held)
    try:
        yield
    finally:
        for path in _held.keys() - before:
            file = _held.pop(path)
            with suppress(OSError):
                Path(file.name).unlink()  # as long as it is ours
            file.close()
            with suppress(OSError):  # others are in there
                Path(file.name).parent.rmdir()
                if path.parent in _made:
                    path.parent.rmdir()


def _open(path: Path) -> IO[str]:
    file_path = path.parent / ".locks" / f"{path.name}.lock"
    try:
        if not path.parent.exists():
            _made.add(path.parent)
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
