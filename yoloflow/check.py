"""The doctor: everything about a recipe's data that can be known before training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from yoloflow.config.schema import Config
from yoloflow.data.problems import Policy, problems_report, repairs_of, summarise_problems
from yoloflow.data.sets import NO_VALIDATION_SET, read_sets
from yoloflow.data.statistics import describe_statistics, statistics
from yoloflow.data.threads import Progress
from yoloflow.structures import DatasetIndex, Problem, plural


@dataclass(frozen=True, slots=True)
class DataCheck:
    """The result of a check.

    Attributes:
        sets: the data sets as a training would use them, by their key in `data`.
        errors: problems that the policy does not allow: no training would start.
        figures: `statistics` of each set.
        lacks_val: a training would ask for a validation set, and there is none.
    """

    sets: dict[str, DatasetIndex]
    errors: list[Problem]
    figures: dict[str, dict[str, Any]]
    lacks_val: bool = False

    @property
    def can_train(self) -> bool:
        """Returns whether a training would start."""
        return not self.errors and not self.lacks_val

    def to_json(self) -> dict[str, Any]:
        """Returns all of it; every problem is listed."""
        report = {
            key: {**problems_report(index), "statistics": self.figures[key]}
            for key, index in self.sets.items()
        }
        return {"errors": [*map(str, self.errors), *[NO_VALIDATION_SET] * self.lacks_val], **report}

    def describe(self) -> str:
        """Returns the account of each set, its figures, and a verdict."""
        lines = []
        for key, index in self.sets.items():
            lines.append(f"data.{key} ({index.source})")
            found = [*summarise_problems(index), *describe_statistics(self.figures[key])]
            lines += [f"  {line}" for line in found]
        if self.errors or self.can_train:
            lines.append(self._verdict())
        return "\n".join([*lines, *[NO_VALIDATION_SET] * self.lacks_val])

    def _verdict(self) -> str:
        if not self.errors:
            return "no errors: a training can start"
        kinds = list(dict.fromkeys(problem.kind for problem in self.errors))
        count = plural(len(self.errors), "error")
        repairs = " ".join(f"data.problems.{kind}={' or '.join(repairs_of(kind))}" for kind in kinds)
        return f"{count} ({', '.join(kinds)}): no training starts; correct the data, or set {repairs}"


def check_data(config: Config, progress: Progress | None = None) -> DataCheck:
    """Read and decode all data of a recipe once, without stopping at errors.

    Args:
        config: of `load_config`.
        progress: told how many images of a set are decoded.

    Raises:
        YoloflowError: a source cannot be read at all, or nothing of it can be used.
    """
    has_val = config.data.val_set is not None
    sets = read_sets(
        config.data,
        config.img_size,
        with_val=has_val,
        decode=True,
        stop_at_errors=False,
        progress=progress,
        cache=False,
    )
    policy = Policy.of(config.data.problems)
    errors = [problem for index in sets.values() for problem in policy.errors(index.problems)]
    stride = min(config.network.stride)
    figures = {key: statistics(index, config.img_size, stride) for key, index in sets.items()}
    return DataCheck(sets, errors, figures, lacks_val=config.run_eval and "val_set" not in sets)
