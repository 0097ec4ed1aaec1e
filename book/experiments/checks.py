"""Checks of arguments, in one place and in one form of words: ``NAME must be …; got …``."""

from collections.abc import Collection, Mapping
from numbers import Integral, Real
from typing import Any

from book.constraints import check, is_finite, read_front_matter
from book.experiments.page.execution import check_execution_options


def check_parameters(chapter: str, values: Mapping[str, Any]) -> None:
    """Check a chapter's parameters against the table in its front matter, and the execution options.

    Parameters
    ----------
    chapter : str
        The name of ``book/chapters/<chapter>.md``.
    values : mapping
        Holds the parameters under their names, ``globals()`` in a chapter; other names are ignored.

    Raises
    ------
    ValueError
        Names the first parameter, or the environment variable, with a value that is not allowed.
    """
    constraints = read_front_matter(chapter)["parameters"]
    check(constraints, {name: values[name] for name in constraints})
    check_execution_options()


def check_that(condition: bool, name: str, what: str, value: object) -> None:
    """Raise ``ValueError("<name> must be <what>; got <value>")`` unless ``condition`` holds."""
    if not condition:
        raise ValueError(f"{name} must be {what}; got {value!r}")


def check_integer(name: str, value: object, minimum: int | None = None, maximum: int | None = None) -> None:
    """Check that ``value`` is an integer, no bool, from ``minimum`` to ``maximum``.

    Raises
    ------
    ValueError
        If it is not.
    """
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    limits = {"at least": minimum, "at most": maximum}
    if minimum is not None and maximum is not None:
        limits = {f"from {minimum} to": maximum}
    within = is_integer and (minimum is None or value >= minimum) and (maximum is None or value <= maximum)
    check_that(within, name, _in_words("an integer", limits), value)


def check_number(
    name: str,
    value: object,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    other: float | None = None,
) -> None:
    """Check that ``value`` is a finite number, no bool, within limits; ``above`` and ``below`` exclude the limit.

    ``other`` is one more number that is allowed, outside of the limits.

    Raises
    ------
    ValueError
        If it is not.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool) and is_finite(value)
    within = is_number and (
        (minimum is None or value >= minimum)
        and (above is None or value > above)
        and (maximum is None or value <= maximum)
        and (below is None or value < below)
    )
    limits = {"at least": minimum, "above": above, "at most": maximum, "below": below}
    words = _in_words("a finite number", limits) + ("" if other is None else f", or {other}")
    check_that(within or (is_number and value == other), name, words, value)


def check_choice(name: str, value: object, allowed: Collection[str]) -> None:
    """Check that ``value`` is one of the ``allowed`` texts.

    Raises
    ------
    ValueError
        If it is not.
    """
    known = isinstance(value, str) and value in allowed
    check_that(known, name, f"one of {', '.join(allowed)}", value)


def _in_words(kind: str, limits: Mapping[str, float | None]) -> str:
    parts = [f"{words} {limit}" for words, limit in limits.items() if limit is not None]
    return " ".join([kind, " and ".join(parts)]).strip()
