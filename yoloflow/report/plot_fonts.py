"""Fonts of plots: names in any script are drawn with an installed font that has their letters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

# In this order, by a part of their names in small letters; others of the system follow.
_PREFERRED = (
    *("noto sans cjk", "source han sans", "wenquanyi", "microsoft yahei", "simhei", "pingfang", "hiragino"),
    *("noto serif cjk", "source han serif", "simsun", "heiti", "songti", "ms gothic", "yu gothic", "malgun"),
    *("nanum", "apple sd gothic", "arphic", "droid sans fallback", "arial unicode", "noto sans", "freesans"),
)
# The glyphs of the first are boxes with the number of a letter; the others are pictures, which are not drawn.
_NEVER = ("last resort", "emoji", "color")
_FILES_OF_SCRIPTS = ("cjk", "noto", "sourcehan", "wqy", "nanum", "droidsansfallback", "uming", "ukai", "free")


def families_for(texts: Iterable[str]) -> tuple[list[str], set[str]]:
    """Returns the font families that draw the texts, matplotlib's own first, and the letters that none has.

    Args:
        texts: what is to be drawn.
    """
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties, findfont

    families = [*rcParams["font.family"]]
    letters = {letter for text in texts for letter in text if not letter.isspace()}
    missing = letters - _drawn_by(findfont(FontProperties()), letters)
    for name, path in _installed() if missing else ():
        if found := _drawn_by(path, missing):
            families.append(name)
            missing -= found
            if not missing:
                break
    return families, missing


def _installed() -> Iterator[tuple[str, str]]:
    """Yields families and files of the fonts of the system, the likeliest first."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    # Matplotlib keeps its list in a file, which fonts that were installed later are not in.
    listed = {font.fname for font in fontManager.ttflist}
    for path in findSystemFonts():
        if path not in listed and any(part in Path(path).name.lower() for part in _FILES_OF_SCRIPTS):
            try:
                fontManager.addfont(path)
            except (OSError, RuntimeError):  # damaged, or of a kind that matplotlib does not draw
                continue
    fonts = [font for font in fontManager.ttflist if not any(part in font.name.lower() for part in _NEVER)]
    fonts.sort(key=lambda font: _rank(font.name, font.style))
    yield from ((font.name, font.fname) for font in fonts)


def _rank(name: str, style: str) -> tuple[int, bool, str]:
    number = next((n for n, part in enumerate(_PREFERRED) if part in name.lower()), len(_PREFERRED))
    return number, style != "normal", name


def _drawn_by(path: str, letters: set[str]) -> set[str]:
    """Returns the letters that a font has."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):
        return set()
    return {letter for letter in letters if font.get_char_index(ord(letter))}
