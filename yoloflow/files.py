"""Files: written whole or not at all, JSON read and its form checked."""

from __future__ import annotations

import codecs
import difflib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from yoloflow.structures import YoloflowError

NUMBER = (int, float)
"""A form: any number."""

UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""First bytes of a text that says that it is UTF-16."""

_WORDS = {dict: "an object", list: "a list", str: "a text", int: "a whole number", NUMBER: "a number"}


def similar_paths(path: Path) -> str:
    """Returns a clause with paths that one which is not there may mean, from its folder; "" for none."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return "" if path.parent.is_dir() else f"; there is no folder {path.parent} either"
    close = difflib.get_close_matches(path.name, names, n=3)
    return f"; did you mean {' or '.join(str(path.parent / name) for name in close)}?" if close else ""


def read_json(
    path: Path,
    object_hook: Callable[[dict[str, Any]], Any] | None = None,
    advice: str = "; restore the file, or remove it",
) -> Any:
    """Reads the content of a JSON file, in UTF-8, 16 or 32; None where there is no such file.

    Args:
        path: the file.
        object_hook: called with each object, gives what stands for it.
        advice: end of the message about a file that is no JSON.

    Raises:
        YoloflowError: it cannot be read, or is no JSON that Python can hold; the message has line and column.
    """
    try:
        return json.loads(_text_of_json(path), object_hook=object_hook)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise YoloflowError(f"{path}: cannot be read ({error.strerror})") from error
    except json.JSONDecodeError as error:
        place = f"{path}:{error.lineno}:{error.colno}"
        raise YoloflowError(f"{place}: no valid JSON ({error.msg}){advice}") from error
    except RecursionError as error:
        raise YoloflowError(f"{path}: no valid JSON (nested too deeply){advice}") from error
    except ValueError as error:  # no text, or a number of thousands of digits
        raise YoloflowError(f"{path}: no valid JSON ({error}){advice}") from error


def _text_of_json(path: Path) -> str:
    """Returns the text of a file in any of JSON's encodings; of a large one its bytes are not kept beside."""
    data = path.read_bytes()
    return data.decode(json.detect_encoding(data), "surrogatepass")


def read_checked(path: Path, form: object) -> Any:
    """Reads a JSON file in its expected form (see `wrong_places`); None where there is no such file.

    Raises:
        YoloflowError: it cannot be read, is no JSON or has another form.
    """
    content = read_json(path)
    # A file that says only `null` has a form too, and it is not that of a file that is not there.
    if content is None and not path.exists():
        return None
    for place in wrong_places(content, form):
        raise YoloflowError(f"{path}: {place}; restore the file, or remove it")
    return content


def read_names(path: Path) -> list[str] | None:
    """Reads the class names of a `names.json`; None where there is no such file.

    Raises:
        YoloflowError: it cannot be read, is no JSON or no list of texts.
    """
    names: list[str] | None = read_checked(path, [str])
    return names


def wrong_places(content: object, form: object, place: str = "the content") -> Iterator[str]:
    """Returns the places of content that have another form than expected, as sentences.

    Args:
        content: plain data.
        form: a type or `NUMBER`; a list with the form of each item; or the keys of an object with their
            forms, where a key that ends in "?" may be absent or null. Keys that are not named are free.
        place: words for the content.
    """
    if isinstance(form, dict):
        yield from _wrong_keys(content, form, place)
    elif isinstance(form, list):
        if not isinstance(content, list):
            yield f"{place} should be a list"
            return
        for number, item in enumerate(content):
            yield from wrong_places(item, form[0], f"{place}[{number}]")
    elif not isinstance(content, form) or isinstance(content, bool):  # type: ignore[arg-type]
        yield f"{place} should be {_WORDS[form]}"


def _wrong_keys(content: object, form: Mapping[str, object], place: str) -> Iterator[str]:
    if not isinstance(content, dict):
        yield f"{place} should be an object"
        return
    for key, part in form.items():
        name = key.removesuffix("?")
        value = content.get(name)
        if value is None and name != key:
            continue
        if name not in content:
            yield f"{place} has no {name!r}"
        else:
            yield from wrong_places(value, part, name if place == "the content" else f"{place}.{name}")


def default_cache_folder() -> Path:
    """Returns $XDG_CACHE_HOME/yoloflow, else ~/.cache/yoloflow."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "yoloflow"


def decoded(data: bytes) -> str:
    """Returns text of UTF-8, or of UTF-16 where a mark at its beginning says so; without the mark.

    Raises:
        UnicodeDecodeError: it is neither.
    """
    return data.decode("utf-16" if data.startswith(UTF16_MARKS) else "utf-8-sig")


def require_local(path: str, place: str) -> None:
    """Raises an error that begins with `place` where a path is an address on the web."""
    if re.match(r"[a-z][a-z0-9+.-]+://", path, re.IGNORECASE):
        raise YoloflowError(
            f"{place}: data sets are not fetched; download and unpack it, and give the folder"
        )


def is_utf8(path: str | Path) -> bool:
    """Returns whether a path is UTF-8; OpenCV ends the process where it is given one that is not."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def sha256_of(path: str | Path) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: str | Path, content: bytes) -> None:
    """Writes a file so that after a crash at any moment either the old or the new content is complete.

    Args:
        path: the file; its folder must exist.
        content: all of it.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` last through a power cut."""
    if os.name == "nt":  # Windows cannot open folders, and needs no such call
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
