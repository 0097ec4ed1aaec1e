"""What a chapter's parameters may be: values checked against the table in its front matter, which is said in words.

A constraint is a mapping. ``type`` is ``integer``, ``number``, ``text``, ``boolean``, ``list`` or ``mapping``;
the other fields narrow it. A limit (``minimum``, ``maximum``, ``above``, ``below``, ``length``, ``multiple_of``, …) is

- a number;
- an expression of other parameters such as ``num_train // batch_size``, see `book.expressions`;
- ``{by: NAME, values: {…}}``, which looks the limit up by the value of another parameter.

``or`` is one more number that is allowed, whatever the limits say. A list may have to be ``as_long_as`` another one and
to have a ``sum``, a mapping to have just these ``keys``. NaN and infinities are never allowed, a bool is no
number, and an integer does for a number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import yaml

from book import expressions

CHAPTERS = Path(__file__).parent / "chapters"
KINDS = {
    "integer": "an integer",
    "number": "a finite number",
    "text": "a text",
    "boolean": "true or false",
    "list": "a list",
    "mapping": "a mapping",
}
LIMITS = {
    "minimum": ("at least", lambda value, limit: value >= limit),
    "above": ("above", lambda value, limit: value > limit),
    "maximum": ("at most", lambda value, limit: value <= limit),
    "below": ("below", lambda value, limit: value < limit),
}
_SUM_TOLERANCE = 1e-6
"""As `book.experiments.statistics.information` has it for probabilities."""


def check(constraints: Mapping[str, Mapping[str, Any]], values: Mapping[str, Any]) -> None:
    """Check parameters against their constraints, in the order of the constraints.

    Parameters
    ----------
    constraints : mapping
        Name to constraint, for each parameter that is checked.
    values : mapping
        Name to value, for all parameters: a limit may name any of them.

    Raises
    ------
    ValueError
        Of the form "NAME must be …; got …", for the first parameter that is not allowed.
    """
    # First each for itself, so that a relation compares only values that have their own types.
    for name, constraint in constraints.items():
        if name in values and not fits_type(constraint, values[name]):
            raise ValueError(f"{name} must be {allowed(constraint, values)}; got {_shown(values[name])}")
    for name, constraint in constraints.items():
        if name in values and not _fits(constraint, values[name], values):
            raise ValueError(f"{name} must be {allowed(constraint, values)}; got {_shown(values[name])}")


def allowed(constraint: Mapping[str, Any], values: Mapping[str, Any] | None = None) -> str:
    """Say in words what a constraint allows.

    Parameters
    ----------
    constraint : mapping
        The constraint.
    values : mapping, optional
        The parameters; a limit that names one is then shown with its value, as in "num_epochs = 8".

    Returns
    -------
    str
        Such as "an integer from 1 to num_epochs".
    """
    values = values or {}
    if "choices" in constraint:
        words = _either([_shown(choice) for choice in constraint["choices"]])
    elif constraint["type"] == "list":
        words = _list_in_words(constraint, values)
    elif constraint["type"] == "mapping":
        words = _mapping_in_words(constraint, values)
    else:
        words = KINDS[constraint["type"]] + _limits_in_words(constraint, values)
    return f"{words}, or None" if constraint.get("optional") else words


@cache
def read_front_matter(chapter: str) -> dict[str, Any]:
    """Return the entry ``book`` of a chapter's front matter.

    Parameters
    ----------
    chapter : str
        The name of ``book/chapters/<chapter>.md``.

    Returns
    -------
    dict
        ``needs``, ``quick`` and ``parameters``, as far as they are there; empty for a page without any.
    """
    text = (CHAPTERS / f"{chapter}.md").read_text(encoding="utf-8-sig")
    if not text.startswith("---\n"):
        return {}
    return (yaml.safe_load(text.split("\n---\n", 1)[0][4:]) or {}).get("book") or {}


def is_finite(value: Real) -> bool:
    """Tell whether a number is neither NaN nor infinite, nor an integer that no float can hold."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def fits_type(constraint: Mapping[str, Any], value: Any) -> bool:
    """Tell whether a value, and each item of a list, has the type that a constraint says.

    Parameters
    ----------
    constraint : mapping
        The constraint.
    value : object
        The value.

    Returns
    -------
    bool

    Raises
    ------
    TypeError
        If the constraint's type is none of `KINDS`.
    """
    if value is None:
        return bool(constraint.get("optional"))
    match constraint["type"]:
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, Integral) and not isinstance(value, bool)
        case "number":
            return isinstance(value, Real) and not isinstance(value, bool) and is_finite(value)
        case "text":
            return isinstance(value, str)
        case "mapping":
            return isinstance(value, dict) and all(fits_type(constraint["items"], item) for item in value.values())
        case "list":
            return isinstance(value, list | tuple) and (
                "items" not in constraint
                or all(fits_type(part, item) for part, item in _pairs(constraint["items"], value))
            )
    raise TypeError(f"{constraint['type']!r} is no type of a parameter; those are {', '.join(KINDS)}")


def _fits(constraint: Mapping[str, Any], value: Any, values: Mapping[str, Any]) -> bool:
    """Tell whether a value of the right type is within all limits."""
    if value is None:
        return True
    if "choices" in constraint and not any(value == c and type(value) is type(c) for c in constraint["choices"]):
        return False
    if constraint["type"] == "list":
        return _fits_list(constraint, value, values)
    if constraint["type"] == "mapping":
        has_keys = "keys" not in constraint or value.keys() == set(constraint["keys"])
        return has_keys and all(_fits(constraint["items"], item, values) for item in value.values())
    if "or" in constraint and value == constraint["or"]:
        return True
    for field, (_, holds) in LIMITS.items():
        if field in constraint:
            limit = _limit(constraint[field], values)
            if limit is not None and not holds(value, limit):
                return False
    factor = _limit(constraint.get("multiple_of"), values)
    return not factor or value % factor == 0


def _fits_list(constraint: Mapping[str, Any], value: list, values: Mapping[str, Any]) -> bool:
    length = _limit(constraint.get("length"), values)
    shortest, longest = (_limit(constraint.get(field), values) for field in ("min_length", "max_length"))
    other = values.get(constraint.get("as_long_as"))
    items = constraint.get("items")
    return (
        (length is None or len(value) == length)
        and (shortest is None or len(value) >= shortest)
        and (longest is None or len(value) <= longest)
        and (other is None or len(value) == len(other))
        and (not isinstance(items, list) or len(items) == len(value))
        and ("first" not in constraint or (len(value) > 0 and value[0] == _limit(constraint["first"], values)))
        and ("last" not in constraint or (len(value) > 0 and value[-1] == _limit(constraint["last"], values)))
        and (not constraint.get("increasing") or all(a < b for a, b in pairwise(value)))
        and (not constraint.get("unique") or all(item not in value[:place] for place, item in enumerate(value)))
        and (items is None or all(_fits(part, item, values) for part, item in _pairs(items, value)))
        and ("sum" not in constraint or abs(sum(value) - constraint["sum"]) <= _SUM_TOLERANCE)
    )


def _pairs(items: Any, value: list) -> list[tuple[Mapping[str, Any], Any]]:
    """Pair each item with its constraint: the one of its place, or the one of all."""
    return list(zip(items, value, strict=False)) if isinstance(items, list) else [(items, item) for item in value]


def _limit(limit: Any, values: Mapping[str, Any]) -> Any:
    """Return the number that a limit stands for; None if a parameter that it names leaves it open.

    Such a parameter, an empty list or a divisor of zero, has a constraint of its own that refuses it.
    """
    if isinstance(limit, Mapping):
        by = values.get(limit["by"])
        # The parameter that a limit is looked up by has its own constraint, which says which values there are.
        # Keys are texts, because jupytext writes no other keys into a notebook's metadata.
        return limit["values"].get(str(by)) if isinstance(by, int | str) else None
    if isinstance(limit, str):
        try:
            return expressions.value(limit, values)
        except (LookupError, TypeError, ZeroDivisionError):
            return None
    return limit


def _list_in_words(constraint: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    items = constraint.get("items")
    how = [word for field, word in (("increasing", "increasing"), ("unique", "different")) if constraint.get(field)]
    if isinstance(items, list):
        words = "a list of " + " and ".join(allowed(item, values) for item in items)
    else:
        words = " ".join(["a list of", *([", ".join(how)] if how else []), "items"])
        if items is not None:
            words = f"{words}, each {allowed(items, values)}"
    parts = [words]
    if "length" in constraint and not isinstance(items, list):
        parts.append(f"{_limit_in_words(constraint['length'], values)} of them")
    if "min_length" in constraint:
        parts.append(f"at least {_limit_in_words(constraint['min_length'], values)} of them")
    if "max_length" in constraint:
        parts.append(f"at most {_limit_in_words(constraint['max_length'], values)} of them")
    if "as_long_as" in constraint:
        parts.append(f"as many as {constraint['as_long_as']}")
    if "first" in constraint:
        parts.append(f"the first {_limit_in_words(constraint['first'], values)}")
    if "last" in constraint:
        parts.append(f"the last {_limit_in_words(constraint['last'], values)}")
    if "sum" in constraint:
        parts.append(f"with the sum {constraint['sum']}")
    return ", ".join(parts)


def _mapping_in_words(constraint: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    words = KINDS["mapping"]
    if "keys" in constraint:
        words = f"{words} of {', '.join(map(repr, constraint['keys']))}"
    return f"{words}, each {allowed(constraint['items'], values)}"


def _limits_in_words(constraint: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    limits = {field: _limit_in_words(constraint[field], values) for field in LIMITS if field in constraint}
    if "minimum" in limits and "maximum" in limits:
        words = f" from {limits.pop('minimum')} to {limits.pop('maximum')}"
    else:
        words = ""
    rest = " and ".join(f"{LIMITS[field][0]} {limit}" for field, limit in limits.items())
    if rest:
        words += f" and {rest}" if words else f" {rest}"
    if "multiple_of" in constraint:
        words += f", a multiple of {_limit_in_words(constraint['multiple_of'], values)}"
    if "or" in constraint:
        words += f", or {constraint['or']}"
    return words


def _limit_in_words(limit: Any, values: Mapping[str, Any]) -> str:
    if isinstance(limit, Mapping):
        found = _limit(limit, values)
        if found is not None:
            return f"{found} (for {limit['by']} = {_shown(values[limit['by']])})"
        return f"a limit that depends on {limit['by']}"
    if isinstance(limit, str):
        found = _limit(limit, values)
        return limit if found is None else f"{limit} = {_shown(found)}"
    return str(limit)


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
