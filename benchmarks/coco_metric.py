"""COCO figures of synthetic detections: seconds and peak memory of yoloflow and of pycocotools.

    python benchmarks/coco_metric.py [--images 500] [--detections 100] [--engines yoloflow pycocotools]
    python benchmarks/coco_metric.py --masks [--images 500] [--detections 100]

Each runs in a process of its own, from two json files to the twelve figures; the figures must be equal.
`--images 5000` takes pycocotools a minute or two. The engine `diagnose` gives all diagnostics with intervals
of 1,000 samples; `compare` compares the results with themselves, 1,000 samples, and `hotcoco-compare` is
hotcoco's comparison of the same. With `--masks` objects have polygons and detections run-length masks, and
the figures are those of masks.
"""

import argparse
import contextlib
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, HEIGHT, CLASSES = 640, 480, 80


def write_data(folder: Path, num_images: int, num_detections: int, with_masks: bool = False) -> None:
    """About eight objects an image; a third of the detections lie near an object.

    With masks an object is a polygon of 24 corners in its box, a detection the ellipse in its own.
    """
    rng = np.random.default_rng(0)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image_id in range(1, num_images + 1):
        boxes = random_boxes(rng, int(rng.poisson(7)) + 1)
        classes = rng.integers(1, CLASSES + 1, len(boxes))
        for box, category_id in zip(boxes.tolist(), classes.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
        nearest = rng.integers(len(boxes), size=num_detections)
        is_near = rng.random(num_detections) < 0.35
        size = boxes[nearest][:, [2, 3, 2, 3]]
        near = boxes[nearest] + rng.normal(0, 0.08, (num_detections, 4)) * size
        found = np.where(is_near[:, None], near, random_boxes(rng, num_detections)).round(3)
        found[:, 2:] = np.maximum(found[:, 2:], 2)
        found_classes = np.where(is_near, classes[nearest], rng.integers(1, CLASSES + 1, num_detections))
        scores = (rng.beta(1, 3, num_detections) + is_near * 0.25).clip(0, 1).round(5)
        for box, category_id, score in zip(
            found.tolist(), found_classes.tolist(), scores.tolist(), strict=True
        ):
            results.append({"image_id": image_id, "category_id": category_id, "bbox": box, "score": score})
    if with_masks:
        add_masks(rng, annotations, results)
    images = [{"id": i + 1, "width": WIDTH, "height": HEIGHT} for i in range(num_images)]
    categories = [{"id": k + 1, "name": str(k)} for k in range(CLASSES)]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))


def add_masks(
    rng: np.random.Generator, annotations: list[dict[str, Any]], results: list[dict[str, Any]]
) -> None:
    from hotcoco import mask

    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack((np.cos(angles), np.sin(angles)), 1) / 2 + 0.5
    for row in annotations:
        x, y, w, h = row["bbox"]
        star = (circle - 0.5) * rng.uniform(0.8, 1, (24, 1)) + 0.5
        row["segmentation"] = [((x, y) + star * (w, h)).round(2).ravel().tolist()]
    for row in results:
        x, y, w, h = row["bbox"]
        (found,) = mask.frPyObjects([((x, y) + circle * (w, h)).ravel().tolist()], HEIGHT, WIDTH)
        row["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": found["counts"].decode()}


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    size = np.exp(rng.uniform(np.log(10), np.log(250), (count, 2)))
    return np.concatenate((rng.uniform(0, 1, (count, 2)) * ([WIDTH, HEIGHT] - size), size), 1)


def run_yoloflow(truth: str, results: str) -> list[float]:
    from yoloflow.evaluation.coco import evaluate_coco

    return list(evaluate_coco(truth, results).stats)


def run_yoloflow_masks(truth: str, results: str) -> list[float]:
    from yoloflow.evaluation.coco import evaluate_coco

    return list(evaluate_coco(truth, results, iou_type="segm").stats)


def run_diagnose(truth: str, results: str) -> list[float]:
    from yoloflow.evaluation.diagnostics import diagnose

    content = diagnose(truth, results).to_json()
    return list(content["stats"])


def run_compare(truth: str, results: str) -> list[float]:
    from yoloflow.evaluation.diagnostics import compare

    return list(compare(truth, results, results).a.stats)


def run_hotcoco_compare(truth: str, results: str) -> list[float]:
    import hotcoco

    data = hotcoco.COCO(truth)
    evaluation = hotcoco.COCOeval(data, data.load_res(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summary_lines()
    hotcoco.compare(evaluation, evaluation, n_bootstrap=1000, seed=0)
    return list(evaluation.stats)


def run_pycocotools(truth: str, results: str, iou_type: str = "bbox") -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO(truth)
        evaluation = COCOeval(data, data.loadRes(results), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(figure) for figure in evaluation.stats]


ENGINES: dict[str, Callable[[str, str], list[float]]] = {
    "yoloflow": run_yoloflow,
    "pycocotools": run_pycocotools,
    "yoloflow-masks": run_yoloflow_masks,
    "pycocotools-masks": partial(run_pycocotools, iou_type="segm"),
    "diagnose": run_diagnose,
    "compare": run_compare,
    "hotcoco-compare": run_hotcoco_compare,
}


def measure(engine: str, truth: str, results: str) -> None:
    """One engine in this process: a line of json with seconds (imports included), peak memory, figures."""
    start = time.perf_counter()
    stats = ENGINES[engine](truth, results)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time()
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "megabytes": megabytes, "stats": stats})
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--detections", type=int, default=100, help="of each image")
    parser.add_argument("--masks", action="store_true", help="figures of masks")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, metavar="ENGINE")
    parser.add_argument("--measure", nargs=3, metavar=("ENGINE", "TRUTH", "RESULTS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
        return
    pair = ["yoloflow-masks", "pycocotools-masks"] if arguments.masks else ["yoloflow", "pycocotools"]
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own: the children would inherit this one's peak memory.
        maker = f"import coco_metric, pathlib; coco_metric.write_data(pathlib.Path({folder!r}), "
        maker += f"{arguments.images}, {arguments.detections}, {arguments.masks})"
        subprocess.run([sys.executable, "-c", maker], check=True, cwd=Path(__file__).parent)
        found = {}
        for engine in arguments.engines or pair:
            files = [str(Path(folder) / "truth.json"), str(Path(folder) / "results.json")]
            command = [sys.executable, __file__, "--measure", engine, *files]
            found[engine] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    for engine, figures in found.items():
        seconds, cpu, megabytes = (figures[key] for key in ("seconds", "cpu_seconds", "megabytes"))
        ap = figures["stats"][0]
        print(f"{engine:18} {seconds:8.2f} s  {cpu:8.2f} CPU s  {megabytes:7.0f} MB  AP {ap:.5f}")
    if not set(pair) <= found.keys():
        return
    mine, theirs = (found[engine] for engine in pair)
    faster = theirs["seconds"] / mine["seconds"]
    smaller = theirs["megabytes"] / mine["megabytes"]
    verdict = "bit-equal" if mine["stats"] == theirs["stats"] else "DIFFERENT"
    size = f"{arguments.images} images x {arguments.detections} detections"
    print(f"{size}: {faster:.0f}x as fast, {smaller:.1f}x less memory, figures {verdict}")


if __name__ == "__main__":
    main()
