"""Says what other trainers call our settings, values and commands: the one table that messages look into.

Keys are in lower case with `_`. Nothing is renamed silently: the same word may mean something else there.
"""

from __future__ import annotations

RECIPE_NAMES = {"model", "config", "cfg", "config_file", "exp_file", "exp", "recipe", "f", "c"}
"""Options and keys that name what is our first argument."""

_OTHER_NAMES = {
    "per_batch_size": "batch batch_size b",
    "img_size": "imgsz img imgs image_size input_size test_size resolution width height",
    "optimizer.lr_init": "lr0 base_lr learning_rate",
    "optimizer.end_factor": "lrf",
    "optimizer.lr_scheduler": "cos_lr linear_lr scheduler lr_schedule",
    "optimizer.gp_weight_decay": "weight_decay decay",
    "optimizer.min_warmup_step": "burn_in",
    "loss.box": "box",
    "loss.cls": "cls",
    "loss.dfl": "dfl",
    "loss.obj": "obj",
    "data.num_parallel_workers": "workers num_workers n_workers data_num_workers",
    "data.cache": "cache cache_images",
    "data.train_set": "train",
    "data.val_set": "val",
    "data.names": "classes class_names",
    "data.nc": "num_classes",
    "data.single_cls": "single_class",
    "data.multi_scale": "multiscale",
    "data.sampler": "image_weights",
    "data.rect": "rectangular",
    "device": "gpu gpu_id",
    "save_dir": "project work_dir output_dir out_dir out output o",
    "name": "run_name experiment_name expn",
    "weight": "pretrained weights ckpt checkpoint load_from pretrain_weights",
    "resume": "resume_from",
    "run_eval": "noval eval validate",
    "run_eval_interval": "eval_interval val_interval",
    "log_interval": "print_interval",
    "summary": "tensorboard",
    "report": "plots",
    "profiler": "profile",
    "amp_level": "amp fp16 half",
    "jit": "compile",
    "determinism": "deterministic",
    "seed": "random_seed",
    "epochs": "n_epochs num_epochs max_epoch max_epochs",
    "accumulate": "subdivisions grad_accum grad_accum_steps gradient_accumulation_steps "
    "accumulate_grad_batches",
    "clip_grad_value": "clip_max_norm max_grad_norm gradient_clip_val",
    "conf_thres": "conf confidence conf_threshold score_thr",
    "iou_thres": "iou nms nms_thres iou_threshold",
    "max_det": "max_detections",
    "ema": "use_ema",
    "patience": "early_stopping early_stopping_patience",
}
"""Our setting -> its names in Ultralytics, YOLOv5, YOLOv7 and others."""

SETTINGS = {theirs: ours for ours, names in _OTHER_NAMES.items() for theirs in names.split()}
"""Their setting -> ours."""

_TORCHRUN = "`torchrun --nproc-per-node N -m yoloflow train ...` starts a process for each of N devices"
_PERSPECTIVE = "a value of the row random_perspective in data.train_transforms"
_COLOUR = "of the row hsv_augment in data.train_transforms"
_STAGES = "stage_epochs of data.train_transforms says how long each list of transforms is used"

ADVICE = {
    **dict.fromkeys(RECIPE_NAMES, "the recipe is the first argument, without a key"),
    **dict.fromkeys(("devices", "gpus", "num_gpus", "local_rank", "nproc_per_node", "d"), _TORCHRUN),
    **dict.fromkeys(("degrees", "translate", "scale", "shear", "perspective"), _PERSPECTIVE),
    "hsv_h": f"hgain {_COLOUR}",
    "hsv_s": f"sgain {_COLOUR}",
    "hsv_v": f"vgain {_COLOUR}",
    **{
        name: f"prob of the row {name} in data.train_transforms"
        for name in ("mosaic", "mixup", "fliplr", "copy_paste")
    },
    **dict.fromkeys(("close_mosaic", "no_aug_epochs"), _STAGES),
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
    **dict.fromkeys(("val", "eval", "evaluate", "validate"), "test"),
    **dict.fromkeys(("detect", "infer", "inference"), "predict"),
    **dict.fromkeys(("fit", "tune", "resume"), "train"),
    **dict.fromkeys(("checks", "version"), "--version"),
    "help": "--help",
    "check": "data check",
    "convert": "data convert",
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
    text = str(value).lower() if isinstance(value, bool) else str(value)
    shown = f"{ours}={text}" if _is_plain(value) and value is not None else ours
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
