"""The parts of a detector: a run's or an exported file's settings, class names and network."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory

from yoloflow.config.document import write_yaml
from yoloflow.config.fitting import naming_the_recipe, recipes_that_fit
from yoloflow.config.reader import check_overrides, load_config
from yoloflow.config.schema import Config
from yoloflow.files import similar_paths
from yoloflow.models import Network, create_model, load_pretrain
from yoloflow.models.exported import EXPORT_SUFFIX, ExportedNetwork
from yoloflow.run import file_names
from yoloflow.run.folder import find_weights, names_of_run
from yoloflow.structures import YoloflowError
from yoloflow.weights.files import read_weights
from yoloflow.weights.onnx_convolutions import METADATA_KEY, read_onnx_metadata
from yoloflow.weights.published import coco_names, list_published, weights_path

logger = logging.getLogger("yoloflow")

_WHAT_TO_GIVE = (
    "; give a run such as runs/NAME, a file of weights, an exported file, or a recipe with weight=FILE"
)


@dataclass(frozen=True, slots=True)
class Parts:
    """All that a network is made of.

    Attributes:
        config: its settings.
        names: class names in class order; None where nothing states them.
        weights: the file, one of weights or an exported one.
        home: the folder that results belong to: the run's, else that of the file.
        is_exported: whether `weights` is a file of `yoloflow export`, which holds the network too.
    """

    config: Config
    names: list[str] | None
    weights: Path
    home: Path
    is_exported: bool = False

    @property
    def required_names(self) -> list[str]:
        """The class names; COCO's where nothing states them."""
        if self.names is not None:
            return self.names
        logger.warning(
            "%s: neither the file nor settings state the classes: COCO's 80 are taken (data.names=[...] for "
            "others)",
            self.weights,
        )
        return coco_names()


def find_parts(target: str | Path, weight: str | Path | None = None, overrides: Sequence[str] = ()) -> Parts:
    """Finds settings, class names and weights.

    Args:
        target: a run folder, a weights file, an exported file, a recipe's name or a YAML file.
        weight: the weights instead of the run's best; "published" for the recipe's. An override `weight=...`
            means the same.
        overrides: `key=value` texts over the settings.

    Raises:
        YoloflowError: there are no weights, or nothing says of which network they are.
    """
    check_overrides(overrides)
    if not isinstance(target, str | PathLike):
        raise YoloflowError(f"{target!r}: a run folder, a file of weights or a recipe's name is expected")
    stated = [text.removeprefix("weight=") for text in overrides if text.startswith("weight=")]
    weight = weight or (stated[-1] if stated else None)
    path = Path(target).expanduser()
    if path.is_file() and path.suffix not in (".yaml", ".yml"):
        return _parts_of_file(path if weight is None else Path(weight), path, overrides)
    if len(path.parts) > 1 and not path.exists():
        raise YoloflowError(
            f"{target}: there is no such file or folder{similar_paths(path) or _WHAT_TO_GIVE}"
        )
    config = load_config(target, [*overrides, "finetune=false"])  # the weights are used as they are
    run = path if (path / file_names.CONFIG).is_file() else None
    if weight is None:
        if run is None:
            raise YoloflowError(
                f"{target}: a recipe has no weights of its own; give weight=FILE, or weight=published for "
                "those of `yoloflow weights get`"
            )
        weights = find_weights(run)
    else:
        weights = weights_path(str(weight), config.recipe)
        if weights.is_dir():
            weights = find_weights(weights)
    exported = _is_exported(weights)
    names = (names_of_run(run) if run else None) or names_of_weights(weights) or config.data.stated_names
    return Parts(config, names, weights, run or weights.absolute().parent, exported)


def _parts_of_file(weights: Path, target: Path, overrides: Sequence[str]) -> Parts:
    """Returns the parts of a file: in a run folder, or one that states its own settings."""
    for folder in target.absolute().parents[:2]:
        if (folder / file_names.CONFIG).is_file() and target.suffix != EXPORT_SUFFIX:
            config = load_config(folder, overrides)
            return Parts(config, names_of_run(folder) or config.data.stated_names, weights, folder)
    if _is_exported(target):
        info = ExportedNetwork(target).info
        settings, names = info.config, info.names
    else:
        file = read_weights(target)
        facts = file.facts
        if file.class_names is None or not isinstance(facts.get("config"), dict):
            fitting = recipes_that_fit(target)
            advice = f"; it fits the recipe {' or '.join(fitting)}" if fitting else ""
            place = "" if target.suffix == EXPORT_SUFFIX else ", and lies in no run folder"
            raise YoloflowError(
                f"{target}: the file does not say of which network it is{place}; give the recipe before it: "
                f"{(fitting or ['RECIPE'])[0]} weight={target}{advice}"
            )
        settings, names = write_yaml(facts["config"]), file.class_names
    with TemporaryDirectory() as temporary:
        yaml = Path(temporary) / f"{target.stem}.yaml"
        yaml.write_text(settings, encoding="utf-8")
        config = load_config(yaml, overrides)
    return Parts(config, names, weights, target.absolute().parent, _is_exported(weights))


def _is_exported(path: Path) -> bool:
    """Returns whether a file is one of `yoloflow export`, not an ONNX file of another project."""
    return path.suffix == EXPORT_SUFFIX and METADATA_KEY in read_onnx_metadata(path)


def names_of_weights(path: Path) -> list[str] | None:
    """Returns the classes that a weights file states, COCO's for a published file; None where neither."""
    if _is_exported(path):
        return ExportedNetwork(path).info.names
    if any(row.file_name == path.name for row in list_published()):
        return coco_names()
    return read_weights(path).class_names


def load_network(config: Config, num_classes: int, weights: Path) -> Network:
    """Builds the network of the settings and loads weights into it.

    Raises:
        YoloflowError: the weights cannot be read or do not fit.
    """
    network = create_model(
        config.network.model_name, config.network_table(), num_classes, variant=config.variant
    )
    with naming_the_recipe():
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
