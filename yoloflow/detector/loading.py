"""The parts of a detector: a run's or an exported file's settings, class names and network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from yoloflow.config.reader import load_config
from yoloflow.config.schema import Config
from yoloflow.models import Network, create_model, load_pretrain
from yoloflow.models.exported import EXPORT_SUFFIX, ExportedNetwork
from yoloflow.run import file_names
from yoloflow.run.folder import find_weights, names_of_run
from yoloflow.structures import YoloflowError


def run_of(path: Path) -> Path:
    """Returns the run folder that is meant or that a weights file lies in.

    Raises:
        YoloflowError: there is none.
    """
    for folder in (path, *path.absolute().parents[:2]):
        if (folder / file_names.CONFIG).is_file():
            return folder
    what = "no such file or folder" if not path.exists() else "not in a run folder (one with config.yaml)"
    raise YoloflowError(
        f"{path}: {what}; give a run such as runs/NAME, a weights file inside one, or an exported "
        f"{EXPORT_SUFFIX} file"
    )


def home_of(path: Path) -> Path:
    """Returns the folder that predictions belong to: the run, or that of an exported file without one.

    Raises:
        YoloflowError: neither.
    """
    if path.suffix == EXPORT_SUFFIX and not any(
        (folder / file_names.CONFIG).is_file() for folder in path.absolute().parents[:2]
    ):
        return path.absolute().parent
    return run_of(path)


def load_settings(run_or_recipe: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Returns the settings of a run or recipe, or those that an exported file holds."""
    if Path(run_or_recipe).suffix != EXPORT_SUFFIX:
        return load_config(run_or_recipe, overrides)
    with TemporaryDirectory() as folder:
        file = Path(folder) / f"{Path(run_or_recipe).stem}.yaml"
        file.write_text(ExportedNetwork(run_or_recipe).info.config, encoding="utf-8")
        return load_config(file, overrides)


def weights_of(run_or_recipe: str, weight: str | None, overrides: Sequence[str]) -> Path:
    """Returns the weights or exported file to use: `weight`, an override `weight=...`, or the run's best.

    Raises:
        YoloflowError: there are none.
    """
    stated = [text.removeprefix("weight=") for text in overrides if text.startswith("weight=")]
    given = Path(weight or (stated[-1] if stated else run_or_recipe)).expanduser()
    return given if given.suffix and not given.is_dir() else find_weights(given)


def class_names(run: Path, config: Config) -> list[str]:
    """Returns class names: as a run recorded them, else as the settings state them.

    Raises:
        YoloflowError: neither.
    """
    names = names_of_run(run) or config.data.stated_names
    if names is None:
        raise YoloflowError(
            f"{run}: neither names.json nor settings state the classes; give data.names=[...] or data.nc=..."
        )
    return names


def load_network(config: Config, num_classes: int, weights: Path) -> Network:
    """Builds the network of the settings and loads weights into it.

    Raises:
        YoloflowError: the weights cannot be read or do not fit.
    """
    network = create_model(
        config.network.model_name, config.network_table(), num_classes, variant=config.variant
    )
    load_pretrain(network, weights, strict=True)
    return network


def input_shape(config: Config, stride: int, img_size: int | Sequence[int] | None) -> tuple[int, int]:
    """Returns height and width of the network input in pixels: the settings' unless others are given.

    Raises:
        YoloflowError: the network cannot take them.
    """
    size = config.img_size if img_size is None else img_size
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1 or height % stride or width % stride:
        shown = size if isinstance(size, int) else f"{height}x{width}"
        raise YoloflowError(f"img_size={shown}: must be a multiple of {stride}")
    return height, width
