"""`args` in MindYOLO's words, from a recipe or a MindYOLO file."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from yoloflow.callbacks.settings import callback_rows
from yoloflow.config.auto_settings import resolve_auto
from yoloflow.config.reader import load_config
from yoloflow.config.recipes import find_recipe
from yoloflow.config.schema import Config
from yoloflow.data.sets import read_set
from yoloflow.data.stages import fit_stages
from yoloflow.models.layer_classes import find_layer
from yoloflow.models.layers.contract import Head
from yoloflow.runtime.device import Machine
from yoloflow.runtime.random_generators import set_determinism
from yoloflow.runtime.ranks import Ranks, gather_over_ranks, init_ranks
from yoloflow.settings import Section
from yoloflow.structures import YoloflowError, nearest_names
from yoloflow.weights.published import weights_path

logger = logging.getLogger("yoloflow")


class Arguments(dict[str, Any]):
    """A mapping whose keys are attributes too, at every level."""

    def __init__(self, content: Mapping[str, Any] | None = None) -> None:
        """Takes `content`; mappings in it become `Arguments`, those in lists stay as they are."""
        super().__init__()
        for key, value in (content or {}).items():
            self[key] = Arguments(value) if isinstance(value, Mapping) else value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self:
            raise AttributeError(f"args.{name}: there is no such argument; {nearest_names(name, self)}")
        return self[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


# Settings that reach the flow by an argument of some function, or that `load_args` follows itself.
_CARRIED = """
recipe variant task epochs per_batch_size img_size accumulate auto_accumulate nbs save_dir name seed
device threads determinism rank_timeout weight ema ema_weight ema_decay ema_tau strict_load finetune
freeze sync_bn recompute recompute_layers amp_level keep_loss_fp32 loss_scaler loss_scaler_value
overflow_still_update clip_grad clip_grad_value jit run_eval run_eval_interval eval_last_epochs
keep_checkpoint_max keep_latest log_interval summary report profiler profiler_step_num callback conf_thres
iou_thres nms_time_limit datasink data.dataset_name data.train_set data.val_set data.nc data.names
data.single_cls data.num_parallel_workers data.train_transforms data.test_transforms data.rect
data.test_rect
"""
# Settings that change the speed of a training, not what it learns.
_SPEED = """
channels_last jit_backend sink_size data.cache data.index_cache data.load_timeout data.test_workers
memory_forecast
"""


def load_args(recipe_or_path: str, overrides: Sequence[str] = ()) -> Arguments:
    """Reads a recipe or a MindYOLO file and returns its settings in MindYOLO's words.

    What MindYOLO's `parse_args` and `set_default` do is done: this process joins its ranks, and what follows
    from the settings is filled in (`total_batch_size`, `rank`, `optimizer.epochs`, the stages' lengths, a
    folder with the time in `save_dir`). `optimizer.steps_per_epoch` is for the script to set. A `weight`
    changes no other setting, as there, unless the overrides have `finetune=true`.

    Args:
        recipe_or_path: see `yoloflow.load_config`.
        overrides: `key=value` texts, likewise.

    Raises:
        YoloflowError: settings cannot be used, or one that no argument of MindYOLO's functions carries.
    """
    config = load_config(recipe_or_path, ["finetune=false", *overrides])
    _refuse_not_carried(config)
    ranks, device = init_ranks(config.device, config.threads, config.rank_timeout)
    config = resolve_auto(config, Machine.of(device), ranks)
    accumulate = config.micro_batches_per_update(ranks.world_size)
    names = _names(config)
    total = config.per_batch_size * ranks.world_size
    set_determinism(config.determinism, config.seed)
    return Arguments(
        {
            **config.model_dump(
                exclude={"network", "loss", "optimizer", "data", "callback", "recipe", "name", "report"}
            ),
            "config": str(find_recipe(recipe_or_path)),
            "network": _network(config, names),
            "loss": _loss(config),
            "optimizer": {
                **config.optimizer.model_dump(exclude_none=True),
                "variant": config.variant,
                "epochs": config.epochs,
                "nbs": config.nbs,
                "accumulate": accumulate,
                "total_batch_size": total,
            },
            "data": _data(config, names),
            "callback": _callbacks(config),
            **{"rank": ranks.rank, "rank_size": ranks.world_size},
            **{"is_parallel": ranks.world_size > 1, "main_device": ranks.is_main},
            **{"total_batch_size": total, "accumulate": accumulate},
            "sync_bn": config.sync_bn and ranks.world_size > 1,
            "rect": config.data.rect is True,
            "single_cls": config.data.single_cls,
            "weight": _weights(config.weight, config),
            "ema_weight": _weights(config.ema_weight, config),
            "ms_amp_level": config.amp_level,
            "ms_loss_scaler": config.loss_scaler,
            "ms_loss_scaler_value": config.loss_scaler_value,
            **{"ms_jit": config.jit is True, "ms_datasink": config.datasink},
            "keep_checkpoint_max": config.keep_latest,
            "conf_free": not _has_objectness(config),
            "nms_time_limit": config.nms_time_limit or -1.0,
            "save_dir": _save_dir(config, ranks),
            **{"enable_modelarts": False, "train_url": ""},
        }
    )


def _refuse_not_carried(config: Config) -> None:
    further = [
        key
        for key, value, default in _values(config)
        if key not in _CARRIED.split() and key not in ("network", "loss", "optimizer") and value != default
    ]
    if speed := [key for key in further if key in _SPEED.split()]:
        logger.info("%s: not used, MindYOLO's functions have no such argument", ", ".join(speed))
    if lost := [key for key in further if key not in _SPEED.split()]:
        raise YoloflowError(
            f"{', '.join(lost)}: no argument of MindYOLO's functions carries this; leave it out, or "
            "train with yoloflow.train"
        )
    if not isinstance(config.data.rect, bool) or config.data.rect != config.data.test_rect:
        raise YoloflowError(
            "data.rect, data.test_rect: MindYOLO's rect is one for both; set them to the same"
        )


def _callbacks(config: Config) -> list[dict[str, Any]]:
    """Returns the rows of callbacks that the flow does not make itself."""
    names = [row.name for row in config.callback]
    kept = ["EvalWhileTrain"] if config.eval_last_epochs or config.keep_checkpoint_max else []
    kept += ["ReportCallback"] if config.report else []
    rows = [row for row in callback_rows(config, config.epochs) if row["name"] in (*names, *kept)]
    return [row for row in rows if config.run_eval or row["name"] != "EvalWhileTrain"]


def _values(settings: Section, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields dotted name, value and default of every setting; the data section key by key."""
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if name == "data":
            yield from _values(value, "data.")
        else:
            yield f"{prefix}{name}", value, field.get_default(call_default_factory=True)


def _names(config: Config) -> list[str]:
    if config.data.single_cls:
        return ["object"]
    return config.data.stated_names or list(read_set(config.data, "train_set").names)


def _network(config: Config, names: list[str]) -> dict[str, Any]:
    table = {key: value for key, value in config.network.model_dump().items() if value is not None}
    own = {"device": config.device, "ema_decay": config.ema_decay, "ema_tau": config.ema_tau}
    return {**table, "variant": config.variant, "names": names, **own}


def _weights(weight: str | None, config: Config) -> str:
    return "" if weight is None else str(weights_path(weight, config.recipe))


def _loss(config: Config) -> dict[str, Any]:
    found = {"name": config.loss.name, **config.loss.hyper_parameters, "variant": config.variant}
    stages = [config.loss.stages[stage] for stage, _ in _kept_stages(config)] if config.loss.stages else []
    return {**found, "stages": stages} if stages else found


def _kept_stages(config: Config) -> list[tuple[int, int]]:
    """Returns number and length in epochs of the stages that are trained."""
    data = config.data
    if len(data.trans_list) == 1:
        return [(0, config.epochs)]
    if data.stage_epochs is None:
        raise YoloflowError("data.train_transforms: MindYOLO's stages are in epochs; give stage_epochs")
    lengths = fit_stages(data.stage_epochs, config.epochs)
    return [(stage, length) for stage, length in enumerate(lengths) if length]


def _data(config: Config, names: list[str]) -> dict[str, Any]:
    data = config.data
    kept = _kept_stages(config)
    rows: Any = data.trans_list[kept[0][0]]
    if len(kept) > 1:
        parts = [data.trans_list[stage] for stage, _ in kept]
        rows = {"stage_epochs": [length for _, length in kept], "trans_list": parts}
    return {
        "dataset_name": data.dataset_name or "",
        "train_set": data.train_set,
        "val_set": data.val_set,
        "nc": len(names),
        "names": names,
        "num_parallel_workers": data.num_parallel_workers,
        "train_transforms": rows,
        "test_transforms": data.test_rows,
    }


def _has_objectness(config: Config) -> bool:
    head = find_layer(str(config.network.head[-1][-2]))
    return issubclass(head, Head) and head.output_kind.has_objectness


def _save_dir(config: Config, ranks: Ranks) -> str:
    name = config.name or time.strftime("%Y.%m.%d-%H.%M.%S")
    return f"{config.save_dir}/{gather_over_ranks(name)[0] if ranks.world_size > 1 else name}"
