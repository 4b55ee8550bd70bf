"""Writes the weights of a run or file in another format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from yoloflow.config.run_files import weights_facts
from yoloflow.detector import find_parts, load_network
from yoloflow.structures import YoloflowError
from yoloflow.weights.files import save_weights
from yoloflow.weights.mindspore import write_mindspore
from yoloflow.weights.mindyolo import mindyolo_tensors


def convert_weights(target: str | Path, out: str | Path, overrides: Sequence[str] = ()) -> None:
    """Writes weights as a checkpoint that MindYOLO loads (.ckpt), or as a file of ours (.safetensors).

    A .safetensors file says its classes and settings, so that it alone can be tested and predicted with.

    Args:
        target: a run folder (its best weights are taken), a weights file of a run, or a recipe with an
            override `weight=FILE`.
        out: the file; its suffix names the format, its folder must exist.
        overrides: `key=value` texts over the settings.

    Raises:
        YoloflowError: the weights cannot be read, there is such a file, or it cannot be written.
    """
    out = Path(out)
    if out.suffix not in (".ckpt", ".safetensors"):
        raise YoloflowError(f"{out}: weights are written to .ckpt and .safetensors files")
    if out.exists():
        raise YoloflowError(f"{out}: exists already; choose another name")
    parts = find_parts(target, overrides=overrides)
    names = parts.required_names
    network = load_network(parts.config, len(names), parts.weights)
    try:
        if out.suffix == ".ckpt":
            write_mindspore(out, mindyolo_tensors(network))
        else:
            save_weights(out, network.state_dict(), weights_facts(parts.config, names, None))
    except OSError as error:
        raise YoloflowError(f"{out}: cannot be written ({error.strerror})") from error
