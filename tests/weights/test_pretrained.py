"""Real pretrained weights: the original YOLOX-nano predicts here what its ONNX file predicts."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from tests.support.yolox_original import FILE, RECIPE, original_network
from yoloflow.evaluate import evaluate_run
from yoloflow.evaluation.nms import non_max_suppression
from yoloflow.export import export

SIDE, STRIDES = 416, (8, 16, 32)


class OriginalFile:
    """The published ONNX file and what its authors do before and after it."""

    def __init__(self, folder: Path) -> None:
        self.session = onnxruntime.InferenceSession(str(folder / "yolox_nano.onnx"))
        sides = [(SIDE // stride, stride) for stride in STRIDES]
        cells = [np.stack(np.meshgrid(*2 * [np.arange(side)]), -1).reshape(-1, 2) for side, _ in sides]
        self.cells = np.concatenate(cells)
        self.strides = np.concatenate([np.full((side * side, 1), stride) for side, stride in sides])

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """(1, 3, 416, 416) BGR in 0..255 to (1, N, 85): cx, cy, w, h in pixels, objectness, classes."""
        output: np.ndarray
        (output,) = self.session.run(None, {"images": pixels})
        output[0, :, :2] = (output[0, :, :2] + self.cells) * self.strides
        output[0, :, 2:4] = np.exp(output[0, :, 2:4]) * self.strides
        return output

    def detect(self, path: Path) -> Tensor:
        """(D, 6) rows x1, y1, x2, y2 in the image's pixels, score, class."""
        image = cv2.imread(str(path))
        assert image is not None
        ratio = min(SIDE / image.shape[0], SIDE / image.shape[1])
        small = cv2.resize(image, (int(image.shape[1] * ratio), int(image.shape[0] * ratio)))
        padded = np.full((SIDE, SIDE, 3), 114, np.uint8)
        padded[: small.shape[0], : small.shape[1]] = small
        decoded = torch.from_numpy(self(padded.transpose(2, 0, 1)[None].astype(np.float32)))
        (found,) = non_max_suppression(decoded, conf_thres=0.001, iou_thres=0.65, conf_free=False)
        # Back to the image, each axis by the factor that it was really shrunk by.
        found[:, 0:4:2] = (found[:, 0:4:2] * image.shape[1] / small.shape[1]).clamp(0, image.shape[1])
        found[:, 1:4:2] = (found[:, 1:4:2] * image.shape[0] / small.shape[0]).clamp(0, image.shape[0])
        return found


@pytest.fixture(scope="module")
def weights(shared: Path) -> Path:
    return shared / "weights/yolox_nano"


def test_the_published_weights_predict_what_the_onnx_file_predicts(weights: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, SIDE, SIDE), dtype=np.uint8)
    expected = OriginalFile(weights)(pixels[:, ::-1].astype(np.float32))
    network = original_network(weights)
    with torch.no_grad():
        for found in (network(torch.from_numpy(pixels))[0], network.fuse()(torch.from_numpy(pixels))[0]):
            np.testing.assert_allclose(found[..., 4:], expected[..., 4:], atol=2e-5)
            np.testing.assert_allclose(found[..., :4], expected[..., :4], rtol=1e-4, atol=1e-2)


@pytest.mark.oracle
def test_the_published_weights_have_the_onnx_file_s_ap(weights: Path, shared: Path) -> None:
    data = shared / "data/coco_free"
    truth = data / "coco/all.json"
    overrides = [f"data.val_set={truth}", f"data.image_folder={data / 'images'}", "device=cpu"]
    result = evaluate_run(RECIPE, overrides, weight=str(weights / FILE))

    original, rows = OriginalFile(weights), []
    content = json.loads(truth.read_text())
    category_ids = sorted(category["id"] for category in content["categories"])
    for image in content["images"]:
        for x1, y1, x2, y2, score, number in original.detect(data / "images" / image["file_name"]).tolist():
            row = {"image_id": image["id"], "category_id": category_ids[int(number)], "score": score}
            rows.append(row | {"bbox": [x1, y1, x2 - x1, y2 - y1]})
    coco = COCO(str(truth))
    evaluation = COCOeval(coco, coco.loadRes(rows), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert result.map > 0.3
    assert result.map == pytest.approx(evaluation.stats[0], abs=5e-4)


@pytest.mark.full
def test_the_exported_file_has_the_ap_of_the_weights(weights: Path, shared: Path, tmp_path: Path) -> None:
    data = shared / "data/coco_free"
    overrides = [
        f"data.val_set={data / 'coco/all.json'}",
        f"data.image_folder={data / 'images'}",
        "device=cpu",
    ]
    expected = evaluate_run(RECIPE, overrides, weight=str(weights / FILE))
    done = export(RECIPE, weight=str(weights / FILE), out=tmp_path / "exported.onnx")
    found = evaluate_run(RECIPE, overrides, weight=str(done.path))
    assert found.stats == pytest.approx(expected.stats, abs=1e-3)
    for position, wanted in expected.detections.items():
        clear = wanted.scores > 0.05
        np.testing.assert_allclose(
            found.detections[position].scores[: clear.sum()], wanted.scores[clear], atol=1e-4
        )
        np.testing.assert_allclose(
            found.detections[position].boxes_xyxy[: clear.sum()], wanted.boxes_xyxy[clear], atol=0.01
        )
