"""The flow: train and evaluate a detector in eight steps. Read `train` and you know the project."""

from __future__ import annotations

from functools import partial
from typing import Any

from yoloflow.callbacks import RunContext, create_callback
from yoloflow.callbacks.settings import callback_rows
from yoloflow.config.auto_settings import resolve_auto
from yoloflow.config.fitting import check_start, naming_the_recipe
from yoloflow.config.run_files import (
    begun_run,
    naming_changed_settings,
    settle_stages,
    tell_finished,
    wants_more,
    weights_facts,
)
from yoloflow.config.schema import Config, takes_config
from yoloflow.data.sets import identity_of, log_problems, read_sets
from yoloflow.data.stage_loaders import create_stage_loaders
from yoloflow.evaluation.create import create_test_fn
from yoloflow.losses import create_loss
from yoloflow.models import create_model
from yoloflow.models.precision import create_precision
from yoloflow.optim.groups import create_group_param
from yoloflow.optim.optimizer import create_optimizer
from yoloflow.optim.schedule import create_schedule
from yoloflow.run.folder import choose_run
from yoloflow.run.lock import release_run_lock
from yoloflow.runtime.device import Machine
from yoloflow.runtime.messages import shown_messages
from yoloflow.runtime.process_state import restored_process_state
from yoloflow.runtime.random_generators import set_determinism
from yoloflow.runtime.rank_failures import explain_rank_timeout
from yoloflow.runtime.ranks import init_ranks
from yoloflow.train_step.step import create_train_step_fn, get_gradreducer, get_loss_scaler
from yoloflow.trainer.create import create_trainer
from yoloflow.trainer.dry_run import try_first_step
from yoloflow.trainer.start import start_weights


# However it ends: the run folder is free again, what was set for the whole process is as before, and a rank
# that waited for the others in vain says where.
@takes_config
@restored_process_state()
@shown_messages()
@release_run_lock()
@explain_rank_timeout("preparing to train")
@naming_the_recipe()
def train(config: Config, dry_run: bool = False) -> dict[str, Any]:
    """Trains and evaluates as `config` says; returns the run's summary, as in its `summary.json`.

    `dry_run` ends it before the first step. Messages are shown unless the logger "yoloflow" has a level.

    Raises:
        YoloflowError: settings, data or run folder cannot be used; the message says what to do.
    """
    ranks, device = init_ranks(config.device, config.threads, config.rank_timeout)
    run = choose_run(*config.place, ranks, partial(wants_more, config))
    if (summary := run.finished_summary) is not None:
        return tell_finished(run, config, summary, ranks)
    check_start(config, run)
    sets = log_problems(read_sets(config.data, config.img_size, config.run_eval), ranks)
    train_set, nc = sets["train_set"], len(sets["train_set"].names)
    config = resolve_auto(config, Machine.of(device), ranks)
    set_determinism(config.determinism, config.seed, config.data.has_one_shape)

    # 1. Network, and its running average, which is what is evaluated
    network = create_model(
        config.network.model_name,
        config.network_table(),
        nc,
        sync_bn=config.sync_bn and ranks.world_size > 1,
        variant=config.variant,
    ).to(device)
    ema, origin = start_weights(network, config, run, train_set.names)

    # 2. Data loaders, one stage after the other
    config, stages = settle_stages(config, run, train_set, ranks)
    loader = create_stage_loaders(
        train_set, stages, config.data, config, max(network.stride), config.seed, ranks
    )

    # 3. Loss
    loss_fn = create_loss(
        config.loss, anchors=config.network.anchors, stride=network.stride, nc=nc, variant=config.variant
    ).to(device)

    # 4. Optimizer: parameter groups, each with its own learning rates, and momentum
    length = config.run_length(loader.steps_per_epoch, ranks.world_size)
    optimizer = create_optimizer(create_group_param(network, config.optimizer, length), config.optimizer)
    schedule = create_schedule(config.optimizer, length, config.variant)

    # 5. Train step: forward, loss, backward, mean over ranks, loss scale, clipping, update, average
    precision = create_precision(config, device.type)
    train_step_fn = create_train_step_fn(
        network,
        loss_fn,
        optimizer,
        schedule,
        scaler=get_loss_scaler(config.loss_scaler, config.loss_scaler_value),
        reducer=get_gradreducer(ranks.world_size > 1),
        ema=ema,
        precision=precision,
        settings=config.step_settings(ranks.world_size),
        loss_ratio=config.loss_ratio(loss_fn.reduction, ranks.world_size),
    )

    # 6. Callbacks: they watch
    callbacks = create_callback(callback_rows(config, config.epochs))

    # 7. Test function
    test_fn = None
    if config.run_eval:
        test_fn = create_test_fn(
            sets["val_set"], config, config.data, network, precision, ranks, loader.cache_memory, loss_fn
        )

    # 8. Trainer
    facts = weights_facts(config, train_set.names, origin)
    context = RunContext(run, ranks, train_step_fn, test_fn, train_set.names, loss_fn.loss_item_name, facts)
    identity = identity_of(train_set, config.per_batch_size * ranks.world_size)
    with naming_changed_settings(run, config):
        trainer = create_trainer(context, loader, callbacks, config, identity=identity)
    if dry_run:
        return try_first_step(trainer)
    trainer.guards.before_training()
    with begun_run(context, config, sets, origin):
        return trainer.train_with_datasink(config.sink_size) if config.datasink else trainer.train()
