"""Result rows as aligned text, Markdown or CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from utils.errors import UserError


def format_table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str] | None = None,
    style: str = "text",
    formats: Mapping[str, str] | None = None,
) -> str:
    """A table with a header line; every line ends in a line feed.

    rows:    each maps column names to values; a column that a row lacks, or None, stays empty
    columns: names in order; by default all, in the order in which the rows bring them
    style:   "text" (aligned), "markdown" (aligned too), or "csv" (numbers in full precision)
    formats: format specifications of columns for text and Markdown, such as {"Fa": ".2e"}; floats of other
             columns have ".4g"
    Raises UserError for another style.
    """
    if columns is None:
        columns = list(dict.fromkeys(name for row in rows for name in row))
    if style == "csv":
        return csv_table(rows, columns)
    if style not in ("text", "markdown"):
        raise UserError(f"there is no table style {style!r}; known: text, markdown, csv")

    formats = formats or {}
    grid = [list(columns)] + [[show(row.get(name), formats.get(name)) for name in columns] for row in rows]
    right = [all(isinstance(row.get(name), Real | None) for row in rows) for name in columns]
    return markdown_table(grid, right) if style == "markdown" else text_table(grid, right)


def show(value: Any, spec: str | None) -> str:
    """One value as text."""
    if value is None:
        return ""
    if spec is None:
        spec = ".4g" if isinstance(value, Real) and not isinstance(value, Integral) else ""
    return format(value, spec)


def text_table(grid: list[list[str]], right: list[bool]) -> str:
    """Columns two blanks apart; those marked `right` are flush right."""
    return "".join("  ".join(line).rstrip() + "\n" for line in padded(grid, right))


def markdown_table(grid: list[list[str]], right: list[bool]) -> str:
    """A GitHub-flavoured Markdown table, aligned for the reader of the source too."""
    header, *body = padded([[cell.replace("|", "\\|") for cell in line] for line in grid], right, least=3)
    rule = [
        "-" * (len(cell) - 1) + (":" if is_right else "-")
        for cell, is_right in zip(header, right, strict=True)
    ]
    return "".join("| " + " | ".join(line) + " |\n" for line in (header, rule, *body))


def padded(grid: list[list[str]], right: list[bool], least: int = 0) -> list[list[str]]:
    """The cells of a grid, each as wide as its column's widest and no narrower than `least`."""
    widths = [max(least, *map(len, column)) for column in zip(*grid, strict=True)]
    align = [str.rjust if is_right else str.ljust for is_right in right]
    return [[pad(cell, width) for pad, cell, width in zip(align, line, widths, strict=True)] for line in grid]


def csv_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Comma-separated values, quoted where they need it."""
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
