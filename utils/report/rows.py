"""The tables of a test, and what eval.json keeps of it. Which figures there are, the metrics declare."""

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.engine.score import Group
from utils.entries import ENTRIES, LIST, WORD, Kind, check_entries, is_number
from utils.errors import UserError
from utils.files import read_json, write_atomically
from utils.report.table import format_table

NAMES = ("data set", "group", "model", "weights", "protocol", "targets by", "sequences", "frames")

AS_PUBLISHED = "published"  # what `dataset.published.standing` says of data as it was published
FIGURE = Kind("a number, or none", lambda value: value is None or is_number(value))
EVALUATION = {"model": WORD, "weights": WORD, "split": WORD, "scores": LIST}  # what is read of an eval.json
SCORED = {
    "protocol": WORD,
    "targets_by": Kind("a word, or an empty one", lambda value: type(value) is str),
    "rule": Kind("a text", lambda value: type(value) is str),
    "groups": Kind("figures by group", lambda v: ENTRIES.fits(v) and all(map(ENTRIES.fits, v.values()))),
}
REMEDY = "test again, or take the file away"

Row = dict[str, Any]


class Table:
    """Rows with one column per name and figure, and the rule at the end.

    figures: what the metrics declare, in the order of the columns: `metrics.protocols.table_figures()`
    """

    def __init__(self, figures: Sequence[Any]):
        self.figures = {figure.label: figure for figure in figures}
        self.columns = (*NAMES, *self.figures, "rule")
        self.formats = {label: figure.format for label, figure in self.figures.items()}

    def row(self, names: tuple[Any, ...], values: Mapping[str, Any], rule: str) -> Row:
        """One line of the table; what could not be scored stays empty.

        names:  what stands in the columns NAMES
        values: pd, fa, auc, iou, ap50, ..., all as fractions
        """
        numbers = {
            label: None if is_missing(values.get(f.name)) else values[f.name] * f.factor
            for label, f in self.figures.items()
        }
        return {**dict(zip(NAMES, names, strict=True)), **numbers, "rule": rule}

    def measured(
        self,
        names: tuple[str, str, str],
        groups: Mapping[str, Group],
        lines: Iterable[Sequence[Any]],
    ) -> list[Row]:
        """The rows of groups, or of single sequences.

        names: data set, model and weights
        lines: each as its parts of equal coverage, as from `utils.engine.score.Group.split` of all sequences.
               Of a group that has nothing of a part, only the other parts are shown.
        """
        dataset, model, weights = names
        rows = []
        for name, group in groups.items():
            for parts in lines:
                for part in [part for part in parts if group.coverage(part)[0]] or parts[:1]:
                    line = (part.protocol, part.targets, *group.coverage(part))
                    texts = (dataset, name, model, weights, *line)
                    rows.append(self.row(texts, group.figures(part), group.rule(part)))
        return rows

    def published(self, entry: dict[str, Any], data: str | None = None) -> Row:
        """A row of metrics/papers.json as a line of the same table.

        data: what `dataset.published.standing` says of the data beside whose figures the row shall stand. Of
              other data than the source's, the row says so in place of its figures. None: it stands alone
        """
        percents = {k: v for k, v in entry.items() if k.endswith("_percent") and v is not None}
        values = entry | {key.removesuffix("_percent"): value / 100 for key, value in percents.items()}
        own_data = f"on {entry['own_data']}" if entry.get("own_data") else ""
        notes = "; ".join(text for text in (own_data, entry.get("note")) if text)
        source = f"published: {entry['source']}{notes and f' ({notes})'}"
        if data == AS_PUBLISHED and own_data:
            data = f"other data: published {own_data}"
        if data not in (None, AS_PUBLISHED):
            values, source = {}, f"{data} ({source})"
        names = (entry["dataset"], entry["group"], entry["model"], source, "published")
        return self.row((*names, entry["rule"]["metric"] or "", None, None), values, entry["rule"]["text"])

    def evaluated(self, log_dir: Path, dataset: str) -> list[Row]:
        """What test.py has measured on a data set: the groups of the newest test of each model and weights.

        Tests lie in log_dir/<data set>/<model>/<time>/eval.json; those of training splits do not count.
        """
        newest: dict[tuple[str, str], dict[str, Any]] = {}
        for path in sorted(log_dir.glob(f"{dataset}/*/*/eval.json")):
            try:
                facts = self.read_evaluation(path, dataset)
            except UserError as error:  # one old file shall not take the table away
                print(f"note: {error}; its figures are left out of the table", file=sys.stderr)
                continue
            if facts["split"] == "test":
                newest[facts["model"], facts["weights"]] = facts
        rows = []
        for (model, weights), facts in newest.items():
            data = str(facts.get("data", "counts not recorded"))  # by older versions
            other = "" if data == AS_PUBLISHED else f" ({data})"
            for entry in facts["scores"]:
                line = (f"ours: {weights}{other}", entry["protocol"], entry["targets_by"])
                for group, found in entry["groups"].items():
                    counts = (found.get("sequences"), found.get("frames"))  # older files do not tell
                    if counts[0] != 0 or entry["targets_by"]:  # else a part of a line, not of this group
                        names = (dataset, group, model, *line, *counts)
                        rows.append(self.row(names, found, entry["rule"]))
        return rows

    def read_evaluation(self, path: Path, dataset: str) -> dict[str, Any]:
        """An eval.json.

        Raises UserError where it cannot be read, lacks what the table shows, or is of another data set.
        """
        facts = check_entries(read_json(path, "figures"), EVALUATION, path, REMEDY)
        if facts.get("dataset", dataset) != dataset:
            raise UserError(f"{path} is a test on {facts['dataset']}; {REMEDY}")
        for number, entry in enumerate(facts["scores"]):
            where = f"{path}, scores[{number}]"
            check_entries(entry, SCORED, where, REMEDY)
            for name, found in entry["groups"].items():
                kinds = {key: FIGURE for key in ("sequences", "frames") if key in found}
                kinds |= {figure.name: FIGURE for figure in self.figures.values() if figure.name in found}
                check_entries(found, kinds, f"{where}, group {name},", REMEDY)
        return facts

    def shown(self, rows: Iterable[Row], hidden: Collection[str] = ()) -> tuple[str, ...]:
        """The columns without the `hidden` ones and those in which no row has a figure."""
        rows = list(rows)
        return tuple(
            column
            for column in self.columns
            if column not in hidden
            and (column not in self.figures or any(row[column] is not None for row in rows))
        )

    def text(self, rows: Sequence[Row], hidden: Collection[str] = ()) -> str:
        """The rows as aligned text, without the `hidden` columns."""
        return format_table(rows, self.shown(rows, hidden), formats=self.formats)

    def write(self, path: Path, rows: Sequence[Row]) -> None:
        """Write <path>.md and, in full precision and with all columns, <path>.csv."""
        markdown = format_table(rows, self.shown(rows), "markdown", self.formats)
        write_atomically(path.with_suffix(".md"), markdown.encode())
        write_atomically(path.with_suffix(".csv"), format_table(rows, self.columns, "csv").encode())


def is_missing(value: Any) -> bool:
    """Whether there is no number: None or nan."""
    return value is None or value != value


def with_footnotes(rows: Iterable[Row]) -> tuple[list[Row], list[str]]:
    """The rows with numbers in place of their rules and sources, and the texts behind the numbers."""
    notes: list[str] = []

    def number(text: str) -> str:
        if text not in notes:
            notes.append(text)
        return f"[{notes.index(text) + 1}]"

    short = [{**r, "rule": number(r["rule"]), "weights": number(r["weights"])} for r in rows]
    return short, [f"[{i}] {text}" for i, text in enumerate(notes, 1)]


def score_entries(
    groups: Mapping[str, Group], sequences: Mapping[str, Group], lines: Iterable[Iterable[Any]]
) -> list[dict[str, Any]]:
    """The "scores" of eval.json: one entry per line of equal coverage, with all its figures and its curve.

    lines: as in `Table.measured`
    """

    def scores(parts: Mapping[str, Group], line: Any) -> dict[str, dict[str, Any]]:
        found = {}
        for name, group in parts.items():
            num_sequences, num_frames = group.coverage(line)
            curve = group.curves(line).get("roc")
            found[name] = {
                **group.figures(line),
                "sequences": num_sequences,
                "frames": num_frames,
                "curve": curve and curve.values,
            }
        return found

    return [
        {
            "protocol": line.protocol,
            "targets_by": line.targets,
            "rule": groups["all"].rule(line),
            "groups": scores(groups, line),
            "sequences": scores(sequences, line),
        }
        for parts in lines
        for line in parts
    ]
