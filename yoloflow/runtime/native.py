"""C++ code that the machine's own compiler builds when it is needed."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from yoloflow.structures import YoloflowError

_COMPILERS = ("g++", "c++", "clang++")
# No -fopenmp for the linker: the code takes the OpenMP threads of torch, and brings none of its own.
_COMPILE = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-Wno-psabi", "-c")
_SECONDS = 60


def load_native(source: Path) -> ctypes.CDLL:
    """Builds a C++ file and loads it; once a process, within a second.

    Nothing is kept on the disk, so nothing can be left from another processor or compiler.

    Args:
        source: the file; its functions are `extern "C"`.

    Raises:
        YoloflowError: it cannot be built here; says why.
    """
    found = _build(source)
    if isinstance(found, str):
        raise YoloflowError(found)
    return found


@cache
def _build(source: Path) -> ctypes.CDLL | str:
    """Returns the library, or why there is none."""
    if sys.platform != "linux":
        return "kernels are built on Linux only"
    named = os.environ.get("CXX")
    try:
        commands = [shlex.split(named)] if named else [[name] for name in _COMPILERS]
    except ValueError:  # quotes that do not end
        commands = []
    compiler = next((command for command in commands if command and shutil.which(command[0])), None)
    if compiler is None:
        return f"no C++ compiler was found ({named or ', '.join(_COMPILERS)})"
    with tempfile.TemporaryDirectory(prefix="yoloflow-") as folder:
        compiled, library = Path(folder) / "kernels.o", Path(folder) / "kernels.so"
        try:
            for command in ((*_COMPILE, source, "-o", compiled), ("-shared", compiled, "-o", library)):
                subprocess.run(
                    (*compiler, *command), check=True, capture_output=True, text=True, timeout=_SECONDS
                )
            return ctypes.CDLL(str(library))
        except subprocess.CalledProcessError as error:
            told = next(iter(error.stderr.strip().splitlines()), f"exit status {error.returncode}")
            return f"{shlex.join(compiler)} could not build {source.name}: {told}"
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{source.name}, built by {shlex.join(compiler)}, cannot be used: {error}"
