"""Suppression as nodes of an ONNX file, behind a network's decoded predictions."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from yoloflow.models.exported import InnerNms
from yoloflow.models.layers.contract import HeadOutput


def append_nms(model: Any, kind: HeadOutput, num_classes: int, nms: InnerNms) -> None:
    """Appends suppression to an ONNX model, in place: a box counts for its best class, as in `predict`.

    The first output becomes (B, max_det, 6 + K) rows x1, y1, x2, y2, score, class and the K mask coefficients
    of the box, best first; rows without a detection are zero.

    Args:
        model: an `onnx.ModelProto` whose first output is (B, N, 4 + C + K) or, with objectness,
            (B, N, 5 + C + K); its operator set is 11 or later.
        kind: which of the two, and K.
        num_classes: C.
        nms: thresholds and limit.
    """
    from onnx import TensorProto, helper

    output = model.graph.output[0]
    nodes = _Nodes(model.graph)
    for node in model.graph.node:
        node.output[:] = ["raw_predictions" if name == output.name else name for name in node.output]
    # Rows of zeros keep the number of candidates above max_det.
    pads = nodes.ints([0, 0, 0, 0, nms.max_det, 0])
    padded = nodes.add("Pad", "raw_predictions", pads)
    boxes, scores = _boxes_and_scores(nodes, padded, kind, num_classes)
    kept = _kept_scores(nodes, boxes, scores, nms)
    first = (5 if kind.has_objectness else 4) + num_classes
    width = kind.mask_channels
    parts = [(boxes, 4)] + ([(nodes.columns(padded, first, first + width), width)] if width else [])
    rows = _best_rows(nodes, parts, kept, nms.max_det)
    model.graph.node.append(helper.make_node("Identity", [rows], [output.name]))
    shape: list[str | int | None] = ["batch", nms.max_det, 6 + width]
    output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, shape))


class _Nodes:
    """The nodes of a graph, each named by a number."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._numbers = count()

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Appends a node; returns the name of its output."""
        return self._append(operator, inputs, 1, attributes)[0]

    def best(self, values: str, number: int, axis: int) -> tuple[str, str]:
        """Appends a search for the largest values; returns these and their places."""
        found, places = self._append("TopK", (values, self.ints([number])), 2, {"axis": axis})
        return found, places

    def ints(self, values: ArrayLike) -> str:
        """Appends a constant of int64."""
        return self._constant(np.array(values, np.int64))

    def floats(self, values: ArrayLike) -> str:
        """Appends a constant of float32."""
        return self._constant(np.array(values, np.float32))

    def columns(self, values: str, first: int, last: int, axis: int = 2) -> str:
        """Appends a slice."""
        return self.add("Slice", values, self.ints([first]), self.ints([last]), self.ints([axis]))

    def as_float(self, values: str) -> str:
        """Appends a conversion to float32."""
        from onnx import TensorProto

        return self.add("Cast", values, to=TensorProto.FLOAT)

    def _append(
        self, operator: str, inputs: tuple[str, ...], num_outputs: int, attributes: dict[str, Any]
    ) -> list[str]:
        from onnx import helper

        names = [f"nms_{next(self._numbers)}" for _ in range(num_outputs)]
        self._graph.node.append(helper.make_node(operator, inputs, names, **attributes))
        return names

    def _constant(self, values: np.ndarray) -> str:
        from onnx import numpy_helper

        name = f"nms_{next(self._numbers)}"
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name


def _boxes_and_scores(nodes: _Nodes, rows: str, kind: HeadOutput, num_classes: int) -> tuple[str, str]:
    """Returns corner boxes (B, N, 4), and scores (B, C, N) that are zero but for a box's best class."""
    half_size = nodes.add("Mul", nodes.columns(rows, 2, 4), nodes.floats(0.5))
    centre = nodes.columns(rows, 0, 2)
    corners = (nodes.add("Sub", centre, half_size), nodes.add("Add", centre, half_size))
    first = 5 if kind.has_objectness else 4
    scores = nodes.columns(rows, first, first + num_classes)
    if kind.has_objectness:
        objectness = nodes.columns(rows, 4, 5)
        scores = objectness if num_classes == 1 else nodes.add("Mul", scores, objectness)
    _, best_class = nodes.best(scores, 1, axis=2)
    is_best = nodes.add("Equal", nodes.ints([[range(num_classes)]]), best_class)
    best_scores = nodes.add("Mul", scores, nodes.as_float(is_best))
    return nodes.add("Concat", *corners, axis=2), nodes.add("Transpose", best_scores, perm=[0, 2, 1])


def _kept_scores(nodes: _Nodes, boxes: str, scores: str, nms: InnerNms) -> str:
    """Returns scores (B, C, N) that are zero but for the boxes that suppression keeps."""
    from onnx import TensorProto, helper

    limits = (nodes.ints([nms.max_det]), nodes.floats([nms.iou_thres]), nodes.floats([nms.conf_thres]))
    kept = nodes.add("NonMaxSuppression", boxes, scores, *limits)  # (K, 3): image, class, box
    one = helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0])
    ones = nodes.add("ConstantOfShape", nodes.columns(nodes.add("Shape", kept), 0, 1, axis=0), value=one)
    zeros = nodes.add("ConstantOfShape", nodes.add("Shape", scores))
    return nodes.add("Mul", scores, nodes.add("ScatterND", zeros, kept, ones))


def _best_rows(nodes: _Nodes, parts: list[tuple[str, int]], scores: str, max_det: int) -> str:
    """Returns rows (B, max_det, ...) of the largest of scores (B, C, N): box, score, class, coefficients.

    The parts are boxes and, where there are any, coefficients, (B, N, width) with their widths.
    """
    flat = nodes.add("Reshape", scores, nodes.ints([0, -1]))
    best, places = nodes.best(flat, max_det, axis=1)
    num_boxes = nodes.columns(nodes.add("Shape", scores), 2, 3, axis=0)
    classes = nodes.add("Div", places, num_boxes)
    number = nodes.add("Sub", places, nodes.add("Mul", classes, num_boxes))
    column = nodes.ints([0, -1, 1])
    number = nodes.add("Reshape", number, column)
    score = nodes.add("Reshape", best, column)
    found = [
        nodes.add("GatherElements", part, nodes.add("Expand", number, nodes.ints([1, 1, width])), axis=1)
        for part, width in parts
    ]
    found[1:1] = [score, nodes.add("Reshape", nodes.as_float(classes), column)]
    is_found = nodes.as_float(nodes.add("Greater", score, nodes.floats(0)))
    return nodes.add("Mul", nodes.add("Concat", *found, axis=2), is_found)
