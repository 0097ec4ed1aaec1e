"""Tables that come out the same on the pages and in the report."""

import math
from collections.abc import Mapping
from numbers import Integral, Real

import pandas as pd
from IPython.display import Markdown
from tabulate import tabulate

from book.experiments.checks import check_that


def show_table(table: pd.DataFrame, formats: Mapping[str, str] | None = None, *, index: bool = False) -> Markdown:
    """Return a data frame as a Markdown table, which both HTML and LaTeX render.

    Columns of numbers are aligned to the right. By default floats get three decimals and integers a comma at
    every thousand. NaN is written out in a column of numbers, since it is a result there; elsewhere what is
    missing is a dash. Text may hold Markdown such as `$x$`; a "|" in it is escaped.

    Parameters
    ----------
    table : DataFrame
        One row a row; the columns' names are the head.
    formats : mapping of column names to format specifications, optional
        For instance `{"accuracy": ".1%"}`, as in Python's `format(value, ".1%")`; applied to numbers only.
    index : bool
        Whether to show the index as the first column, under its name.

    Returns
    -------
    Markdown
        For the end of a cell, or for `glue`.

    Raises
    ------
    ValueError
        If `formats` names a column that is not in the table.
    """
    formats = dict(formats or {})
    if index:
        table = table.reset_index(names=table.index.name or "")
    unknown = sorted(set(formats) - set(table.columns))
    check_that(not unknown, "formats", f"a mapping of columns of the table, {list(table.columns)}", unknown)
    columns, alignment = [], []
    for name, column in table.items():
        numeric = all(_is_number(value) for value in column)
        columns.append([_cell(value, formats.get(name), numeric) for value in column])
        alignment.append("right" if numeric else "left")
    text = tabulate(
        list(zip(*columns, strict=True)),
        headers=[_escape(str(name)) for name in table.columns],
        tablefmt="pipe",
        colalign=alignment,
        disable_numparse=True,
    )
    return Markdown(text)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _cell(value: object, specification: str | None, numeric: bool) -> str:
    """Write one value; `numeric` says whether its column holds numbers only."""
    if _is_number(value) and not math.isnan(value):
        return format(value, specification or ("," if isinstance(value, Integral) else ".3f"))
    if numeric:
        return "NaN"
    return "–" if pd.isna(value) else _escape(str(value))


def _escape(text: str) -> str:
    """Keep `text` in its cell: no unescaped "|", no line break."""
    return " ".join(text.replace("|", r"\|").split())
