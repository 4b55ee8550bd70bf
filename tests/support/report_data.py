"""Run folders and diagnostics made up in the form of the real ones, for tests of the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ERROR_KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
STAT_NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large") + (
    ("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large")
)
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!-- <script>",
    'it\'s "quoted" & <b>',
    "naïve 猫 \u2028",
    "\udc80.jpg",
)
WIDTH, HEIGHT = 320, 240


def noise_image(path: Path, seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> Path:
    """Write an image of noise: no JPEG is larger."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path, quality=90)
    return path


def diagnostics(names: Sequence[str], files: Sequence[Path | str], seed: int = 0) -> dict[str, Any]:
    """Return the content of a diagnostics.json; category ids are 1-based."""
    rng = np.random.default_rng(seed)
    stats = [0.52, 0.81, 0.57, 0.21, 0.48, 0.61, 0.3, 0.5, 0.6, 0.3, 0.55, 0.7]
    grid = np.linspace(0, 1, 101)
    images = [image_record(k + 1, str(file), len(names), rng) for k, file in enumerate(files)]
    return {
        "schema": 1,
        "what": "best_ema.safetensors",
        "num_images": 3 * len(files) + 2,
        "num_objects": 100 * len(names),
        "num_detections": 140 * len(names),
        "conf_thres": 0.31,
        "iou_thres": 0.5,
        "stats": stats,
        "stat_names": list(STAT_NAMES),
        "classes": [class_record(k, name, rng) for k, name in enumerate(names)],
        "confidence_curves": {
            "confidence": grid.tolist(),
            "all": confidence_curves(grid, 0.8),
            "per_class": [
                {"category_id": k + 1, **confidence_curves(grid, rng.uniform(0.3, 1))}
                for k in range(len(names))
            ],
        },
        "pr_curves": {
            "iou": 0.5,
            "recall": grid.tolist(),
            "all": (1 - grid**4).tolist(),
            "per_class": [
                {"category_id": k + 1, "precision": (1 - grid ** rng.uniform(1, 6)).tolist()}
                for k in range(len(names))
            ],
        },
        "confusion": confusion(names, rng),
        "errors": {
            "base_ap50": stats[1],
            "kinds": [
                {
                    "kind": kind,
                    "count": int(rng.integers(1, 90)),
                    "ap_cost": round(float(rng.uniform(0, 0.1)), 4),
                }
                for kind in ERROR_KINDS
            ],
        },
        "calibration": calibration(rng),
        "intervals": {"level": 0.95, "samples": 1000, "AP": [0.49, 0.55], "AP50": [0.77, 0.84]},
        "label_errors": [label_error(image, k, len(names), rng) for k, image in enumerate(images[:5])],
        "images": images,
        "speed": {
            "images_per_second": 41.5,
            "milliseconds_per_image": {"loading": 3.2, "network": 18.4, "nms": 1.1},
            "peak_memory_mb": 812.0,
        },
    }


def image_record(number: int, file: str, num_classes: int, rng: np.random.Generator) -> dict[str, Any]:
    """Return one image with a box of every kind."""
    boxes = []
    for kind in (*ERROR_KINDS, "correct", "correct"):
        x1, y1 = rng.uniform(0, WIDTH * 0.7), rng.uniform(0, HEIGHT * 0.7)
        is_missed, is_alone = kind == "missed", kind in ("missed", "background")
        boxes.append(
            {
                "box_xyxy": [x1, y1, x1 + rng.uniform(20, 90), y1 + rng.uniform(20, 70)],
                "category_id": int(rng.integers(num_classes)) + 1,
                "kind": kind,
                "score": None if is_missed else round(float(rng.uniform(0.3, 1)), 4),
                "iou": None if is_alone else round(float(rng.uniform(0.1, 0.9)), 4),
                "other_category_id": None if is_alone else int(rng.integers(num_classes)) + 1,
            }
        )
    counts = {"true_positives": 2, "false_positives": 5, "missed": 1}
    size = {"width": WIDTH, "height": HEIGHT}
    return {"image_id": number, "file": file, **size, "f1": 0.2 + number / 500, **counts, "boxes": boxes}


def class_record(k: int, name: str, rng: np.random.Generator) -> dict[str, Any]:
    figures = (
        "ap",
        "ap50",
        "ap75",
        "ap_small",
        "ap_medium",
        "precision",
        "recall",
        "f1",
        "best_conf",
        "best_f1",
    )
    values = {key: round(float(rng.uniform(0.2, 1)), 4) for key in (*figures, "ar100")}
    counts = {key: int(rng.integers(1, 90)) for key in ("true_positives", "false_positives", "missed")}
    return {
        "category_id": k + 1,
        "name": name,
        "num_objects": 10 + 7 * k,
        **values,
        "ap_large": None,
        **counts,
    }


def confidence_curves(grid: np.ndarray, height: float) -> dict[str, list[float | None]]:
    precision, recall = height + (1 - height) * grid, height * (1 - grid**2)
    f1 = 2 * precision * recall / (precision + recall)
    # Beyond the highest score there is no detection to be precise.
    return {"precision": [*precision[:-1].tolist(), None], "recall": recall.tolist(), "f1": f1.tolist()}


def confusion(names: Sequence[str], rng: np.random.Generator) -> dict[str, Any]:
    matrix = rng.integers(0, 9, (len(names) + 1, len(names) + 1))
    matrix[range(len(names)), range(len(names))] = 80
    matrix[-1, -1] = 0
    convention = "Rows are the truth, columns what was found at confidence 0.31 and IoU 0.5."
    return {"labels": [*names, "background"], "matrix": matrix.tolist(), "convention": convention}


def calibration(rng: np.random.Generator) -> dict[str, Any]:
    bins = []
    for k in range(10):
        middle = k / 10 + 0.05
        known = {"confidence": middle, "accuracy": middle * 0.9, "count": int(rng.integers(1, 200))}
        empty = {"confidence": None, "accuracy": None, "count": 0}
        bins.append({"lower": k / 10, "upper": (k + 1) / 10, **(empty if k == 3 else known)})
    return {"bins": bins, "ece": 0.043, "mce": 0.11}


def label_error(image: dict[str, Any], k: int, num_classes: int, rng: np.random.Generator) -> dict[str, Any]:
    kind = ("wrong_label", "missing_label")[k % 2]
    known = None if k % 2 else int(rng.integers(num_classes)) + 1
    found = {"score": 0.9 - k / 20, "category_id": 1, "true_category_id": known}
    return {"image_id": image["image_id"], "file": image["file"], "kind": kind, **found} | {
        "box_xyxy": [10.0, 20.0, 60.0, 80.0],
        "iou": 0.8 if known else 0.0,
    }


def write_run(
    folder: Path,
    names: Sequence[str] = ("cat", "dog"),
    files: Sequence[Path | str] = (),
    *,
    seed: int = 0,
    steps: int = 60,
    finished: bool = True,
    evaluated: bool = True,
    settings: str = "",
) -> Path:
    """Write a run folder of three epochs in two stages, without weights."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    text = f"recipe: yolov8n\nseed: {seed}\nepochs: 3\noptimizer: {{lr_init: 0.0{seed + 1}}}\n"
    (folder / "config.yaml").write_text(text + settings)
    (folder / "names.json").write_text(json.dumps(list(names)))
    (folder / "data_problems.json").write_text(json.dumps({"train_set": account(4), "val_set": account(0)}))
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        epoch = (step - 1) * 3 // steps + 1
        if (step - 1) % (steps // 3) == 0 and epoch != 2:
            rows.append({"kind": "stage", "epoch": epoch, "stage": epoch // 2, "step": step - 1})
        losses = {"loss": 9 / step + rng.uniform(0, 0.3), "lbox": 3 / step, "lcls": 4 / step}
        rates = {"lr": [0.01 * (1 - step / steps)] * 2 + [0.02], "momentum": 0.9, "images_per_second": 30.0}
        rows.append({"kind": "step", "epoch": epoch, "step": step, "update": step, **losses, **rates})
        if step % (steps // 3) == 0:
            figures = {"map": 0.17 * epoch, "map50": 0.27 * epoch, "stats": [0.0] * 12, "per_class": []}
            rows.append({"kind": "evaluation", "epoch": epoch, "step": step, **figures})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if finished:
        (folder / "summary.json").write_text(json.dumps(summary()))
    if evaluated:
        content = diagnostics(names, files, seed)
        (folder / "diagnostics.json").write_text(json.dumps(content))
    return folder


def summary() -> dict[str, Any]:
    figures = {"map": 0.5, "map50": 0.8, "stats": [0.5] * 12, "per_class": []}
    best = {"epoch": 3, "map": 0.51, "map50": 0.81}
    speed = {"wall_seconds": 754.2, "images_per_second": 31.2}
    machine = {"device": "cpu", "ranks": 1, "platform": "Linux", "git_commit": None}
    versions = {"python": "3.11.2", "torch": "2.9.0"}
    return {"epochs": 3, "steps": 60, "skipped_updates": 0, **figures, "best": best, **speed} | {
        "versions": versions,
        **machine,
    }


def account(num_problems: int) -> dict[str, Any]:
    problem = {
        "file": "a.txt",
        "line": 3,
        "kind": "box-nan",
        "action": "drop-box",
        "detail": "NaN",
        "image": None,
    }
    dropped = {"box-nan": num_problems} if num_problems else {}
    return {
        "images": {
            "listed": 20,
            "used": 20,
            "background": 1,
            "background_without_label_file": 0,
            "dropped": {},
        },
        "boxes": {"listed": 90, "used": 90 - num_problems, "crowd": 0, "clipped": {}, "dropped": dropped},
        "kept": {},
        "problems": [problem] * num_problems,
    }
