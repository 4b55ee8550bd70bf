"""Settings of the data: sources, repairs, stages."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from yoloflow.data.caches.decoded_images import Storage
from yoloflow.data.partner_window import MosaicPartners
from yoloflow.data.problems import Policy, PolicyError, PolicySetting
from yoloflow.data.samplers import SamplerName
from yoloflow.data.stages import fit_stages
from yoloflow.settings import Count, OneOrMore, Row, Section, Words, key_error


class Stages(Section):
    """Training data that changes on the way: stages, each with its transforms."""

    stage_epochs: list[Count] | None = Field(None, min_length=1, description="length of each stage in epochs")
    stage_steps: list[Count] | None = Field(
        None, min_length=1, description="length of each stage in steps (micro-batches), instead of epochs"
    )
    trans_list: list[list[Row]] = Field(
        description="transform rows of each stage; one list serves all stages"
    )

    @model_validator(mode="after")
    def _one_list_for_each_stage(self) -> Self:
        if (self.stage_epochs is None) == (self.stage_steps is None):
            key = "stage_steps" if self.stage_steps else ""
            raise key_error(
                key, "give either stage_epochs or stage_steps, and null for one that a base gives"
            )
        if len(self.trans_list) not in (1, len(self.lengths)):
            raise key_error(
                self.unit,
                f"names {len(self.lengths)} stages, trans_list {len(self.trans_list)}; "
                "give one list of transforms for each stage, or one for all",
            )
        return self

    @property
    def unit(self) -> str:
        """The key that gives the lengths."""
        return "stage_epochs" if self.stage_epochs is not None else "stage_steps"

    @property
    def lengths(self) -> list[int]:
        """Length of each stage, in epochs or steps."""
        return list(self.stage_epochs or self.stage_steps or [])


def is_by_stage(value: object) -> bool:
    """True if there is a value for each stage; one range of numbers is one value for all."""
    return isinstance(value, list) and not any(isinstance(part, float) for part in value)


Scales = Annotated[list[float], Field(min_length=2, max_length=2)]


Transforms = Annotated[
    Annotated[list[Row], Tag("rows")] | Annotated[Stages, Tag("stages")],
    Discriminator(lambda value: "rows" if isinstance(value, list) else "stages"),
]


def _known_actions(setting: PolicySetting) -> PolicySetting:
    try:
        Policy.of(setting)
    except PolicyError as error:
        raise key_error(error.kind, error.text) from error
    return setting


Problems = Annotated[str | dict[str, str], AfterValidator(_known_actions)]


def _one_side(value: object) -> object:
    sides = re.split(r"[,x ]+", value.strip("()[]{} ")) if isinstance(value, str) else value
    if not isinstance(sides, list) or not sides:
        return value
    numbers = [int(side) for side in sides if str(side).strip().isdecimal()]
    raise ValueError(
        "one number is expected: the network sees squares, images keep their shape inside and are padded "
        f"(data.rect=true pads less); write img_size={max(numbers, default=640)}"
    )


class BatchSettings(Section):
    """The size of images and batches; top-level keys of a recipe."""

    per_batch_size: Count = Field(16, description="images in a batch on each device")
    img_size: Annotated[Count, BeforeValidator(_one_side)] = Field(
        640, description="side of the square network input in pixels"
    )


NumWorkers = Annotated[int, Field(ge=0)] | Literal["auto"]
CPU_WORKERS, CPU_TEST_WORKERS = 4, 2
"""Loader processes where the network takes the cores too."""


def _two_numbers(value: object) -> object:
    if not isinstance(value, list) or len(value) != 2 or value[1] not in (2, 3):
        raise ValueError(
            "[number of keypoints, 2 or 3 figures of each] is expected, such as [17, 3] for 17 keypoints of "
            f"x, y and visibility, not {value}"
        )
    return value


KeypointShape = Annotated[list[Count], BeforeValidator(_two_numbers)]


class DataSettings(Section):
    """Settings of images and labels, and of what is done to them before they reach the network."""

    dataset_name: str | None = Field(None, description="a name for reports; nothing depends on it")
    train_set: OneOrMore | None = Field(
        None,
        description="training images: COCO json, list file or folder of images with YOLO labels, folder of "
        "VOC .xml files, or a list of these; digits:train is the embedded quick-start set",
    )
    val_set: OneOrMore | None = Field(None, description="validation images, as train_set")
    val_fraction: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the training images that is held out for validation where there is no val_set",
    )
    image_folder: str | dict[Literal["train_set", "val_set"], str] | None = Field(
        None,
        description="where the images of a COCO json or a list file lie (null: beside it); or for each set, "
        "as {train_set: images/train, val_set: images/val}",
    )
    nc: Count | None = Field(None, description="number of classes (null: as many as the data names)")
    names: Words | None = Field(None, description="class names in class order (null: the data's own)")
    kpt_shape: KeypointShape | None = Field(
        None,
        description="[keypoints, figures of each] that follow the box in a line of YOLO labels; they are "
        "read over (null: further figures are an outline)",
    )
    single_cls: bool = Field(False, description="train and test all classes as one")
    num_parallel_workers: NumWorkers = Field(
        "auto",
        description="loader processes of a rank, no more than the machine has cores (0: load in the training "
        "process); auto is 4 on the CPU, and on accelerators the rank's cores but one, 16 at most",
    )
    test_workers: NumWorkers = Field(
        "auto",
        description="likewise of an evaluation; auto is num_parallel_workers, on the CPU 2 of them at most",
    )
    load_timeout: float | None = Field(
        300.0,
        gt=0,
        description="seconds a batch may take before its loader processes are started anew (null: no limit)",
    )
    problems: Problems = Field(
        "repair",
        description="what to do with faulty images and boxes: repair and count them, error, or an action by "
        "kind of problem, such as {missing-label: error} (see docs/data.md)",
    )
    cache: Storage = Field(
        "auto",
        description="where decoded images are kept: ram, disk (a file that later trainings find again), auto "
        "(ram if half of the free memory is enough) or none",
    )
    mosaic_partners: MosaicPartners = Field(
        "auto",
        description="where mosaic, mixup and pastein take other images from: anywhere in the set; a window "
        "of the epoch's order, whose images are decoded once; or auto (anywhere if memory holds the decoded "
        "images)",
    )
    decode_reduced: bool = Field(
        True,
        description="training decodes a JPEG at 1/2, 1/4 or 1/8 of its size where that is no smaller than "
        "needed; false decodes it in full and shrinks it then. Evaluation always decodes in full",
    )
    index_cache: bool = Field(
        True, description="keep what was read of the sets in a file, for as long as nothing of them changes"
    )
    max_labels: Count | None = Field(
        None, description="label rows of an image, more objects are an error (null: as many as a batch has)"
    )
    train_transforms: Transforms = Field(
        default_factory=list,
        description="rows {func_name, prob, ...}, or {stage_epochs: [...], trans_list: [[...], ...]}",
    )
    test_transforms: list[Row] | None = Field(
        None, description="rows for evaluation (null: the square letterbox)"
    )
    test_shrink: Literal["area", "linear"] = Field(
        "area", description="how evaluation and prediction make images smaller"
    )

    train_img_size: Count | list[Count] | None = Field(
        None, description="side of training images in pixels (null: img_size); or one for each stage"
    )
    multi_scale: Scales | list[Scales | None] | None = Field(
        None,
        description="[low, high]: every batch has another side, from low to high times the image size; "
        "or one for each stage",
    )
    rect: bool | list[bool] = Field(
        False, description="train on rectangles that fit the images of a batch; or one for each stage"
    )
    test_rect: bool = Field(False, description="evaluate on rectangles that fit each image")
    sampler: SamplerName | list[SamplerName] = Field(
        "uniform", description="how often an image comes (see docs/data.md); or one for each stage"
    )

    @model_validator(mode="after")
    def _as_many_values_as_stages(self) -> Self:
        count = len(self.trans_list)
        for key in ("train_img_size", "multi_scale", "rect", "sampler"):
            value = getattr(self, key)
            if is_by_stage(value) and len(value) != count:
                stages = "is 1 stage" if count == 1 else f"are {count} stages"
                raise key_error(
                    key,
                    f"has {len(value)} values, but there {stages} (data.train_transforms); "
                    "give one value for each stage, or one for all",
                )
        for stage in range(count):
            if self.of_stage("multi_scale", stage) and self.of_stage("rect", stage):
                raise key_error(
                    "rect",
                    f"stage {stage + 1} has multi_scale and rect: its batches cannot be both squares of many "
                    "sizes and rectangles that fit their images; choose one",
                )
        return self

    def of_stage(self, key: str, stage: int) -> Any:
        """The value of a key in one stage (from 0)."""
        value = getattr(self, key)
        return value[stage] if is_by_stage(value) else value

    @model_validator(mode="after")
    def _as_many_names_as_classes(self) -> Self:
        if self.nc is not None and self.names is not None and len(self.names) != self.nc:
            text = f"is {self.nc} but {len(self.names)} names are given; leave one of them out"
            raise key_error("nc", text)
        return self

    @property
    def has_one_shape(self) -> bool:
        """Returns whether all batches have one shape; what is left over for the last one does not count."""
        sizes = self.train_img_size if isinstance(self.train_img_size, list) else [self.train_img_size]
        stages = range(len(self.trans_list))
        varies = any(self.of_stage(key, stage) for key in ("multi_scale", "rect") for stage in stages)
        return not varies and not self.test_rect and len(set(sizes)) == 1

    @property
    def held_out_share(self) -> float | None:
        """Share of the training images that is the validation set; None where that is a set of its own."""
        return None if self.val_set is not None else self.val_fraction

    @property
    def stage_epochs(self) -> list[int] | None:
        """Length of each stage in epochs as written; None where none is."""
        return self.train_transforms.stage_epochs if isinstance(self.train_transforms, Stages) else None

    @property
    def trans_list(self) -> list[list[Row]]:
        """Transform rows of each stage."""
        if not isinstance(self.train_transforms, Stages):
            return [self.train_transforms]
        rows = self.train_transforms.trans_list
        return rows * len(self.train_transforms.lengths) if len(rows) == 1 else rows

    @property
    def test_rows(self) -> list[Row]:
        """Transform rows of evaluation."""
        return self.test_transforms or [{"func_name": "letterbox"}]

    @property
    def stated_names(self) -> list[str] | None:
        """Class names in class order, numbers where only their count is stated; None where neither is."""
        if self.names is not None:
            return list(self.names)
        return None if self.nc is None else [str(number) for number in range(self.nc)]

    def stage_steps(self, epochs: int, steps_per_epoch: int) -> list[int]:
        """Length of each stage in steps, fitted to a training of `epochs` epochs."""
        if not isinstance(self.train_transforms, Stages):
            return [epochs * steps_per_epoch]
        if self.stage_epochs is not None:
            return [length * steps_per_epoch for length in fit_stages(self.stage_epochs, epochs)]
        return fit_stages(self.train_transforms.lengths, epochs * steps_per_epoch, "steps")
