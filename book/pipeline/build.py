"""A build: the project in one profile, with the folders that belong to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from book.pipeline.project import Chapter, Project

PUBLISHED = "results"


@dataclass(frozen=True)
class Build:
    """The project in one profile.

    Attributes
    ----------
    project : Project
        The checkout.
    profile : str
        ``full``, ``quick``, or ``run`` for a single chapter with parameters of the reader's own.
    overrides : dict
        Chapter name to the parameters that differ from the chapter's own cell.
    chapter : Chapter or None
        With the profile ``run``, the chapter that is run.
    published : frozenset of str
        With the profile ``run``, the needed chapters whose published results are used.
    """

    project: Project
    profile: str
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    chapter: Chapter | None = None
    published: frozenset[str] = frozenset()

    @property
    def root(self) -> Path:
        """The project's root."""
        return self.project.root

    @property
    def output(self) -> Path:
        """The folder of everything that this build makes, absolute."""
        return self.project.build / self.profile / (self.chapter.name if self.chapter else "")

    @property
    def results(self) -> Path:
        """The folder of the executed notebooks and their models, absolute; the full profile's is in git."""
        if self.profile == "full":
            return self.root / PUBLISHED
        return self.output if self.chapter else self.output / "results"

    @cached_property
    def chapters(self) -> list[Chapter]:
        """The chapters that the build executes, in the book's order."""
        if self.chapter is None:
            return self.project.executable
        return [*self.project.needs_of(self.chapter), self.chapter]

    def parameters(self, chapter: Chapter) -> dict[str, Any]:
        """Return the parameters of a chapter as they are in this build."""
        return chapter.parameters | self.overrides.get(chapter.name, {})

    def results_of(self, chapter: Chapter) -> Path:
        """Return the folder that a chapter's result is in or belongs in."""
        return self.root / PUBLISHED if chapter.name in self.published else self.results

    def result_of(self, chapter: Chapter) -> Path:
        """Return the path of a chapter's executed notebook."""
        return self.results_of(chapter) / f"{chapter.name}.ipynb"

    def models_of(self, chapter: Chapter) -> Path:
        """Return the folder of the files that a chapter saves for others."""
        return self.results_of(chapter) / "models" / chapter.name

    def is_published(self, chapter: Chapter) -> bool:
        """Tell whether a chapter's result is one that is published in git."""
        return self.results_of(chapter) == self.root / PUBLISHED
