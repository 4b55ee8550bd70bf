"""Seconds of a whole command, of ours or, with Ultralytics' Python, of a peer's.

    python benchmarks/commands.py first-step --data DATA.yaml --size 320            # ours
    PEER_PYTHON benchmarks/commands.py first-step --data DATA.yaml --size 320 --peer

`first-step`: a training of YOLOv8n from random weights with default settings, up to the end of its first
step; `test`: an evaluation of random weights of the set's classes, one thread, one loading process,
rectangles, conf 0.001, iou 0.7. Time counts from the first line of this file, imports included.
"""

import time

START = time.perf_counter()

import argparse  # noqa: E402
import contextlib  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, NoReturn  # noqa: E402

BATCH, CONF, IOU = 16, 0.001, 0.7


def finish() -> NoReturn:
    """Prints the seconds, and ends this process with its workers."""
    print(f"\nseconds: {time.perf_counter() - START:.2f}", flush=True)
    shutil.rmtree(Path.cwd())
    os.killpg(0, signal.SIGKILL)
    raise AssertionError


def train(data: str, size: int) -> None:
    from yoloflow.cli import main
    from yoloflow.train_step.step import TrainStep

    take = TrainStep.__call__

    def take_and_finish(step: TrainStep, *batch: Any) -> None:
        take(step, *batch)
        finish()

    TrainStep.__call__ = take_and_finish  # type: ignore[method-assign,assignment]
    sys.argv = ["yoloflow", "train", "yolov8n-small-data", f"data={data}", f"img_size={size}"]
    main()


def test(data: str, size: int, weight: str) -> None:
    from yoloflow.cli import main

    settings = [f"data={data}", f"img_size={size}", f"per_batch_size={BATCH}", "threads=1", "device=cpu"]
    settings += [f"conf_thres={CONF}", f"iou_thres={IOU}", "data.num_parallel_workers=1"]
    sys.argv = ["yoloflow", "test", "yolov8n", "--weight", weight, "data.test_rect=true", *settings]
    with contextlib.suppress(SystemExit):
        main()
    finish()


def peer_train(data: str, size: int) -> None:
    from ultralytics import YOLO  # type: ignore[import-not-found]

    network = YOLO("yolov8n.yaml")
    network.add_callback("on_train_batch_end", lambda _: finish())
    network.train(data=data, imgsz=size, batch=BATCH, device="cpu", pretrained=False)


def peer_test(data: str, size: int, weight: str) -> None:
    from ultralytics import YOLO

    options = {"workers": 1, "plots": False, "conf": CONF, "iou": IOU}
    YOLO(weight).val(data=data, imgsz=size, batch=BATCH, device="cpu", **options)
    finish()


def write_weights(path: Path, classes: int, is_peer: bool) -> None:
    """Writes random weights of a network for so many classes."""
    if is_peer:
        from ultralytics import YOLO
        from ultralytics.nn.tasks import DetectionModel  # type: ignore[import-not-found]

        network = YOLO("yolov8n.yaml")
        network.model = DetectionModel("yolov8n.yaml", nc=classes, verbose=False)
        network.save(path)
        return
    import torch

    from yoloflow import create_model, load_config
    from yoloflow.weights.files import save_weights

    torch.manual_seed(0)
    config = load_config("yolov8n")
    save_weights(
        path,
        create_model(config.network.model_name, config.network_table(), classes).state_dict(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["first-step", "test", "weights"])
    parser.add_argument("--data")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--weight", help="file of `test`, written by `weights`")
    parser.add_argument("--classes", type=int, default=4, help="of `weights`")
    parser.add_argument("--peer", action="store_true")
    given = parser.parse_args()
    if given.what == "weights":
        return write_weights(Path(given.weight), given.classes, given.peer)
    os.setpgid(0, 0)
    os.chdir(tempfile.mkdtemp())  # runs are made here
    if given.what == "first-step":
        return (peer_train if given.peer else train)(given.data, given.size)
    return (peer_test if given.peer else test)(given.data, given.size, given.weight)


if __name__ == "__main__":
    main()
