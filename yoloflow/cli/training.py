"""The commands before and while training: train, plan, recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloflow.cli.console import Command, Overrides, Recipe, SettingsCommand, app, show, write_json


@app.command(cls=SettingsCommand)
def train(
    recipe: Recipe,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="check everything up to the first step; train and write nothing")
    ] = False,
) -> None:
    """Train a recipe: `yoloflow train yolov8n data=coco.yaml epochs=100 name=first`."""
    from yoloflow import flow
    from yoloflow.config.reader import load_config
    from yoloflow.config.recipes import find_recipe
    from yoloflow.run.signals import TrainingStopped

    config = load_config(recipe, overrides or [])
    # A folder may also have the name of a recipe, which comes first.
    is_run = find_recipe(recipe) == Path(recipe).expanduser() / "config.yaml"
    if is_run and not any(text.startswith(("name=", "save_dir=")) for text in overrides or []):
        # The run that is named is the one that goes on, wherever it lies; else its settings make a new one.
        run = Path(recipe).expanduser().resolve()
        place = {"save_dir": str(run.parent), "name": run.name} if config.resume == "auto" else {"name": None}
        config = config.model_copy(update=place)
    try:
        flow.train(config, dry_run)
    except TrainingStopped as stopped:
        raise typer.Exit(stopped.exit_code) from None


@app.command(cls=Command)
def plan(
    recipe: Recipe,
    overrides: Overrides = None,
    steps_per_epoch: Annotated[
        int | None, typer.Option(min=1, help="micro-batches in an epoch (default: counted in data.train_set)")
    ] = None,
    world_size: Annotated[int, typer.Option(min=1, help="devices that train together")] = 1,
    out: Annotated[Path, typer.Option(help="folder for plan.png and plan.json")] = Path("plan"),
) -> None:
    """Show learning rates, momentum, EMA decay, accumulation and stages before anything is trained.

    `memory=24` shows what the training needs of a card of 24 GiB, and the largest batch that fits.
    """
    from yoloflow.config.finetune import describe_finetune
    from yoloflow.config.reader import load_config
    from yoloflow.data.problems import problems_report
    from yoloflow.data.sets import NO_VALIDATION_SET
    from yoloflow.plan import count_steps_per_epoch, draw_plan, make_plan, read_planned_set

    changes = overrides or []
    cards = [text.removeprefix("memory=") for text in changes if text.startswith("memory=")]
    overrides = [text for text in changes if not text.startswith("memory=")]
    config = load_config(recipe, overrides)
    account: dict[str, object] = {}
    if cards:
        from yoloflow.memory_plan import describe_memory, plan_memory, read_memory

        gib = read_memory(cards[-1])
        needs = plan_memory(config)
        show("\n".join(describe_memory(needs, config, gib)))
        account["memory"] = [need.to_json(config.per_batch_size, gib) for need in needs]
        if steps_per_epoch is None and config.data.train_set is None:
            return
    if steps_per_epoch is None:
        index = read_planned_set(config)
        steps_per_epoch = count_steps_per_epoch(config, index, world_size)
        account["data_problems"] = {"train_set": problems_report(index)}
    planned = make_plan(config, steps_per_epoch, world_size)
    for line in describe_finetune(config, load_config(recipe, [*overrides, "finetune=false"]), as_list=True):
        show(line)
    show(planned.describe())
    data = config.data
    if config.run_eval and data.train_set is not None and data.val_set is None and data.val_fraction is None:
        show(NO_VALIDATION_SET)
    write_json(out / "plan.json", planned.to_json() | account)
    draw_plan(planned, out / "plan.png")
    show(f"written: {out / 'plan.json'}, {out / 'plan.png'}")


@app.command(cls=Command)
def recipes(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="print this one, resolved")] = None,
    overrides: Overrides = None,
) -> None:
    """List the recipes, or print one with all its settings."""
    if recipe is not None:
        from yoloflow.config.reader import dump_config, load_config

        typer.echo(dump_config(load_config(recipe, overrides or [])), nl=False)
        return
    from yoloflow.config.recipes import list_recipes

    found = list_recipes()
    width = max(len(info.name) for info in found)
    for info in found:
        show(f"{info.name:{width}}  {info.summary}", hang=width + 2)
