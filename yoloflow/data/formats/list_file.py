"""List files: one name a line, as YOLO and PASCAL VOC give their splits."""

from __future__ import annotations

import codecs
import os

from yoloflow.files import decoded, is_utf8
from yoloflow.structures import YoloflowError


def read_list_file(path: str) -> list[tuple[str, int]]:
    """Lines that are not blank, with their 1-based numbers, of a UTF-8 or marked UTF-16 text file.

    A line of other bytes is taken as it stands if it is the path of a file, as names of archives are.

    Raises:
        YoloflowError: the file is neither.
    """
    with open(path, "rb") as file:
        data = file.read()
    try:
        text = decoded(data)
    except UnicodeDecodeError as error:
        text = data.removeprefix(codecs.BOM_UTF8).decode(errors="surrogateescape")
        odd = [line.strip() for line in text.split("\n") if not is_utf8(line)]
        if not all(os.path.exists(os.path.join(os.path.dirname(path), line)) for line in odd):
            raise YoloflowError(
                f"{path}: cannot be read as UTF-8 text ({error}); save it as UTF-8"
            ) from error
    if "\0" in text:
        raise YoloflowError(f"{path}: is no text file (it holds zero bytes); save it as UTF-8")
    # Not str.splitlines: a name may hold one of the rare characters that it takes for a line end.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [(line.strip(), number) for number, line in enumerate(lines, 1) if line.strip()]
