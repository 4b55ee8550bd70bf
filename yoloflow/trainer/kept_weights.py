"""The weights files of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yoloflow.callbacks.base import RunContext
from yoloflow.weights.files import save_weights


class KeptWeights:
    """Writes the weights of a training, `best` and `last` and the best few beside them."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._kept: list[tuple[float, int]] = []

    def save(self, stem: str) -> None:
        """Writes `<stem>.safetensors` and, with an EMA, `<stem>_ema.safetensors` (main rank only)."""
        context = self._context
        if not context.ranks.is_main:
            return
        networks = {stem: context.train_step.network}
        if (ema := context.train_step.ema) is not None:
            networks[f"{stem}_ema"] = ema.network
        for name, network in networks.items():
            path = context.run.weights / f"{name}.safetensors"
            save_weights(path, network.state_dict(), context.weights_facts)

    def by_prefix(self, stem: str) -> dict[str, Path]:
        """Returns the files of `save` by the beginning of the names that their tensors have in a state."""
        folder = self._context.run.weights
        files = {"network.": folder / f"{stem}.safetensors"}
        if self._context.train_step.ema is not None:
            files["ema.network."] = folder / f"{stem}_ema.safetensors"
        return files

    def keep(self, score: float, top_k: int) -> None:
        """Keeps the weights of this epoch if they are among the best.

        Args:
            score: AP of the epoch.
            top_k: epochs to keep.
        """
        epoch = self._context.epoch + 1
        ranking = sorted([*self._kept, (score, epoch)], reverse=True)
        self._kept = ranking[:top_k]
        if (score, epoch) in self._kept:
            self.save(f"top-epoch{epoch:04d}")
        for _, dropped in ranking[top_k:]:
            if self._context.ranks.is_main:
                for path in self._context.run.weights.glob(f"top-epoch{dropped:04d}*.safetensors"):
                    path.unlink()

    def state_dict(self) -> dict[str, Any]:
        """Returns scores and epochs of the kept files."""
        return {"kept": self._kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self._kept = [(float(score), int(epoch)) for score, epoch in state["kept"]]
