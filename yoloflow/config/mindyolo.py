"""MindYOLO's settings in our words.

Every file and override passes through here, so that a recipe may stand on a MindYOLO file. Renamed and unused
keys are named in the log; a key that neither program knows is left for the schema to refuse. Transform rows
that our loader makes needless are known to `yoloflow.data.transforms`.
"""

from __future__ import annotations

import logging

from yoloflow.config.document import Located, merge

logger = logging.getLogger("yoloflow")

RENAMED = {
    "ms_amp_level": "amp_level",
    "ms_loss_scaler": "loss_scaler",
    "ms_loss_scaler_value": "loss_scaler_value",
    "ms_jit": "jit",
    "ms_datasink": "datasink",
}

_NEVER_READ = "MindYOLO itself never reads it"
_PLATFORM = "it belongs to MindYOLO's platform"

UNUSED = {
    **dict.fromkeys(
        ("anchor_base", "ms_grad_sens", "ms_enable_graph_kernel", "multi_data_url", "pretrain_url"),
        _NEVER_READ,
    ),
    **dict.fromkeys(("conf_free", "exec_nms"), "the network's head says so itself"),
    **dict.fromkeys(("ms_mode", "max_call_depth", "precision_mode", "enable_modelarts"), _PLATFORM),
    **dict.fromkeys(("data_url", "ckpt_url", "train_url", "data_dir", "ckpt_dir"), _PLATFORM),
    "device_target": "see device",
    "log_level": "see --log-level",
    "is_parallel": "torchrun decides",
    "opencv_threads_num": "a loader process decodes with one thread",
}

UNUSED_IN = {
    "data": {"test_set": "no run evaluates it"},
    "network": {
        "nc": "the class count is data.nc",
        "input_size": _NEVER_READ,
        "verbose_log": "the network's table is always logged",
        "recompute": "see the top level's recompute",
        "recompute_layers": "see the top level's recompute_layers",
    },
    "loss": {"iou_t": _NEVER_READ, "input_size": "the size of the images counts"},
    "optimizer": {"nbs": "see the top level's nbs"},
}


def translate_mindyolo(tree: Located) -> Located:
    """A file's or override's mapping with MindYOLO's keys renamed or taken out.

    Args:
        tree: the mapping; nothing happens to keys that are ours.
    """
    if not isinstance(tree.value, dict):
        return tree
    result: dict[str, Located] = {}
    for key, child in _used(tree.value, UNUSED, "").items():
        if key in RENAMED:
            logger.info("%s: %s is read as %s", child.place, key, RENAMED[key])
        if isinstance(child.value, dict) and key in UNUSED_IN:
            child = Located(_used(child.value, UNUSED_IN[key], f"{key}."), child.place)
        if key in ("weight", "ema_weight") and child.value == "":
            child = Located(None, child.place)
        result[RENAMED.get(key, key)] = child
    return _switch_by_stage(_move_into_data(Located(result, tree.place)))


def _used(section: dict[str, Located], unused: dict[str, str], prefix: str) -> dict[str, Located]:
    for key, child in section.items():
        if key in unused:
            logger.info("%s: %s%s is not used: %s", child.place, prefix, key, unused[key])
    return {key: child for key, child in section.items() if key not in unused}


_PROPERTIES_OF_DATA = {"single_cls": ("single_cls",), "rect": ("rect", "test_rect")}


def _move_into_data(tree: Located) -> Located:
    """MindYOLO's top-level `single_cls` and `rect` are properties of the data here."""
    moved: dict[str, Located] = {}
    for key, targets in _PROPERTIES_OF_DATA.items():
        if key in tree.mapping:
            names = " and ".join(f"data.{target}" for target in targets)
            logger.info("%s: %s is read as %s", tree.mapping[key].place, key, names)
            moved |= dict.fromkeys(targets, tree.mapping[key])
    if not moved:
        return tree
    rest = {key: child for key, child in tree.mapping.items() if key not in _PROPERTIES_OF_DATA}
    data = Located({"data": Located(moved, tree.place)}, tree.place)
    return merge(Located(rest, tree.place), data)


def _switch_by_stage(tree: Located) -> Located:
    """MindYOLO's callback that switches YOLOX's L1 term on is a loss that changes with the stage here."""
    rows = tree.mapping.get("callback")
    if rows is None or not isinstance(rows.value, list):
        return tree
    kept = [row for row in rows.value if not _is_named(row, "YoloxSwitchTrain")]
    if len(kept) == len(rows.value):
        return tree
    logger.info("%s: YoloxSwitchTrain is read as loss.stages: the L1 term in the second stage", rows.place)
    switched = Located({"use_l1": Located(True, rows.place)}, rows.place)
    stages = Located([Located({}, rows.place), switched], rows.place)
    own = Located({**tree.mapping, "callback": Located(kept, rows.place)}, tree.place)
    return merge(Located({"loss": Located({"stages": stages}, rows.place)}, tree.place), own)


def _is_named(row: Located, name: str) -> bool:
    return "name" in row.mapping and row.mapping["name"].value == name
