"""What a chapter's parameters may be: the table in its front matter, checked, and said in words.

A constraint is a mapping. ``type`` is ``integer``, ``number``, ``text``, ``boolean``, ``list`` or ``mapping``;
the other fields narrow it. A limit (``minimum``, ``maximum``, ``above``, ``below``, ``length``, ``multiple_of``, …) is

- a number;
- an expression such as ``num_train // batch_size`` or ``num_labels[0]``: names of integer parameters, an item of a
  list of integers, integers, ``+``, ``-``, ``*``, ``//`` and parentheses;
- ``{by: NAME, values: {…}}``, which looks the limit up by the value of another parameter.

``or`` is one more number that is allowed, whatever the limits say. A list may have to be ``as_long_as`` another one and
to have a ``sum``, a mapping to have just these ``keys``. NaN and infinities are never allowed, a bool is no
number, and an integer does for a number.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import yaml

CHAPTERS = Path(__file__).parent / "chapters"
_KINDS = {
    "integer": "an integer",
    "number": "a finite number",
    "text": "a text",
    "boolean": "true or false",
    "list": "a list",
    "mapping": "a mapping",
}
_LIMITS = {
    "minimum": ("at least", lambda value, limit: value >= limit),
    "above": ("above", lambda value, limit: value > limit),
    "maximum": ("at most", lambda value, limit: value <= limit),
    "below": ("below", lambda value, limit: value < limit),
}
_LENGTHS = ("length", "min_length", "max_length")
_COMMON = ("type", "choices", "optional")
_NUMERIC = (*_COMMON, *_LIMITS, "multiple_of", "or")
_FIELDS: dict[str, tuple[str, ...]] = {
    "integer": _NUMERIC,
    "number": _NUMERIC,
    "text": _COMMON,
    "boolean": _COMMON,
    "list": (*_COMMON, "items", *_LENGTHS, "as_long_as", "first", "last", "increasing", "unique", "sum"),
    "mapping": (*_COMMON, "items", "keys"),
}
_SUM_TOLERANCE = 1e-6
"""As `book.experiments.statistics.information` has it for probabilities."""
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def check_table(constraints: Mapping[str, Any]) -> None:
    """Check that a table can be understood, and that its limits name parameters that it has.

    Parameters
    ----------
    constraints : mapping
        Name to constraint, for all parameters of a chapter.

    Raises
    ------
    ValueError
        Names the parameter and the field that is mistaken, what it must be, and what it is.
    """
    for name, constraint in constraints.items():
        _check_constraint(name, constraint)
    # A limit is about the types of other parameters, which are known to be right from here on.
    for name, constraint in constraints.items():
        for field, limit in _limits_of(constraint):
            _check_names(f"{name}: {field}", limit, constraints)
        other = constraint.get("as_long_as")
        if other is not None and constraints.get(other, {}).get("type") != "list":
            raise ValueError(f"{name}: as_long_as must be the name of a list; got {other!r}")


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
        if name in values and not _fits_type(constraint, values[name]):
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
        words = _KINDS[constraint["type"]] + _limits_in_words(constraint, values)
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


def _fits_type(constraint: Mapping[str, Any], value: Any) -> bool:
    """Tell whether a value, and each item of a list, has the type that the constraint says."""
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
            return isinstance(value, dict) and all(_fits_type(constraint["items"], item) for item in value.values())
        case "list":
            return isinstance(value, list | tuple) and (
                "items" not in constraint
                or all(_fits_type(part, item) for part, item in _pairs(constraint["items"], value))
            )
    raise TypeError(f"{constraint['type']!r} is no type of a parameter; those are {', '.join(_KINDS)}")


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
    for field, (_, holds) in _LIMITS.items():
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
            return _value(_parsed(limit), values)
        except (LookupError, TypeError, ZeroDivisionError):
            return None
    return limit


@cache
def _parsed(text: str) -> ast.expr:
    """Parse an expression; ValueError if it is more than a limit may be."""
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # what the documentation of ast.parse names
        raise ValueError(f"{text!r} is no expression") from None
    for _ in _names(tree):
        pass  # _names raises for what is not allowed, wherever it stands
    return tree


def _names(node: ast.expr) -> Iterator[tuple[str, bool]]:
    """Yield the names in an expression, each with whether one of its items is meant; ValueError for anything else."""
    match node:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            yield from _names(left)
            yield from _names(right)
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=int() as place)) if type(place) is int:
            yield name, True
        case ast.Name(id=name):
            yield name, False
        case ast.Constant(value=int() as number) if type(number) is int:
            pass
        case _:
            raise ValueError(f"{ast.unparse(node)!r} is no name, no integer and none of + - * //")


def _value(node: ast.expr, values: Mapping[str, Any]) -> Integral:
    """Evaluate an expression; LookupError, TypeError or ZeroDivisionError if a parameter has no value for it."""
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_value(left, values), _value(right, values))
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=place)):
            found = values[name][place]
        case ast.Name(id=name):
            found = values[name]
        case _:
            found = node.value
    if not isinstance(found, Integral) or isinstance(found, bool):  # a text times a number would be a long text
        raise TypeError(f"{found!r} is no integer")
    return found


def _check_constraint(name: str, constraint: Any) -> None:
    """Check the fields of a constraint, each for itself."""
    if not isinstance(constraint, Mapping) or constraint.get("type") not in [*_KINDS]:
        raise ValueError(f"{name} must have a type, one of {', '.join(_KINDS)}; got {constraint!r}")
    fields = _FIELDS[constraint["type"]]
    if unknown := [field for field in constraint if field not in fields]:
        raise ValueError(f"{name} must have no fields but {', '.join(fields)}; got {unknown[0]!r}")
    for field, value in constraint.items():
        _check_field(f"{name}: {field}", field, value, constraint)
    if constraint["type"] == "mapping" and "items" not in constraint:
        raise ValueError(f"{name} must say what its items are; got {constraint!r}")
    if constraint.get("increasing") or "sum" in constraint:
        items = constraint.get("items")
        if not isinstance(items, Mapping) or items["type"] not in ("integer", "number") or items.get("optional"):
            raise ValueError(f"{name}: items must be numbers, which can increase and be summed; got {items!r}")


def _check_field(where: str, field: str, value: Any, constraint: Mapping[str, Any]) -> None:
    match field:
        case "choices":
            allowed_choices = isinstance(value, list) and value and all(_fits_type(constraint, one) for one in value)
            wanted = None if allowed_choices else f"a list of values of the type {constraint['type']}"
        case "optional" | "increasing" | "unique":
            wanted = None if isinstance(value, bool) else "true or false"
        case "items":
            if isinstance(value, list) and constraint["type"] == "list":
                for place, item in enumerate(value):
                    _check_constraint(f"{where}[{place}]", item)
            else:
                _check_constraint(where, value)
            wanted = None
        case "type":
            wanted = None
        case "or" | "sum":
            wanted = None if _is_number(value) else "a number"
        case "as_long_as":
            wanted = None if isinstance(value, str) else "the name of a list"
        case "keys":
            are_texts = isinstance(value, list) and all(isinstance(key, str) for key in value)
            wanted = None if are_texts else "a list of texts"
        case "multiple_of" | "length" | "min_length" | "max_length":
            least = 1 if field == "multiple_of" else 0
            is_integer = isinstance(value, int) and not isinstance(value, bool) and value >= least
            wanted = None if is_integer or isinstance(value, str) else f"an integer at least {least}, or an expression"
        case _:
            known = _is_number(value) or isinstance(value, str) or _is_looked_up(value)
            wanted = None if known else "a number, an expression, or {by: NAME, values: {VALUE: number}}"
    if wanted:
        raise ValueError(f"{where} must be {wanted}; got {value!r}")


def _is_looked_up(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and value.keys() == {"by", "values"}
        and isinstance(value["by"], str)
        and isinstance(value["values"], Mapping)
        and all(isinstance(key, str) and _is_number(number) for key, number in value["values"].items())
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and is_finite(value)


def _limits_of(constraint: Mapping[str, Any]) -> Iterator[tuple[str, str | Mapping[str, Any]]]:
    """Yield the limits that name parameters, those of the items included, each with its field."""
    for field in (*_LIMITS, *_LENGTHS, "multiple_of", "first", "last"):
        if isinstance(constraint.get(field), str | Mapping):
            yield field, constraint[field]
    items = constraint.get("items", [])
    for item in items if isinstance(items, list) else [items]:
        yield from _limits_of(item)


def _check_names(where: str, limit: str | Mapping[str, Any], constraints: Mapping[str, Any]) -> None:
    """Check that a limit is about parameters that there are, and that have numbers to compute with."""
    if isinstance(limit, Mapping):
        if constraints.get(limit["by"], {}).get("type") not in ("integer", "text"):
            raise ValueError(f"{where} must go by an integer or a text that is a parameter; got {limit['by']!r}")
        return
    try:
        names = list(_names(_parsed(limit)))
    except ValueError as error:
        raise ValueError(f"{where} must be an expression of parameters and integers; got {limit!r}: {error}") from None
    for name, is_item in names:
        constraint = constraints.get(name)
        if constraint is None:
            raise ValueError(f"{where} must name parameters of the chapter; got {name!r} in {limit!r}")
        if is_item:
            items = constraint.get("items") if constraint["type"] == "list" else None
            if not isinstance(items, Mapping) or items["type"] != "integer":
                raise ValueError(f"{where} must take an item of a list of integers; got {name!r} in {limit!r}")
        elif constraint["type"] != "integer":
            raise ValueError(f"{where} must be made of integers; got {name!r} in {limit!r}")


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
    words = _KINDS["mapping"]
    if "keys" in constraint:
        words = f"{words} of {', '.join(map(repr, constraint['keys']))}"
    return f"{words}, each {allowed(constraint['items'], values)}"


def _limits_in_words(constraint: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    limits = {field: _limit_in_words(constraint[field], values) for field in _LIMITS if field in constraint}
    if "minimum" in limits and "maximum" in limits:
        words = f" from {limits.pop('minimum')} to {limits.pop('maximum')}"
    else:
        words = ""
    rest = " and ".join(f"{_LIMITS[field][0]} {limit}" for field, limit in limits.items())
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
