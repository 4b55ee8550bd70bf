"""Trains a detector in the eight steps of MindYOLO's description of its flow, in its words.

    python examples/mindyolo_flow.py yolov8n data=my.yaml epochs=30
    python examples/mindyolo_flow.py path/to/mindyolo/configs/yolov8/yolov8n.yaml ms_datasink=true

The first argument is a recipe of ours or a YAML file of MindYOLO's, the others are `key=value` over it.
"""

import logging
import os
import sys
from functools import partial
from typing import Any

from yoloflow.mindyolo import (
    EMA,
    Arguments,
    COCODataset,
    Synchronizer,
    create_callback,
    create_group_param,
    create_loader,
    create_loss,
    create_lr_scheduler,
    create_model,
    create_optimizer,
    create_train_step_fn,
    create_trainer,
    create_warmup_momentum_scheduler,
    freeze_layers,
    get_gradreducer,
    get_loss_scaler,
    load_args,
    load_pretrain,
    ms,
    set_seed,
    test,
)


def train(args: Arguments) -> dict[str, Any]:
    set_seed(args.seed)

    # 1. Create Network
    args.network.recompute = args.recompute
    args.network.recompute_layers = args.recompute_layers
    network = create_model(
        model_name=args.network.model_name,
        model_cfg=args.network,
        num_classes=args.data.nc,
        sync_bn=args.sync_bn,
    )
    ema = None
    if args.ema:
        ema_network = create_model(
            model_name=args.network.model_name,
            model_cfg=args.network,
            num_classes=args.data.nc,
        )
        ema = EMA(network, ema_network)
    load_pretrain(network, args.weight, ema, args.ema_weight, args.strict_load)
    freeze_layers(network, args.freeze)
    ms.amp.auto_mixed_precision(network, amp_level=args.ms_amp_level)
    if ema:
        ms.amp.auto_mixed_precision(ema.ema, amp_level=args.ms_amp_level)

    # 2. Create Dataloaders
    transforms = args.data.train_transforms
    stage_dataloaders = []
    stage_epochs = [args.epochs] if not isinstance(transforms, dict) else transforms["stage_epochs"]
    stage_transforms = [transforms] if not isinstance(transforms, dict) else transforms["trans_list"]
    for stage in range(len(stage_epochs)):
        _dataset = COCODataset(
            dataset_path=args.data.train_set,
            img_size=args.img_size,
            transforms_dict=stage_transforms[stage],
            is_training=True,
            augment=True,
            rect=args.rect,
            single_cls=args.single_cls,
            batch_size=args.total_batch_size,
            stride=max(args.network.stride),
            return_segments=args.task == "segment",
        )
        _dataloader = create_loader(
            dataset=_dataset,
            batch_collate_fn=_dataset.train_collate_fn,
            dataset_column_names=_dataset.dataset_column_names,
            batch_size=args.per_batch_size,
            epoch_size=stage_epochs[stage],
            rank=args.rank,
            rank_size=args.rank_size,
            shuffle=True,
            drop_remainder=True,
            num_parallel_workers=args.data.num_parallel_workers,
            python_multiprocessing=True,
        )
        stage_dataloaders.append(_dataloader)
    dataloader = (
        stage_dataloaders[0] if len(stage_dataloaders) == 1 else ms.dataset.ConcatDataset(stage_dataloaders)
    )
    steps_per_epoch = dataloader.get_dataset_size() // args.epochs

    eval_dataset, eval_dataloader = None, None
    if args.run_eval:
        eval_dataset = COCODataset(
            dataset_path=args.data.val_set,
            img_size=args.img_size,
            transforms_dict=args.data.test_transforms,
            is_training=False,
            augment=False,
            rect=args.rect,
            single_cls=args.single_cls,
            batch_size=args.per_batch_size,
            stride=max(args.network.stride),
        )
        eval_dataloader = create_loader(
            dataset=eval_dataset,
            batch_collate_fn=eval_dataset.test_collate_fn,
            dataset_column_names=eval_dataset.dataset_column_names,
            batch_size=args.per_batch_size,
            epoch_size=1,
            rank=args.rank,
            rank_size=args.rank_size,
            shuffle=False,
            drop_remainder=False,
            num_parallel_workers=1,
            python_multiprocessing=True,
        )

    # 3. Create Loss
    loss_fn = create_loss(
        **args.loss, anchors=args.network.get("anchors", 1), stride=args.network.stride, nc=args.data.nc
    )
    ms.amp.auto_mixed_precision(loss_fn, amp_level="O0" if args.keep_loss_fp32 else args.ms_amp_level)

    # 4. Create Optimizer
    args.optimizer.steps_per_epoch = steps_per_epoch
    lr = create_lr_scheduler(**args.optimizer)
    params = create_group_param(params=network.trainable_params(), **args.optimizer)
    optimizer = create_optimizer(params=params, lr=lr, **args.optimizer)
    warmup_momentum = create_warmup_momentum_scheduler(**args.optimizer)

    # 5. Create train_step_fn
    reducer = get_gradreducer(args.is_parallel, optimizer.parameters)
    scaler = get_loss_scaler(args.ms_loss_scaler, scale_value=args.ms_loss_scaler_value)
    train_step_fn = create_train_step_fn(
        network=network,
        loss_fn=loss_fn,
        optimizer=optimizer,
        loss_ratio=args.rank_size,
        scaler=scaler,
        reducer=reducer,
        ema=ema,
        overflow_still_update=args.overflow_still_update,
        ms_jit=args.ms_jit,
        task=args.task,
        clip_grad=args.clip_grad,
        clip_grad_value=args.clip_grad_value,
    )

    # 6. Create callbacks
    if args.summary:
        args.callback.append({"name": "SummaryCallback"})
    if args.profiler:
        args.callback.append({"name": "ProfilerCallback", "profiler_step_num": args.profiler_step_num})
    callback_fns = create_callback(args.callback)

    # 7. Create test function for run eval while train
    if args.run_eval:
        assert eval_dataset is not None
        assert eval_dataloader is not None
        is_coco_dataset = "coco" in args.data.dataset_name
        test_fn = partial(
            test,
            dataloader=eval_dataloader,
            anno_json_path=os.path.join(
                args.data.val_set[: -len(args.data.val_set.split("/")[-1])],
                "annotations/instances_val2017.json",
            ),
            conf_thres=args.conf_thres,
            iou_thres=args.iou_thres,
            conf_free=args.conf_free,
            nms_time_limit=args.nms_time_limit,
            is_coco_dataset=is_coco_dataset,
            imgIds=None if not is_coco_dataset else eval_dataset.imgIds,
            per_batch_size=args.per_batch_size,
            rank=args.rank,
            rank_size=args.rank_size,
            save_dir=args.save_dir,
            synchronizer=Synchronizer(args.rank_size) if args.rank_size > 1 else None,
        )
    else:
        test_fn = None

    # 8. Create Trainer
    model_name = os.path.basename(args.config)[: -len(".yaml")]
    trainer = create_trainer(
        model_name=model_name,
        train_step_fn=train_step_fn,
        scaler=scaler,
        dataloader=dataloader,
        steps_per_epoch=steps_per_epoch,
        network=network,
        loss_fn=loss_fn,
        ema=ema,
        optimizer=optimizer,
        callback=callback_fns,
        reducer=reducer,
        data_sink=args.ms_datasink,
        profiler=args.profiler,
    )
    if not args.ms_datasink:
        return trainer.train(
            epochs=args.epochs,
            main_device=args.main_device,
            warmup_step=max(
                round(args.optimizer.warmup_epochs * steps_per_epoch), args.optimizer.min_warmup_step
            ),
            warmup_momentum=warmup_momentum,
            accumulate=args.accumulate,
            overflow_still_update=args.overflow_still_update,
            keep_checkpoint_max=args.keep_checkpoint_max,
            log_interval=args.log_interval,
            loss_item_name=loss_fn.loss_item_name,
            save_dir=args.save_dir,
            enable_modelarts=args.enable_modelarts,
            train_url=args.train_url,
            run_eval=args.run_eval,
            run_eval_interval=args.run_eval_interval,
            test_fn=test_fn,
            rank_size=args.rank_size,
            ms_jit=args.ms_jit,
            profiler_step_num=args.profiler_step_num,
        )
    return trainer.train_with_datasink(
        epochs=args.epochs,
        main_device=args.main_device,
        warmup_epoch=max(args.optimizer.warmup_epochs, args.optimizer.min_warmup_step // steps_per_epoch),
        warmup_momentum=warmup_momentum,
        keep_checkpoint_max=args.keep_checkpoint_max,
        log_interval=args.log_interval,
        loss_item_name=loss_fn.loss_item_name,
        save_dir=args.save_dir,
        enable_modelarts=args.enable_modelarts,
        train_url=args.train_url,
        run_eval=args.run_eval,
        run_eval_interval=args.run_eval_interval,
        test_fn=test_fn,
        profiler_step_num=args.profiler_step_num,
    )


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(load_args(sys.argv[1], sys.argv[2:]))
