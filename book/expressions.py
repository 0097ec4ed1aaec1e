"""Expressions of integer parameters, such as ``num_train // batch_size`` or ``num_labels[0]``.

They are made of names, an item of a list, integers, ``+``, ``-``, ``*``, ``//`` and parentheses, and of nothing else.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Iterator, Mapping
from functools import cache
from numbers import Integral
from typing import Any

_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def names(text: str) -> list[tuple[str, bool]]:
    """List the names in an expression.

    Parameters
    ----------
    text : str
        The expression.

    Returns
    -------
    list of (str, bool)
        Each name, with whether an item of it is meant, in the order of the text.

    Raises
    ------
    ValueError
        If the text is no expression, or has anything else in it.
    """
    return list(_walk(_parsed(text)))


def value(text: str, values: Mapping[str, Any]) -> Integral:
    """Compute an expression.

    Parameters
    ----------
    text : str
        The expression.
    values : mapping
        Name to value, for the names in it.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If the text is no expression, or has anything else in it.
    LookupError
        If a name, or an item of a list, is not there.
    TypeError
        If a value is no integer.
    ZeroDivisionError
        If a divisor is zero.
    """
    return _evaluate(_parsed(text), values)


@cache
def _parsed(text: str) -> ast.expr:
    """Parse an expression; ValueError if it is more than a limit may be."""
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # what the documentation of ast.parse names
        raise ValueError(f"{text!r} is no expression") from None
    for _ in _walk(tree):
        pass  # _walk raises for what is not allowed, wherever it stands
    return tree


def _walk(node: ast.expr) -> Iterator[tuple[str, bool]]:
    """Yield the names in an expression, each with whether one of its items is meant; ValueError for anything else."""
    match node:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            yield from _walk(left)
            yield from _walk(right)
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=int() as place)) if type(place) is int:
            yield name, True
        case ast.Name(id=name):
            yield name, False
        case ast.Constant(value=int() as number) if type(number) is int:
            pass
        case _:
            raise ValueError(f"{ast.unparse(node)!r} is no name, no integer and none of + - * //")


def _evaluate(node: ast.expr, values: Mapping[str, Any]) -> Integral:
    """Evaluate an expression; LookupError, TypeError or ZeroDivisionError if a parameter has no value for it."""
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_evaluate(left, values), _evaluate(right, values))
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=place)):
            found = values[name][place]
        case ast.Name(id=name):
            found = values[name]
        case _:
            found = node.value
    if not isinstance(found, Integral) or isinstance(found, bool):  # a text times a number would be a long text
        raise TypeError(f"{found!r} is no integer")
    return found
