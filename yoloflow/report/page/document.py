"""Runs as one HTML file: figures and images as data, the style sheet and the scripts beside this module."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from itertools import chain, zip_longest
from typing import Any

from yoloflow.report.page.comparison import best_figures, differing_settings
from yoloflow.report.page.diagnostics import compact_diagnostics, compact_images
from yoloflow.report.page.run_content import RunContent, page_curves
from yoloflow.report.page.thumbnails import Thumbnails, make_thumbnails
from yoloflow.structures import YoloflowError

LARGEST = 4_900_000
"""Bytes of a page at most."""
_SCRIPTS = ("base", "charts", "tables", "gallery", "sections", "facts", "comparison", "page")
# Classes whose curves are kept, most first: fewer where the page would become too large.
_CLASSES_WITH_CURVES = (100, 30, 0)
_NO_NETWORK = "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:"


def render_page(runs: Sequence[RunContent]) -> str:
    """Renders the page of one run, or of several side by side.

    Args:
        runs: of `read_run`.

    Returns:
        the HTML text, less than `LARGEST` bytes in UTF-8.

    Raises:
        YoloflowError: so many runs that even without images the page would be too large.
    """
    title = " · ".join(run.name for run in runs)
    shared: dict[str, Any] = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": differing_settings([run.settings for run in runs]),
    }
    frame = len(_document(title, "").encode("utf-8", "replace"))
    for num_classes in _CLASSES_WITH_CURVES:
        contents = [_of_run(run, num_classes) for run in runs]
        files = [[image["file"] for image in run["gallery"]["images"]] for run in contents]
        # What `_place_thumbnails` adds to each run and image.
        notes = 100 + sum(400 + 60 * len(of_run) for of_run in files)
        bytes_left = (
            LARGEST - frame - notes - len(_as_script_data(shared | {"runs": contents, "thumbnails": []}))
        )
        if bytes_left > 0:
            break
    else:
        raise YoloflowError(
            f"a page of {len(runs)} runs would be larger than {LARGEST / 1e6} MB; give fewer runs"
        )
    by_rank = [file for file in chain.from_iterable(zip_longest(*files)) if file is not None]
    thumbnails = make_thumbnails(by_rank, bytes_left)
    _place_thumbnails(contents, thumbnails)
    content = shared | {"runs": contents, "thumbnails": list(thumbnails.texts.values())}
    return _document(title, _as_script_data(content))


def _of_run(run: RunContent, num_classes: int) -> dict[str, Any]:
    """Returns what the page's scripts read of a run."""
    diagnostics, summary, epochs = run.diagnostics, run.summary, run.settings.get("epochs", "")
    return {
        "name": run.name,
        "finished": summary is not None,
        "ended": run.ended,
        "config": run.config,
        "summary": summary and {key: summary.get(key) for key in ("wall_seconds", "images_per_second")},
        "curves": page_curves(run.metrics),
        "data": run.data,
        "labels_plot": run.labels_plot
        and f"data:image/png;base64,{base64.b64encode(run.labels_plot).decode()}",
        "recipe": run.settings.get("recipe"),
        "epochs": int(epochs) if epochs.isdigit() else None,
        "num_classes": len(run.names or ()),
        "best": best_figures(run),
        "environment": _environment(run),
        "not_evaluated": run.not_evaluated,
        "stale_reason": run.stale_reason,
        "diagnostics": diagnostics and compact_diagnostics(diagnostics, num_classes),
        "gallery": {"images": compact_images(diagnostics["images"]) if diagnostics else [], "note": None},
    }


def _environment(run: RunContent) -> dict[str, Any]:
    """Returns what the run ran on, as names and values."""
    summary = run.summary or {}
    versions = summary.get("versions", {})
    known = {
        "Python": versions.get("python"),
        "PyTorch": versions.get("torch"),
        "yoloflow": versions.get("yoloflow"),
        "Device": summary.get("device"),
        "Processes": summary.get("ranks"),
        "Platform": summary.get("platform"),
        "Git commit": summary.get("git_commit"),
        "Evaluated": (run.diagnostics or {}).get("what"),
        "Run folder": str(run.path),
    }
    return {name: value for name, value in known.items() if value is not None}


def _place_thumbnails(runs: Sequence[dict[str, Any]], thumbnails: Thumbnails) -> None:
    """Gives each image the number of its thumbnail, or why it has none, and each gallery a note of both."""
    numbers = {file: number for number, file in enumerate(thumbnails.texts)}
    for run in runs:
        images = run["gallery"]["images"]
        for image in images:
            image["thumbnail"] = numbers.get(image["file"])
            if image["file"] in thumbnails.unreadable:
                image["why"] = "image not found"
            elif image["file"] in thumbnails.left_out:
                image["why"] = "left out for its size"
        if run["diagnostics"] is None:
            continue
        parts = [f"The {len(images)} worst of {run['diagnostics']['num_images']} evaluated images."]
        if missing := sum(image["file"] in thumbnails.unreadable for image in images):
            parts.append(f"{missing} image files are not there any more or cannot be read.")
        if dropped := sum(image["file"] in thumbnails.left_out for image in images):
            parts.append(f"{dropped} images are left out to keep the file below 5 MB.")
        run["gallery"]["note"] = " ".join(parts)


def _as_script_data(content: object) -> str:
    """Returns JSON that can stand inside a script element: ASCII, and nothing in it can end the element."""
    text = json.dumps(_plain(content), allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _plain(value: object) -> object:
    """Rounds floats to five significant digits; what is not finite is null, as JSON has no other word."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


def _document(title: str, script_data: str) -> str:
    style = _resource("page.css")
    # One scope: nothing of the page is global.
    script = (
        '(() => {\n"use strict";\n' + "\n".join(_resource(f"{name}.js") for name in _SCRIPTS) + "\n})();\n"
    )
    policy = f"{_NO_NETWORK}; style-src {_hash_of(style)}; script-src {_hash_of(script)}"
    heading = html.escape(title).encode("ascii", "xmlcharrefreplace").decode()
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{heading} · yoloflow</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<div id="page">
<noscript><p>This report draws its tables and curves with a script; please allow scripts.</p></noscript>
</div>
<script type="application/json" id="data">{script_data}</script>
<script>{script}</script>
</body>
</html>
"""


def _hash_of(text: str) -> str:
    """Returns the word of a content security policy that allows exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _resource(name: str) -> str:
    return (files("yoloflow.report.page") / name).read_text(encoding="utf-8")
