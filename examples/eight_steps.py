"""Trains a detector in eight steps, with public names only: a start for a script of one's own.

python examples/eight_steps.py yolov8n data=my/data.yaml epochs=30 name=pets
"""

import logging
import sys
from functools import partial
from typing import Any

import torch

import yoloflow as yf


def train(recipe: str, settings: list[str]) -> dict[str, Any]:
    config = yf.load_config(recipe, settings)
    ranks, device = yf.init_ranks(config.device, config.threads)
    run = yf.choose_run(*config.place, ranks)
    config = yf.resolve_auto(config, yf.Machine.of(device), ranks)
    train_set, val_set = yf.read_sets(config.data, config.img_size, with_val=True).values()
    net, optim, names, nc = config.network, config.optimizer, train_set.names, len(train_set.names)

    # 1. Network, and its running average, which is evaluated
    torch.manual_seed(config.seed)
    network = yf.create_model(net.model_name, config.network_table(), nc).to(device)
    if config.weight is not None:
        yf.load_pretrain(network, config.weight, config.strict_load)
    ema = yf.EMA(network, config.ema_decay, config.ema_tau)

    # 2. Data loaders, one stage after the other
    size, workers = config.per_batch_size, int(config.data.num_parallel_workers)
    create_loader = partial(yf.create_loader, rank=ranks.rank, world_size=ranks.world_size)
    stages = config.stages(config.steps_per_epoch(len(train_set), ranks.world_size))
    loaders = []
    for stage in stages:
        part = yf.COCODataset(train_set, stage.img_size, stage.transforms, True, True, seed=config.seed)
        loaders.append(create_loader(part, size, num_parallel_workers=workers, seed=config.seed))
    loader = yf.ConcatLoader(loaders, [stage.steps for stage in stages])

    # 3. Loss
    loss_fn = yf.create_loss(config.loss, anchors=net.anchors, stride=net.stride, nc=nc).to(device)

    # 4. Optimizer
    length = config.run_length(loader.steps_per_epoch, ranks.world_size)
    optimizer = yf.create_optimizer(yf.create_group_param(network, optim, length), optim)

    # 5. Train step
    step = yf.create_train_step_fn(
        *(network, loss_fn, optimizer, yf.create_schedule(optim, length)),
        scaler=yf.get_loss_scaler(config.loss_scaler, config.loss_scaler_value),
        reducer=yf.get_gradreducer(ranks.world_size > 1),
        ema=ema,
        precision=yf.auto_mixed_precision(config.amp_level, device.type, config.amp_dtype),
        settings=config.step_settings(ranks.world_size),
        loss_ratio=config.loss_ratio(loss_fn.reduction, ranks.world_size),
    )

    # 6. Callbacks
    evaluation = {"name": "EvalWhileTrain", "stage_intervals": config.run_eval_interval}
    rows: list[dict[str, Any]] = [{"name": "ConsoleCallback"}, {"name": "MetricsFileCallback"}, evaluation]
    callbacks = yf.create_callback([*rows, *(row.model_dump() for row in config.callback)])

    # 7. Test function
    images = yf.COCODataset(val_set, config.img_size, config.data.test_rows)
    batches = create_loader(images, size, shuffle=False, drop_last=False)
    sync = yf.Synchronizer(ranks.world_size)
    test_fn = partial(yf.test, dataloader=batches, index=val_set, synchronizer=sync)

    # 8. Trainer
    if ranks.is_main:
        run.create(yf.dump_config(config), names, {})
    context = yf.RunContext(run, ranks, step, test_fn, names, loss_fn.loss_item_name)
    return yf.create_trainer(context, loader, callbacks, config).train()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else sys.exit(__doc__)
