"""A callback of one's own: it writes the worst class of every evaluation to a file of the run folder.

python examples/custom_callback.py yolov8n data=my/data.yaml
"""

import sys

from yoloflow import BaseCallback, RunContext, load_config, train
from yoloflow.callbacks import CALLBACKS


class WorstClassCallback(BaseCallback):
    """Appends epoch, class and AP of the worst class to `worst.csv`."""

    def __init__(self, min_objects: int = 1) -> None:
        self.min_objects = min_objects

    def on_evaluation(self, context: RunContext) -> None:
        if context.evaluation is None or not context.ranks.is_main:
            return
        rows = [row for row in context.evaluation.coco.per_class if row.num_objects >= self.min_objects]
        worst = min(rows, key=lambda row: row.ap or 0.0)
        with (context.run.path / "worst.csv").open("a", encoding="utf-8") as file:
            file.write(f"{context.epoch + 1},{worst.name},{worst.ap}\n")


CALLBACKS["WorstClassCallback"] = WorstClassCallback

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    recipe, *settings = sys.argv[1:]
    # The row's further keys are the arguments of the class; a recipe may have the same row under `callback`.
    train(load_config(recipe, [*settings, "callback=[{name: WorstClassCallback, min_objects: 1}]"]))
