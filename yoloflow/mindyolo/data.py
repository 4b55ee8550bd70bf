"""Step 2 in MindYOLO's words: data set, loader and their concatenation."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from yoloflow.data import dataset as ours
from yoloflow.data.classes import ClassChoice
from yoloflow.data.coco_truth import ForeignTruthError
from yoloflow.data.collate import collate
from yoloflow.data.concat_loader import ConcatLoader
from yoloflow.data.dataset import resized_sizes
from yoloflow.data.index import as_one_class, read_index
from yoloflow.data.loader import StageLoader
from yoloflow.data.loader import create_loader as create_stage_loader
from yoloflow.data.sets import read_evaluated
from yoloflow.data.shapes import Rectangular
from yoloflow.data.transforms import Sample
from yoloflow.data.transforms.masks import PolygonsToMasks
from yoloflow.mindyolo.refusal import refuse, refuse_difference
from yoloflow.structures import Batch, DatasetIndex

logger = logging.getLogger("yoloflow")

TRAIN_COLUMNS = ["images", "labels"]
TEST_COLUMNS = ["images", "img_files", "hw_ori", "hw_scale", "pad"]
SAMPLE_COLUMNS = ["samples"]


class COCODataset(ours.COCODataset):
    """MindYOLO's data set: any source that ours reads, with the arguments of MindYOLO's.

    Attributes:
        dataset_path: the source as given.
        rect, stride, stated_batch_size, transforms_dict: the arguments as given.
    """

    def __init__(
        self,
        dataset_path: str | Sequence[str] = "",
        img_size: int = 640,
        transforms_dict: Sequence[Mapping[str, Any]] | None = None,
        is_training: bool = False,
        augment: bool = False,
        rect: bool = False,
        single_cls: bool = False,
        batch_size: int | None = None,
        stride: int = 32,
        num_cls: int | None = None,
        pad: float = 0.0,
        return_segments: bool = False,
        return_keypoints: bool = False,
        nkpt: int = 0,
        ndim: int = 0,
        *,
        names: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        """Index the data set.

        Args:
            dataset_path: see `read_index`; to evaluate, see `read_evaluated`.
            img_size: side of the network input in pixels.
            transforms_dict: rows of transforms; None: the letterbox.
            is_training: whether they are to train on.
            augment: images may be shrunk the fast way.
            rect: batches are rectangles that fit their images.
            single_cls: all classes are one.
            batch_size: images of a batch of all ranks or of one, as the loader's; None: not said.
            stride: sides of rectangles are multiples of it.
            num_cls: number of classes of labels that name none; None: as their highest number says.
            pad: 0.0 alone: a rectangle has no further border.
            return_segments: batches have masks; the row segment_poly2mask of `transforms_dict` draws them.
            return_keypoints: False alone, as for the next two: this project has no key points.
            nkpt: 0 alone.
            ndim: 0 alone.
            names: class names in class order.
            seed: of all random draws.

        Raises:
            YoloflowError: bad data or transforms, or an argument that is refused.
        """
        _refuse_other_tasks(pad, return_keypoints, nkpt, ndim)
        self._truths: dict[str, DatasetIndex] = {}
        self._told: set[str] = set()
        index = _read(dataset_path, names, num_cls, is_training)
        index = as_one_class(index) if single_cls else index
        rows = [{"func_name": "letterbox"}] if transforms_dict is None else transforms_dict
        super().__init__(index, img_size, rows, is_training, augment, single_cls, seed)
        draws = any(row["func_name"] == PolygonsToMasks.func_name for row in rows)
        row = PolygonsToMasks.func_name
        refuse(return_segments and not draws, "return_segments=True", f"the row {row} draws masks; add it")
        refuse(draws and not return_segments, "return_segments=False", f"the row {row} draws masks")
        self.has_masks = draws
        self.dataset_path = dataset_path
        self.rect, self.stride, self.stated_batch_size = rect, stride, batch_size
        self.transforms_dict = transforms_dict

    @property
    def dataset_column_names(self) -> list[str]:
        """Returns the names of a batch's columns."""
        if not self.is_training:
            return TEST_COLUMNS
        return [*TRAIN_COLUMNS, "masks"] if self.has_masks else TRAIN_COLUMNS

    column_names_collate = dataset_column_names

    @property
    def column_names_getitem(self) -> list[str]:
        """Returns the names of a sample's columns."""
        return SAMPLE_COLUMNS

    @property
    def imgIds(self) -> list[int]:  # noqa: N802  the name that scripts use
        """Returns the ids of the images, in order."""
        ids: list[int] = self.index.image_ids.tolist()
        return ids

    def require_columns(
        self, names: Sequence[str] | None, of_batch: Sequence[str] | None, of_sample: Sequence[str] | None
    ) -> None:
        """Refuses other columns than the data set's own; None says nothing.

        Args:
            names: `dataset_column_names`.
            of_batch: `column_names_collate`.
            of_sample: `column_names_getitem`.

        Raises:
            YoloflowError: they are others.
        """
        for name, given, own in (
            ("dataset_column_names", names, self.dataset_column_names),
            ("column_names_collate", of_batch, self.column_names_collate),
            ("column_names_getitem", of_sample, self.column_names_getitem),
        ):
            if given is not None:
                refuse_difference(name, list(given), own, "the data set")

    def tell_once(self, message: str, *values: object) -> None:
        """Logs a message with its `values`, once for this data set."""
        if message not in self._told:
            self._told.add(message)
            logger.info(message, *values)

    def with_truth(self, path: str, names: Sequence[str]) -> DatasetIndex:
        """Returns the index with the objects of a COCO json instead of its own.

        Args:
            path: the json.
            names: class names; a json with other names must have as many categories, in this order.

        Raises:
            YoloflowError: the json lacks an image, or has other classes; the data set is itself a json.
        """
        key = os.path.abspath(path)
        sources = [self.dataset_path] if isinstance(self.dataset_path, str) else list(self.dataset_path)
        if sources == [path] or key in self._truths:
            return self._truths.get(key, self.index)
        refuse(
            any(source.lower().endswith(".json") for source in sources),
            f"anno_json_path={path}",
            f"the data set has a json of its own ({self.index.source}); give None",
        )
        try:
            found = read_index(sources, None if self.single_cls else names, truth=path)
        except ForeignTruthError:
            # MindYOLO's converters number categories as the labels do, whatever they call them.
            numbers = [str(number) for number in range(len(names))]
            found = replace(read_index(sources, numbers, truth=path), names=list(names))
        refuse(
            found.image_paths.tolist() != self.index.image_paths.tolist(),
            f"anno_json_path={path}",
            f"{len(found)} of the {len(self.index)} images can be used; see `yoloflow data check`",
        )
        self._truths[key] = as_one_class(found) if self.single_cls else found
        return self._truths[key]

    def train_collate_fn(self, samples: Sequence[Sample]) -> Batch:
        """Collates samples into a batch of images and labels."""
        return collate(samples)

    def test_collate_fn(self, samples: Sequence[Sample]) -> Batch:
        """Collates samples into a batch; where they came from is in it as well."""
        return collate(samples)


def _refuse_other_tasks(pad: float, return_keypoints: bool, nkpt: int, ndim: int) -> None:
    refuse(pad != 0.0, f"pad={pad}", "rectangles have no further border here; leave it at 0.0")
    for name, number in (("return_keypoints", return_keypoints), ("nkpt", nkpt), ("ndim", ndim)):
        refuse(number != 0, f"{name}={number}", f"there are no key points here; leave it at {type(number)()}")


def _read(
    source: str | Sequence[str], names: Sequence[str] | None, num_cls: int | None, is_training: bool
) -> DatasetIndex:
    """Returns the index; a number of classes counts where nothing names them."""
    if num_cls is not None and names is None:
        found = read_index(source, None, "counted")
        if found.names == [str(number) for number in range(len(found.names))]:
            names = [str(number) for number in range(num_cls)]
        else:
            refuse_difference("num_cls", num_cls, len(found.names), "the data set")
    classes = ClassChoice(names, "counted")
    return read_index(source, classes) if is_training else read_evaluated(source, classes)


@dataclass(frozen=True, slots=True)
class Loader(StageLoader):
    """Our loader of a stage, which also says its size as MindSpore's does."""

    def get_dataset_size(self) -> int:
        """Returns the batches of all its epochs."""
        return len(self)


class ConcatDataset(ConcatLoader):
    """The loaders of all stages, one after the other; also as `ms.dataset.ConcatDataset`."""

    def __init__(self, datasets: Sequence[StageLoader]) -> None:
        """Joins the stages.

        Args:
            datasets: what `create_loader` made for each stage.

        Raises:
            YoloflowError: as `ConcatLoader`.
        """
        super().__init__(datasets)

    def get_dataset_size(self) -> int:
        """Returns the batches of all stages."""
        return len(self)


def create_loader(
    dataset: COCODataset,
    batch_collate_fn: Callable[..., Batch],
    dataset_column_names: Sequence[str] | None = None,
    batch_size: int = 32,
    epoch_size: int = 1,
    rank: int = 0,
    rank_size: int = 1,
    num_parallel_workers: int = 8,
    shuffle: bool = True,
    drop_remainder: bool = False,
    python_multiprocessing: bool = False,
    *,
    column_names_getitem: Sequence[str] | None = None,
    column_names_collate: Sequence[str] | None = None,
) -> Loader:
    """Creates a loader of `epoch_size` epochs of a data set.

    Args:
        dataset: of this module.
        batch_collate_fn: the data set's own: `train_collate_fn` to train on, else `test_collate_fn`.
        dataset_column_names: the data set's own.
        batch_size: images of a batch on this rank.
        epoch_size: epochs of the stage.
        rank: this process among `rank_size`.
        rank_size: number of processes.
        num_parallel_workers: worker processes, no more than this rank's part of the machine's cores.
        shuffle: a new order each epoch.
        drop_remainder: leave out the images that do not fill a batch.
        python_multiprocessing: load in worker processes; False loads in this one.
        column_names_getitem: the newer form: the data set's own.
        column_names_collate: likewise.

    Raises:
        YoloflowError: an argument that is refused, a number out of range, or too few images.
    """
    _check_collation(dataset, batch_collate_fn)
    dataset.require_columns(dataset_column_names, column_names_collate, column_names_getitem)
    stated = dataset.stated_batch_size
    known = f"the data set was made for batches of {stated}"
    refuse(stated not in (None, batch_size, batch_size * rank_size), f"batch_size={batch_size}", known)
    workers = min(num_parallel_workers, (os.cpu_count() or 1) // rank_size) if python_multiprocessing else 0
    workers = max(workers, 0) if num_parallel_workers >= 0 else num_parallel_workers
    loader = create_stage_loader(
        dataset, batch_size, epoch_size, rank, rank_size, shuffle, drop_remainder, workers, dataset.seed
    )
    parts = {field.name: getattr(loader, field.name) for field in fields(loader)}
    if dataset.rect:
        sizes_hw = resized_sizes(dataset.index.sizes_hw, dataset.img_size)
        parts["shapes"] = Rectangular(sizes_hw, dataset.stride, dataset.seed, shuffle)
    return Loader(**parts)


def _check_collation(dataset: COCODataset, batch_collate_fn: Callable[..., Batch]) -> None:
    """Refuses another function than the data set's own."""
    expected = dataset.train_collate_fn if dataset.is_training else dataset.test_collate_fn
    refuse(
        batch_collate_fn != expected,
        f"batch_collate_fn={getattr(batch_collate_fn, '__name__', batch_collate_fn)}",
        f"worker processes collate as {expected.__name__} of this data set does; give that",
    )
