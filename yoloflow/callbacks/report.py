"""The report of a finished training: diagnostics of its best weights, and a page about the run."""

from __future__ import annotations

import copy
import json
import logging

import torch
import torch.distributed as dist

from yoloflow.callbacks.base import BaseCallback, RunContext
from yoloflow.evaluation.run_diagnostics import diagnostics_of_run, read_sha256
from yoloflow.evaluation.test_function import EvaluationResult
from yoloflow.files import write_atomically
from yoloflow.report.page.document import render_page
from yoloflow.report.page.run_content import read_run
from yoloflow.run import file_names
from yoloflow.run.folder import find_weights
from yoloflow.structures import YoloflowError
from yoloflow.weights.files import load_weights

logger = logging.getLogger("yoloflow")


class ReportCallback(BaseCallback):
    """Writes `diagnostics.json` of the best weights and `report.html` when a training has finished.

    The training's own files are complete by then: what fails here is a warning.
    """

    def __init__(self) -> None:
        self._evaluated_epoch: int | None = None

    def on_evaluation(self, context: RunContext) -> None:
        """Notes the epoch of the newest evaluation."""
        self._evaluated_epoch = context.epoch + 1

    def on_train_end(self, context: RunContext) -> None:
        """Evaluates the best weights, if they are not the last evaluated ones, and writes both files."""
        try:
            result = self._evaluate_best(context)
            if context.ranks.is_main:
                self._write(context, result)
        # Whatever is odd about the files of the run: a finished training does not fail for its report.
        except (OSError, ValueError, TypeError, LookupError, RuntimeError) as error:
            logger.warning(
                "%s: the report is not written (%s: %s); the training is complete, "
                "`yoloflow report %s` tries again",
                context.run.path / file_names.REPORT,
                type(error).__name__,
                error,
                context.run.path,
            )

    def _evaluate_best(self, context: RunContext) -> EvaluationResult | None:
        """Returns the evaluation of the best weights, on all ranks; None where there are no such weights."""
        if context.test_fn is None or not context.best:
            return None
        if context.evaluation is not None and context.best["epoch"] == self._evaluated_epoch:
            return context.evaluation
        network = copy.deepcopy(context.evaluated_network())
        _load_on_all_ranks(network, context)
        return context.test_fn(network)

    @staticmethod
    def _write(context: RunContext, result: EvaluationResult | None) -> None:
        folder = context.run.path
        if result is not None:
            weights = find_weights(folder)
            content = diagnostics_of_run(result, weights, read_sha256(weights))
            write_atomically(folder / file_names.DIAGNOSTICS, json.dumps(content).encode())
        page = folder / file_names.REPORT
        write_atomically(page, render_page([read_run(folder)]).encode("utf-8", "replace"))
        logger.info("report    %s", page)


def _load_on_all_ranks(network: torch.nn.Module, context: RunContext) -> None:
    """Loads the best weights on the main rank, whose disk they lie on, and broadcasts them.

    Raises:
        YoloflowError: on all ranks, if the main rank cannot read them.
    """
    faults: list[str | None] = [None]
    if context.ranks.is_main:
        try:
            network.load_state_dict(load_weights(find_weights(context.run.path)))
        except (OSError, ValueError, RuntimeError) as error:
            faults = [f"the best weights cannot be used: {error}"]
    if context.ranks.world_size > 1:
        dist.broadcast_object_list(faults, src=0)
    if faults[0] is not None:
        raise YoloflowError(faults[0])
    if context.ranks.world_size > 1:
        for tensor in network.state_dict().values():
            dist.broadcast(tensor, src=0)
