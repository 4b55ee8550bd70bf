"""Weights & Biases: a run there for each run here."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from yoloflow.callbacks.tracker import TrackerCallback, import_service
from yoloflow.structures import YoloflowError

logger = logging.getLogger("yoloflow")

Mode = Literal["offline", "online", "disabled"]


class WandbCallback(TrackerCallback):
    """Writes `<run>/wandb`, which `wandb sync` uploads; with mode "online" it is uploaded at once."""

    def __init__(
        self, project: str | None = None, entity: str | None = None, mode: str | None = None
    ) -> None:
        """Checks that the package is installed and, for "online", that an account is known.

        Args:
            project: None takes the variable WANDB_PROJECT, else "yoloflow".
            entity: user or team; None takes the account's own.
            mode: "offline" sends nothing, "online", "disabled"; None takes WANDB_MODE, else "offline".

        Raises:
            YoloflowError: the package is not installed, there is no such mode, or no account is known.
        """
        super().__init__()
        wandb = import_service("wandb", "Weights & Biases")
        self.project = project or os.environ.get("WANDB_PROJECT") or "yoloflow"
        self.entity = entity
        mode = mode or os.environ.get("WANDB_MODE") or "offline"
        if mode not in get_args(Mode):
            raise YoloflowError(f"WandbCallback: mode={mode}: one of {', '.join(get_args(Mode))}")
        self._mode: Any = mode
        if mode == "online":
            try:
                wandb.login()
            except wandb.Error as error:
                raise YoloflowError(
                    f"WandbCallback: no account is known ({error}); run `wandb login`, or take the mode "
                    "offline (row's mode, WANDB_MODE) and upload later with `wandb sync`"
                ) from error
        self._run: Any = None

    def _open(self, run: Path, entry: str | None, settings: Mapping[str, Any]) -> str:
        import wandb

        try:
            self._run = wandb.init(
                project=self.project,
                entity=self.entity,
                name=run.name,
                dir=str(run),
                config=dict(settings),
                id=entry,
                resume="allow",
                mode=self._mode,
                # Its capture of the console would garble the progress line.
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.Error as error:
            raise YoloflowError(f"WandbCallback: {error}; check project, entity and the account") from error
        return str(self._run.id)

    def _log(self, scalars: Mapping[str, float], step: int) -> None:
        self._run.log(dict(scalars), step=step)

    def _attach(self, images: Sequence[Path], files: Sequence[Path]) -> None:
        import wandb

        self._run.log({f"plots/{path.stem}": wandb.Image(str(path)) for path in images})
        for path in files:
            # Under the run folder's name: Weights & Biases has a config.yaml of its own.
            self._run.save(str(path), base_path=str(path.parent.parent), policy="now")

    def _close(self, succeeded: bool) -> None:
        folder = Path(self._run.dir).parent
        self._run.finish(exit_code=0 if succeeded else 1)
        if self._mode == "offline":
            logger.info("Weights & Biases: %s; upload it with `wandb sync %s`", self.project, folder)
