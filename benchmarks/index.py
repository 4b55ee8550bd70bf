"""Seconds and memory of the index of a set of COCO's size, from its labels and from the index cache.

python -m benchmarks.index [--images 118000 --boxes 830000 --formats txt json polygons]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from yoloflow.data.index import read_index

WIDTH, HEIGHT, CLASSES, POINTS = 64, 48, 80, 12


def write_set(folder: Path, kind: str, images: int, boxes: int) -> Path:
    """Writes small JPEGs with random boxes; returns what names the set."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    content = cv2.imencode(".jpg", picture)[1].tobytes()
    (folder / "images").mkdir()
    for number in range(images):
        (folder / "images" / f"{number:06d}.jpg").write_bytes(content)
    owners, classes = np.sort(rng.integers(0, images, boxes)), rng.integers(0, CLASSES, boxes)
    cxcywh = np.concatenate((rng.uniform(0.3, 0.7, (boxes, 2)), rng.uniform(0.05, 0.5, (boxes, 2))), 1)
    if kind == "txt":
        return write_labels(folder, owners, classes, cxcywh)
    return write_json(folder, images, owners, classes, cxcywh, has_polygons=kind == "polygons")


def write_labels(
    folder: Path, owners: NDArray[np.int64], classes: NDArray[np.int64], cxcywh: NDArray[np.float64]
) -> Path:
    (folder / "labels").mkdir()
    lines = [
        f"{number} {cx:.6f} {cy:.6f} {w:.6f} {h:.6f}\n"
        for number, (cx, cy, w, h) in zip(classes.tolist(), cxcywh.tolist(), strict=True)
    ]
    borders = np.flatnonzero(np.diff(owners, prepend=-1, append=owners[-1] + 1))
    for first, last in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        (folder / "labels" / f"{owners[first]:06d}.txt").write_text("".join(lines[first:last]))
    return folder / "images"


def write_json(  # noqa: PLR0913  the columns of one table
    folder: Path,
    images: int,
    owners: NDArray[np.int64],
    classes: NDArray[np.int64],
    cxcywh: NDArray[np.float64],
    *,
    has_polygons: bool,
) -> Path:
    sizes = cxcywh[:, 2:] * (WIDTH, HEIGHT)
    lefts = np.maximum(cxcywh[:, :2] * (WIDTH, HEIGHT) - sizes / 2, 0).round(2)
    angles = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    circle = np.stack((np.cos(angles), np.sin(angles)), 1) / 2 + 0.5
    annotations = []
    for number, (owner, category) in enumerate(zip(owners.tolist(), classes.tolist(), strict=True)):
        entry = {"id": number, "image_id": owner, "category_id": category, "iscrowd": 0}
        entry["bbox"] = [*lefts[number].tolist(), *sizes[number].round(2).tolist()]
        entry["area"] = round(float(sizes[number].prod()), 2)
        if has_polygons:
            entry["segmentation"] = [(lefts[number] + circle * sizes[number]).round(2).ravel().tolist()]
        annotations.append(entry)
    named = [
        {"id": number, "file_name": f"{number:06d}.jpg", "width": WIDTH, "height": HEIGHT}
        for number in range(images)
    ]
    categories = [{"id": number, "name": f"class {number}"} for number in range(CLASSES)]
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": named, "annotations": annotations, "categories": categories}))
    return path


def read(source: str) -> None:
    """Reads the set, as a training does, and prints its seconds and peak memory."""
    start = time.perf_counter()
    is_json = source.endswith(".json")
    folder = str(Path(source).parent / "images") if is_json else None
    index = read_index(source, nc=None if is_json else CLASSES, image_folder=folder, cache=True)
    seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    # The peak of `getrusage` would count the process that started this one.
    status = Path("/proc/self/status").read_text().splitlines()
    peak = int(next(line.split()[1] for line in status if line.startswith("VmHWM"))) / 1000
    print(
        f"{len(index):,} images, {len(index.classes):,} boxes: {seconds:.1f} s "
        f"({used.ru_utime + used.ru_stime:.1f} CPU s with imports), peak {peak:.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--boxes", type=int, default=830_000)
    parser.add_argument("--formats", nargs="+", default=["txt", "json", "polygons"])
    parser.add_argument("--read", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        return read(arguments.read)
    for kind in arguments.formats:
        with tempfile.TemporaryDirectory() as folder:
            source = write_set(Path(folder), kind, arguments.images, arguments.boxes)
            command = [sys.executable, "-m", "benchmarks.index", "--read", str(source)]
            time.sleep(3)  # what changed only just now is not kept
            for what in ("from the labels", "from the index cache"):
                print(f"{kind}, {what}: ", end="", flush=True)
                # A process of its own: its peak is that of this read.
                subprocess.run(command, check=True, env=os.environ | {"XDG_CACHE_HOME": f"{folder}/cache"})
    return None


if __name__ == "__main__":
    main()
