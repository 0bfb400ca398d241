"""The files of a test: of each model on each data set, and the table that all of one call share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.engine.score import Group
from utils.files import write_json
from utils.report.curves import curve_pictures, shared_curves, write_curves
from utils.report.rows import Row, Table, score_entries, with_footnotes
from utils.runlog import new_run_folder

KEPT = ("overlays", "predictions")  # folders of what was detected


@dataclass(frozen=True)
class Result:
    """What a test of one model gives to the common table."""

    dataset: str
    name: str
    source: str
    rows: list[Row]
    published: list[Row]
    curves: dict[str, Any]  # of all sequences, by the name of the picture


def write_evaluation(
    folder: Path,
    facts: dict[str, Any],
    groups: Mapping[str, Group],
    sequences: Mapping[str, Group],
    lines: Sequence[Any],
    table: Table,
    published: Sequence[dict[str, Any]],
) -> Result:
    """Write eval.json, the tables of groups and of sequences, and the curves; print what was measured.

    facts:     of the test: "model", "weights", "dataset", "data", "has_truth", ...; first in eval.json
    published: rows of metrics/papers.json on the model and data set
    Where no sequence has truth there are no tables and no curves, and it says what is there instead.
    """
    names = (facts["dataset"], facts["model"], facts["weights"])
    if not facts["has_truth"]:
        write_json(folder / "eval.json", {**facts, "scores": [], "published": []})
        print(f"{facts['model']} on {facts['dataset']}: no sequence has truth to score with; {kept(folder)}")
        return Result(*names, [], [], {})
    parts = [groups["all"].split(line) for line in lines]
    unscored = [name for name, found in sequences.items() if groups["all"].counts and not found.counts]
    scored = {name: found for name, found in sequences.items() if name not in unscored}
    measured, per_sequence = (table.measured(names, those, parts) for those in (groups, scored))
    rows = [table.published(entry, facts["data"]) for entry in published]
    table.write(folder / "table", measured + rows)
    table.write(folder / "sequences", per_sequence)
    pictures = curve_pictures(groups, lines)
    for name, curves in pictures.items():
        write_curves(folder / name, curves, f"{facts['model']} on {facts['dataset']}")
    scores = score_entries(groups, sequences, parts)
    write_json(folder / "eval.json", {**facts, "scores": scores, "published": rows})  # the last: all is there
    print(table.text(per_sequence, ("weights", "rule")), end="")
    if unscored:
        others = f" and {len(unscored) - 3} more" if len(unscored) > 3 else ""
        verb = "has" if len(unscored) == 1 else "have"
        names_of = ", ".join(unscored[:3]) + others
        print(f"{facts['model']} on {facts['dataset']}: {names_of} {verb} no truth to score with")
    for line in (line for split in parts for line in split):
        print(f"{facts['model']} on {facts['dataset']}, {line.protocol} protocol: {groups['all'].rule(line)}")
    all_curves = {name: curves["all"] for name, curves in pictures.items() if "all" in curves}
    return Result(*names, measured, rows, all_curves)


def kept(folder: Path) -> str:
    """Where what was detected is, as the end of a sentence."""
    places = [str(path) for name in KEPT if (path := folder / name).exists()]
    if places:
        return f"what was detected is in {' and '.join(places)}"
    return "--save_overlays and --save_predictions keep what was detected"


class Summary:
    """The table and the curves of all tests of one call, written anew after each of them.

    folder: below `log_dir`, made for the first test
    """

    def __init__(self, log_dir: Path, table: Table):
        self.log_dir, self.table = log_dir, table
        self.folder: Path | None = None
        self.results: list[Result] = []

    def add(self, result: Result) -> None:
        """Take in one more test; one without truth has no line."""
        if not result.rows:
            return
        self.folder = self.folder or new_run_folder(self.log_dir, "tables")
        self.results.append(result)
        self.table.write(self.folder / "table", self.rows())
        for dataset in dict.fromkeys(r.dataset for r in self.results):
            tests = [(r.name, r.source, r.curves) for r in self.results if r.dataset == dataset]
            for picture, curves in shared_curves(tests).items():
                write_curves(self.folder / f"{dataset}_{picture}", curves, dataset)

    def rows(self) -> list[Row]:
        """By data set: what was measured of each model, then what is published, once per model."""
        rows = []
        for dataset in dict.fromkeys(r.dataset for r in self.results):
            found = [r for r in self.results if r.dataset == dataset]
            rows += [row for r in found for row in r.rows]
            rows += [
                row
                for rows_of_model in {r.name: r.published for r in found}.values()
                for row in rows_of_model
            ]
        return rows

    def show(self) -> None:
        """Print the table, if there is one, and where it is."""
        if self.folder:
            print(self.table.text(self.rows(), ("rule",)), end="")
            print(f"in {self.folder}")


def write_paper_table(log_dir: Path, table: Table, published: Sequence[dict[str, Any]]) -> None:
    """Print and write the published rows of a data set, each model's own evaluations below them."""
    rows = [table.published(entry) for entry in published]
    own = table.evaluated(log_dir, published[0]["dataset"])
    models = dict.fromkeys(row["model"] for row in rows + own)
    rows = [row for model in models for row in rows + own if row["model"] == model]
    folder = new_run_folder(log_dir, "tables")
    table.write(folder / "table", rows)
    short, notes = with_footnotes(rows)
    print(table.text(short), end="")
    print("\n".join(notes))
    print(f"{len(own)} of these lines were measured here; in {folder}")
