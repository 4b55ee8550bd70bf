"""Runs an exported file with nothing of yoloflow: numpy, OpenCV and onnxruntime.

yoloflow export runs/pets --nms --out pets.onnx
python examples/onnx_inference.py pets.onnx photo.jpg
"""

import json
import sys

import cv2
import numpy as np
import onnxruntime


def detect(file: str, image_file: str) -> list[tuple[str, float, list[float]]]:
    """Returns name, score and corners x1, y1, x2, y2 in pixels of each object, best first."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    info = json.loads(session.get_modelmeta().custom_metadata_map["yoloflow"])
    image = cv2.imread(image_file)
    if image is None:
        raise SystemExit(f"{image_file}: cannot be read")
    ratio = min(np.array(info["shape_hw"]) / image.shape[:2])
    new_h, new_w = (int(side * ratio) for side in image.shape[:2])
    canvas = np.full((*info["shape_hw"], 3), 114, np.uint8)
    left, top = (canvas.shape[1] - new_w) // 2, (canvas.shape[0] - new_h) // 2
    method = cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR
    canvas[top : top + new_h, left : left + new_w] = cv2.resize(image, (new_w, new_h), interpolation=method)
    pixels = np.ascontiguousarray(canvas[None, ..., ::-1].transpose(0, 3, 1, 2))  # (1, 3, H, W), RGB
    (rows,) = session.run(["predictions"], {"images": pixels})[0]  # (max_det, 6), empty rows have score 0
    corners = ((rows[:, :4] - [left, top, left, top]) / ratio).clip(0, image.shape[1::-1] * 2)
    found = zip(corners.tolist(), *rows[:, 4:].T.tolist(), strict=True)
    return [(info["names"][int(number)], score, box) for box, score, number in found if score]


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    for name, score, corners in detect(*sys.argv[1:]):
        print(f"{name} {score:.2f}", *(round(corner, 1) for corner in corners))
