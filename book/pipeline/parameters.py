"""Parameters: what a profile or a command line overrides, checked before anything runs."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from book.pipeline.project import ANYTHING, BookError, Chapter, Project, is_plain, read_yaml

PROFILES_FILE = Path("book", "pipeline", "profiles.yml")


@dataclass(frozen=True)
class Profile:
    """One way of running the book.

    Attributes
    ----------
    name : str
        ``full``, ``quick``, or ``run`` for a single chapter with parameters of the reader's own.
    output : pathlib.Path
        The folder of what is made, relative to the project's root.
    results : pathlib.Path
        The folder of the executed notebooks, relative to the project's root.
    overrides : dict
        Chapter name to parameter names and values.
    """

    name: str
    output: Path
    results: Path
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)

    def parameters(self, chapter: Chapter) -> dict[str, Any]:
        """Return the parameters of a chapter as they are in this profile."""
        return chapter.parameters | self.overrides.get(chapter.name, {})


def load_profile(project: Project, name: str) -> Profile:
    """Read a profile from ``profiles.yml`` and check it against the chapters.

    Raises
    ------
    BookError
        If there is no such profile, or it overrides a parameter that does not exist or has another type.
    """
    profiles = read_yaml(project.root / PROFILES_FILE)
    if name not in profiles:
        raise BookError(f"no profile '{name}'; the profiles are {', '.join(profiles)}")
    where = f"{PROFILES_FILE}, profile {name}"
    overrides = {
        chapter: check_overrides(project.chapter(chapter), _mapping(values, f"{where}, {chapter}"), where)
        for chapter, values in _mapping(profiles[name], where).items()
    }
    output = Path("_build", name)
    # The published results are those of the full profile; they are in git, outside of _build.
    results = Path("results") if name == "full" else output / "results"
    return Profile(name=name, output=output, results=results, overrides=overrides)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise BookError(f"{where}: names with values are wanted, not {value!r}")
    return value or {}


def run_profile(project: Project, chapter: Chapter, values: dict[str, Any]) -> Profile:
    """Make the profile of one chapter run with parameters of the reader's own.

    A chapter that it needs takes those of the parameters that it has too, so that both speak of the same
    experiment.
    """
    overrides = {chapter.name: check_overrides(chapter, values, chapter.name)}
    for other in project.needs_of(chapter):
        shared = {name: value for name, value in values.items() if name in other.parameters}
        overrides[other.name] = check_overrides(other, shared, f"{other.name}, which {chapter.name} needs")
    output = Path("_build", "run", chapter.name)
    return Profile(name="run", output=output, results=output, overrides=overrides)


def parse_value(text: str, default: Any) -> Any:
    """Read a value from the command line: a Python literal, else YAML; for a text parameter the text itself.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if isinstance(default, str):
        return text
    # The five that the documentation of literal_eval names.
    with suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return ast.literal_eval(text)
    try:
        return yaml.safe_load(text)
    except Exception as error:  # PyYAML lets through whatever int(), a date or a missing key raise.
        raise ValueError(text) from error


def read_overrides(chapter: Chapter, texts: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Read the parameters of a command line, and return them with the types that the chapter wants.

    Raises
    ------
    BookError
        If a parameter does not exist, or its text can't be read or has another type than the default.
    """
    values = {}
    for name, text in texts:
        default = _default(chapter, name, "-p")
        try:
            values[name] = parse_value(text, default)
        except ValueError:
            raise BookError(
                f"-p: {name} = {text} can't be read; {_wanted(chapter, default)}\n{_listing(chapter)}"
            ) from None
    return check_overrides(chapter, values, "-p")


def check_overrides(chapter: Chapter, values: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the values, of the parameters' types.

    Raises
    ------
    BookError
        If a parameter does not exist or its value has another type than the default.
    """
    checked = {}
    for name, value in values.items():
        default = _default(chapter, name, where)
        if not fits(value, default):
            raise BookError(
                f"{where}: {name} = {value!r} is {_kind(value)}; {_wanted(chapter, default)}\n{_listing(chapter)}"
            )
        # Written as the default is, so that 1 and 1.0 for the same parameter have one content key.
        checked[name] = float(value) if isinstance(default, float) else value
    return checked


def _default(chapter: Chapter, name: str, where: str) -> Any:
    if name not in chapter.parameters:
        raise BookError(f"{where}: {chapter.name} has no parameter '{name}'\n{_listing(chapter)}")
    return chapter.parameters[name]


def _wanted(chapter: Chapter, default: Any) -> str:
    kind = ANYTHING if default is None else _kind(default)
    return f"{chapter.name} wants {kind}, such as its default {default!r}"


def _listing(chapter: Chapter) -> str:
    lines = [f"  {name} = {default!r}" for name, default in chapter.parameters.items()]
    return "\n".join([f"the parameters of {chapter.name} are", *(lines or ["  none"])])


def fits(value: Any, default: Any) -> bool:
    """Tell whether a value has the type of a default.

    An integer does for a float, a truth value does for neither, anything that `is_plain` does for ``None``; each
    element of a list has to fit one of the default's elements.
    """
    if not is_plain(value):
        return False
    if default is None:
        return True
    if isinstance(value, bool) or isinstance(default, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    if isinstance(default, list | tuple):
        is_list = isinstance(value, list | tuple)
        return is_list and (not default or all(any(fits(item, other) for other in default) for item in value))
    return isinstance(value, type(default))


def _kind(value: Any) -> str:
    if isinstance(value, list | tuple) and value:
        return "a list of " + "/".join(sorted({type(item).__name__ for item in value}))
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a mapping",
        type(None): "nothing",
    }
    return names.get(type(value), type(value).__name__)
