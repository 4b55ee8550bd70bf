"""Writes the weights of a run or file in another format."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from yoloflow.config.run_files import weights_facts
from yoloflow.data.decoder_messages import decode_named
from yoloflow.data.sources import VIDEO_SUFFIXES, open_sources
from yoloflow.detector import Detector, find_parts, load_network
from yoloflow.detector.detector import to_batch
from yoloflow.files import sha256_of
from yoloflow.models.unfolded import is_folded, measure_statistics
from yoloflow.structures import YoloflowError
from yoloflow.weights.files import read_weights, save_weights
from yoloflow.weights.mindspore import write_mindspore
from yoloflow.weights.mindyolo import mindyolo_tensors

logger = logging.getLogger("yoloflow")

_MOST_IMAGES, _BATCH = 96, 8


def convert_weights(
    target: str | Path, out: str | Path, overrides: Sequence[str] = (), images: str | Path | None = None
) -> None:
    """Writes weights as a checkpoint that MindYOLO loads (.ckpt), or as a file of ours (.safetensors).

    A .safetensors file says its classes and settings, so that it alone can be tested and predicted with.

    Args:
        target: a run folder (its best weights are taken), a weights file of a run, or a recipe with an
            override `weight=FILE`.
        out: the file; its suffix names the format, its folder must exist.
        overrides: `key=value` texts over the settings.
        images: a folder of images on which BatchNorm's statistics are measured, for weights in which it is
            folded: a training can then start from them. 96 of them are taken.

    Raises:
        YoloflowError: the weights or images cannot be read, there is such a file, or it cannot be written.
    """
    out = Path(out)
    if out.suffix not in (".ckpt", ".safetensors"):
        raise YoloflowError(f"{out}: weights are written to .ckpt and .safetensors files")
    if out.exists():
        raise YoloflowError(f"{out}: exists already; choose another name")
    parts = find_parts(target, overrides=overrides)
    names = parts.required_names
    network = load_network(parts.config, len(names), parts.weights)
    if images is not None:
        detector = Detector.of_network(network, names, parts.config)
        # Rectangles of several shapes would not fit into a batch.
        measure_statistics(network, _read_batches(replace(detector, rect=False), images))
    elif is_folded(network, network.state_dict()):
        logger.warning(
            "%s: BatchNorm is folded in these weights: good for test, predict and export, and no start for a "
            "training; --images FOLDER has its statistics measured on your images, and makes it one",
            out,
        )
    try:
        if out.suffix == ".ckpt":
            write_mindspore(out, mindyolo_tensors(network))
        else:
            file = read_weights(parts.weights)
            origin = {key: getattr(file, key) for key in ("format", "licence", "producer")}
            origin |= {"file": str(parts.weights.absolute()), "sha256": sha256_of(parts.weights)}
            save_weights(out, network.state_dict(), weights_facts(parts.config, names, origin))
    except OSError as error:
        raise YoloflowError(f"{out}: cannot be written ({error.strerror})") from error


def _read_batches(detector: Detector, images: str | Path) -> Iterator[Tensor]:
    """Yields batches of a folder's images, evenly chosen, as a detector shows them to its network."""
    found = [source for source in open_sources([str(images)]) if isinstance(source, Path)]
    paths = [path for path in found if path.suffix.lower() not in VIDEO_SUFFIXES]
    if not paths:
        raise YoloflowError(f"{images}: holds no images on which BatchNorm's statistics could be measured")
    count = min(len(paths), _MOST_IMAGES)
    chosen = [paths[k * len(paths) // count] for k in range(count)]
    for first in range(0, len(chosen), _BATCH):
        samples = [detector.prepare(decode_named(str(path))) for path in chosen[first : first + _BATCH]]
        yield to_batch(samples)
    logger.info("BatchNorm statistics measured; images: %d", count)
