"""Settings of the run folder."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from yoloflow.settings import Section, Word


class RunSettings(Section):
    """Settings of the run folder: its name, and whether a run is continued."""

    recipe: Word | None = Field(None, description="the recipe this was made from; the default of name")
    save_dir: str = Field("runs", description="folder of all runs")
    name: Word | None = Field(None, description="folder of this run (null: the recipe's name, numbered)")
    resume: Literal["never", "auto"] = Field(
        "never", description="auto continues the run `name` from its last good checkpoint"
    )

    @property
    def place(self) -> tuple[str, str | None, str, str]:
        """Folder of all runs, name, name by default and `resume`, as `choose_run` takes them."""
        return self.save_dir, self.name, self.recipe or "run", self.resume
