"""Image files, read for tests."""

from pathlib import Path

import cv2
import numpy as np


def read_image(path: str | Path) -> np.ndarray:
    """Reads an image file as (H, W, 3) uint8 BGR, and fails where there is none."""
    pixels = cv2.imread(str(path))
    assert pixels is not None, path
    return pixels
