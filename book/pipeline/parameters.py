"""Parameters: what a profile or a command line overrides, checked before anything runs.

A chapter's parameters cell holds the values of the full profile, its front matter those of the quick profile
(``quick``) and what each may be (``parameters``, see `book.constraints`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import yaml

from book import constraints
from book.pipeline.build import Build
from book.pipeline.errors import BookError
from book.pipeline.project import Chapter, Project
from book.pipeline.tables import check_table

PROFILES = ("full", "quick")


def load_build(project: Project, profile: str) -> Build:
    """Return the build of a profile, with all parameters of all chapters checked.

    Raises
    ------
    BookError
        If there is no such profile, or a chapter has a parameter that is not allowed.
    """
    if profile not in PROFILES:
        raise BookError(f"--profile must be {' or '.join(PROFILES)}; got {profile!r}")
    overrides = {}
    for chapter in project.chapters:
        _check_table(chapter)
        check_parameters(chapter, {}, str(chapter.path))
        if profile == "quick":
            overrides[chapter.name] = check_parameters(chapter, chapter.quick, f"{chapter.path}, quick")
    return Build(project, profile, overrides)


def run_build(project: Project, chapter: Chapter, texts: Iterable[tuple[str, str]]) -> Build:
    """Return the build of one chapter with parameters of the reader's own, read and checked.

    A chapter that it needs takes the parameters that the front matter says are shared, so that both speak of the same
    experiment.

    Parameters
    ----------
    project : Project
        The checkout.
    chapter : Chapter
        The chapter.
    texts : iterable of (str, str)
        Names and values as on the command line.

    Raises
    ------
    BookError
        If a parameter does not exist, can't be read, or is not allowed, in the chapter or in one that it needs.
    """
    values = {name: _parsed(chapter, name, text) for name, text in texts}
    _check_table(chapter)
    overrides = {chapter.name: check_parameters(chapter, values, chapter.name)}
    for other in reversed(project.needs_of(chapter)):
        _check_table(other)
        readers = [one for one in map(project.chapter, overrides) if other.name in one.needs]
        shared = {
            name: overrides[one.name][name]
            for one in readers
            for name in one.shared[other.name]
            if name in overrides[one.name]
        }
        overrides[other.name] = check_parameters(other, shared, f"{other.name}, which {chapter.name} needs")
    return Build(project, "run", overrides, chapter)


def check_parameters(chapter: Chapter, values: dict[str, Any], where: str) -> dict[str, Any]:
    """Check a chapter's parameters, some of them overridden.

    Returns
    -------
    dict
        The values, written as the defaults are.

    Raises
    ------
    BookError
        If a parameter does not exist or is not allowed.
    """
    for name in values:
        _check_exists(chapter, name, where)
    try:
        constraints.check(chapter.constraints, chapter.parameters | values)
    except ValueError as error:
        raise BookError(f"{where}: {error}") from None
    # Written as the default is, so that 1 and 1.0 for the same parameter have one content key.
    return {
        name: float(value) if isinstance(chapter.parameters[name], float) and value is not None else value
        for name, value in values.items()
    }


def listing(chapter: Chapter) -> str:
    """List a chapter's parameters with their defaults and what is allowed, one a line."""
    lines = [
        f"  {name} = {default!r}: {constraints.allowed(chapter.constraints[name])}"
        if name in chapter.constraints
        else f"  {name} = {default!r}"
        for name, default in chapter.parameters.items()
    ]
    return "\n".join([f"the parameters of {chapter.name} are", *(lines or ["  none"])])


def _parsed(chapter: Chapter, name: str, text: str) -> Any:
    """Read a value from the command line: a Python literal, else YAML; for a text parameter the text itself."""
    _check_exists(chapter, name, "-p")
    constraint = chapter.constraints.get(name, {})
    if constraint.get("type") == "text" and not (constraint.get("optional") and text in ("None", "null")):
        return text
    # The five that the documentation of literal_eval names.
    with suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return ast.literal_eval(text)
    # What is neither is left a text, which the constraint then refuses.
    with suppress(Exception):  # PyYAML lets through whatever int(), a date or a missing key raise
        return yaml.safe_load(text)
    return text


def _check_exists(chapter: Chapter, name: str, where: str) -> None:
    if name not in chapter.parameters:
        raise BookError(f"{where}: {chapter.name} has no parameter '{name}'\n{listing(chapter)}")


def _check_table(chapter: Chapter) -> None:
    """Check that the table of constraints is about the parameters that there are, and can be understood."""
    for name in chapter.parameters:
        if name not in chapter.constraints:
            raise BookError(f"{chapter.path}: the front matter does not say what the parameter {name} may be")
    for name in chapter.constraints:
        if name not in chapter.parameters:
            raise BookError(f"{chapter.path}: the front matter says what {name} may be, which is no parameter")
    try:
        check_table(chapter.constraints)
    except ValueError as error:
        raise BookError(f"{chapter.path}: the constraint of {error}") from None
