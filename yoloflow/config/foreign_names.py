"""Says what other trainers call our settings, values and commands: the one table that messages look into.

Keys are in lower case with `_`. Nothing is renamed silently: the same word may mean something else there.
"""

from __future__ import annotations

RECIPE_NAMES = {"model", "config", "cfg", "config_file", "exp_file", "exp", "recipe", "f", "c"}
"""Options and keys that name what is our first argument."""

SETTINGS = {
    # Ultralytics, YOLOv5, YOLOv7
    "batch": "per_batch_size",
    "batch_size": "per_batch_size",
    "b": "per_batch_size",
    "imgsz": "img_size",
    "img": "img_size",
    "imgs": "img_size",
    "image_size": "img_size",
    "input_size": "img_size",
    "test_size": "img_size",
    "resolution": "img_size",
    "width": "img_size",
    "height": "img_size",
    "lr0": "optimizer.lr_init",
    "base_lr": "optimizer.lr_init",
    "learning_rate": "optimizer.lr_init",
    "lrf": "optimizer.end_factor",
    "cos_lr": "optimizer.lr_scheduler",
    "linear_lr": "optimizer.lr_scheduler",
    "scheduler": "optimizer.lr_scheduler",
    "lr_schedule": "optimizer.lr_scheduler",
    "weight_decay": "optimizer.gp_weight_decay",
    "decay": "optimizer.gp_weight_decay",
    "burn_in": "optimizer.min_warmup_step",
    "box": "loss.box",
    "cls": "loss.cls",
    "dfl": "loss.dfl",
    "obj": "loss.obj",
    "workers": "data.num_parallel_workers",
    "num_workers": "data.num_parallel_workers",
    "n_workers": "data.num_parallel_workers",
    "data_num_workers": "data.num_parallel_workers",
    "cache": "data.cache",
    "cache_images": "data.cache",
    "train": "data.train_set",
    "val": "data.val_set",
    "classes": "data.names",
    "class_names": "data.names",
    "num_classes": "data.nc",
    "single_class": "data.single_cls",
    "multiscale": "data.multi_scale",
    "image_weights": "data.sampler",
    "rectangular": "data.rect",
    "gpu": "device",
    "gpu_id": "device",
    "project": "save_dir",
    "work_dir": "save_dir",
    "output_dir": "save_dir",
    "out_dir": "save_dir",
    "out": "save_dir",
    "output": "save_dir",
    "o": "save_dir",
    "run_name": "name",
    "experiment_name": "name",
    "expn": "name",
    "pretrained": "weight",
    "weights": "weight",
    "ckpt": "weight",
    "checkpoint": "weight",
    "load_from": "weight",
    "pretrain_weights": "weight",
    "resume_from": "resume",
    "noval": "run_eval",
    "eval": "run_eval",
    "validate": "run_eval",
    "eval_interval": "run_eval_interval",
    "val_interval": "run_eval_interval",
    "print_interval": "log_interval",
    "tensorboard": "summary",
    "plots": "report",
    "profile": "profiler",
    "amp": "amp_level",
    "fp16": "amp_level",
    "half": "amp_level",
    "compile": "jit",
    "deterministic": "determinism",
    "random_seed": "seed",
    "n_epochs": "epochs",
    "num_epochs": "epochs",
    "max_epoch": "epochs",
    "max_epochs": "epochs",
    "subdivisions": "accumulate",
    "grad_accum": "accumulate",
    "grad_accum_steps": "accumulate",
    "gradient_accumulation_steps": "accumulate",
    "accumulate_grad_batches": "accumulate",
    "clip_max_norm": "clip_grad_value",
    "max_grad_norm": "clip_grad_value",
    "gradient_clip_val": "clip_grad_value",
    "conf": "conf_thres",
    "confidence": "conf_thres",
    "conf_threshold": "conf_thres",
    "score_thr": "conf_thres",
    "iou": "iou_thres",
    "nms": "iou_thres",
    "nms_thres": "iou_thres",
    "iou_threshold": "iou_thres",
    "max_detections": "max_det",
    "use_ema": "ema",
    "early_stopping": "patience",
    "early_stopping_patience": "patience",
}
"""Their setting -> ours."""

_TORCHRUN = "`torchrun --nproc-per-node N -m yoloflow train ...` starts a process for each of N devices"
_PERSPECTIVE = "a value of the row random_perspective in data.train_transforms"
_COLOUR = "of the row hsv_augment in data.train_transforms"
_PROBABILITY = "prob of the row {} in data.train_transforms"

ADVICE = {
    **dict.fromkeys(RECIPE_NAMES, "the recipe is the first argument, without a key"),
    **dict.fromkeys(("devices", "gpus", "num_gpus", "local_rank", "nproc_per_node", "d"), _TORCHRUN),
    **dict.fromkeys(("degrees", "translate", "scale", "shear", "perspective"), _PERSPECTIVE),
    "hsv_h": f"hgain {_COLOUR}",
    "hsv_s": f"sgain {_COLOUR}",
    "hsv_v": f"vgain {_COLOUR}",
    **{name: _PROBABILITY.format(name) for name in ("mosaic", "mixup", "fliplr")},
    "copy_paste": _PROBABILITY.format("copy_paste"),
    "close_mosaic": "stage_epochs of data.train_transforms says how long each list of transforms is used",
    "no_aug_epochs": "stage_epochs of data.train_transforms says how long each list of transforms is used",
    "hyp": "hyper-parameters are keys of a recipe: `yoloflow recipes RECIPE` prints them all",
    "mode": "the command says it, such as `yoloflow train`",
    "source": "images are arguments: `yoloflow predict RUN IMAGE...`",
    "save_txt": "`--format yolo` writes such files",
    "nosave": "`--no-save-images` draws nothing",
    "dry_run": "`yoloflow train RECIPE ... --dry-run` is an option",
    "exist_ok": "a run folder is never written over; resume=auto continues the run, name=... begins another",
    "verbose": "`yoloflow --log-level warning train ...` says less",
    "save_period": "states are written at each epoch's end (save_steps, save_minutes, keep_latest)",
    "fraction": "a list file with fewer images does it",
}
"""Their setting -> what to do here, where it is not another name of one setting."""

VALUES: dict[tuple[str, object], str] = {
    ("resume", True): "resume=auto",
    ("resume", False): "resume=never",
    ("data.cache", True): "data.cache=ram",
    ("data.cache", False): "data.cache=none",
    ("data.multi_scale", True): "data.multi_scale=[0.5, 1.5]",
    ("data.multi_scale", False): "data.multi_scale=null",
    ("amp_level", True): "amp_level=O1",
    ("amp_level", False): "amp_level=O0",
    ("determinism", True): "determinism=bitwise",
    ("determinism", False): "determinism=none",
    ("weight", True): "weight=FILE",
    ("weight", False): "weight=null",
    ("val", True): "run_eval=true",
    ("val", False): "run_eval=false",
    ("noval", True): "run_eval=false",
    ("cos_lr", True): "optimizer.lr_scheduler=cosine",
    ("cos_lr", False): "optimizer.lr_scheduler=linear",
    ("linear_lr", True): "optimizer.lr_scheduler=linear",
    ("image_weights", True): "data.sampler=image_weights",
    ("optimizer", "sgd"): "optimizer.optimizer=sgd",
    ("optimizer", "momentum"): "optimizer.optimizer=momentum",
    ("optimizer", "adam"): "optimizer.optimizer=adamw",
    ("optimizer", "adamw"): "optimizer.optimizer=adamw",
    ("optimizer", "auto"): "optimizer.optimizer=NAME, or nothing: the recipe has one",
}
"""A setting, theirs or ours, with a value of theirs -> what to write."""

COMMANDS = {
    "val": "test",
    "eval": "test",
    "evaluate": "test",
    "validate": "test",
    "detect": "predict",
    "infer": "predict",
    "inference": "predict",
    "fit": "train",
    "tune": "train",
    "resume": "train",
    "check": "data check",
    "convert": "data convert",
    "checks": "--version",
    "version": "--version",
    "help": "--help",
}
"""Their command -> ours."""


def plain_name(name: str) -> str:
    """Returns a name as it stands in the tables: `--Batch-Size` as batch_size."""
    return name.lstrip("-").replace("-", "_").lower()


def hint_for_key(name: str, value: object) -> str | None:
    """Returns what a setting that we do not have is here, or None where the tables do not know it.

    Args:
        name: the last word of the key.
        value: what it was to be set to.
    """
    name = plain_name(name)
    if name in ADVICE:
        return ADVICE[name]
    if name not in SETTINGS:
        return None
    ours = SETTINGS[name]
    shown = f"{ours}={_yaml(value)}" if _is_plain(value) and value is not None else ours
    return f"here it is {hint_for_value(name, value) or hint_for_value(ours, value) or shown}"


def hint_for_value(key: str, value: object) -> str | None:
    """Returns what to write in place of a value in another trainer's form, or None.

    Args:
        key: dotted, ours or theirs.
        value: theirs.
    """
    return VALUES.get((key, value.lower() if isinstance(value, str) else value)) if _is_plain(value) else None


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
