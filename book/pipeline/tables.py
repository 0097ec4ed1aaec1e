"""Check the table of constraints in a chapter's front matter: can `book.constraints` understand it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from book import expressions
from book.constraints import KINDS, LIMITS, fits_type, is_finite

_LENGTHS = ("length", "min_length", "max_length")
_COMMON = ("type", "choices", "optional")
_NUMERIC = (*_COMMON, *LIMITS, "multiple_of", "or")
_FIELDS: dict[str, tuple[str, ...]] = {
    "integer": _NUMERIC,
    "number": _NUMERIC,
    "text": _COMMON,
    "boolean": _COMMON,
    "list": (*_COMMON, "items", *_LENGTHS, "as_long_as", "first", "last", "increasing", "unique", "sum"),
    "mapping": (*_COMMON, "items", "keys"),
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


def _check_constraint(name: str, constraint: Any) -> None:
    """Check the fields of a constraint, each for itself."""
    if not isinstance(constraint, Mapping) or constraint.get("type") not in [*KINDS]:
        raise ValueError(f"{name} must have a type, one of {', '.join(KINDS)}; got {constraint!r}")
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
            allowed_choices = isinstance(value, list) and value and all(fits_type(constraint, one) for one in value)
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
    for field in (*LIMITS, *_LENGTHS, "multiple_of", "first", "last"):
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
        names = expressions.names(limit)
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
