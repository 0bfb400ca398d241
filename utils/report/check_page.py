"""The page of a check of a data set: what would change figures, what else was found, and the statistics."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from utils.report.table import format_table

WIDTH = 100
SHOWN = 3  # sequences per kind of finding
LISTED = 12  # sequences that have lines of their own in the statistics

Facts = Mapping[str, Any]


def check_page(facts: Facts) -> str:
    """The page as text, at most 100 columns wide.

    facts: the content of check.json, see `tools/check_dataset.py`
    """
    return "\n".join(
        [*verdict(facts), *findings_text(facts), *statistics_text(facts), *definitions(facts), ""]
    )


def heading(text: str) -> list[str]:
    return ["", text, "-" * len(text)]


def wrapped(text: str, first: str = "", rest: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=True,
        break_on_hyphens=False,
    )


def verdict(facts: Facts) -> Iterator[str]:
    """What was read, and whether anything would change a figure."""
    splits = facts["splits"]
    counts = [f"{found['frames']} {name} frames" for name, found in splits.items()]
    counts[-1] += f" read in {facts['seconds']:.0f} s"
    yield from wrapped(f"{facts['dataset']} in {facts['dataset_dir']}: {' and '.join(counts)}")
    changing = [f for f in facts["findings"] if f["changes_figures"]]
    kinds = len({f["kind"] for f in changing})
    if changing:
        plural = "s" * (len(changing) > 1)
        yield f"=> {len(changing)} finding{plural} of {kinds} kind{'s' * (kinds > 1)} would change figures."
    else:
        yield "=> Nothing was found that would change a figure."
    for note in facts["notes"]:
        yield from wrapped(f"note: {note}", rest="      ")


def findings_text(facts: Facts) -> Iterator[str]:
    """The findings by kind, a few examples of each."""
    for title, changing in (("These change figures", True), ("These do not", False)):
        chosen = [finding for finding in facts["findings"] if finding["changes_figures"] == changing]
        if chosen:
            yield from heading(title)
        for kind in dict.fromkeys(finding["kind"] for finding in chosen):
            of_kind = [finding for finding in chosen if finding["kind"] == kind]
            yield f"* {facts['kinds'][kind]['title']} ({len(of_kind)})"
            yield from examples(of_kind, f"{facts['dataset_dir']}/")
            if remedy := facts["kinds"][kind]["remedy"]:
                yield from wrapped(f"-> {remedy}", "    ", "       ")


def examples(findings: list[Mapping[str, Any]], root: str) -> Iterator[str]:
    """The first finding of each of a few sequences, with paths within the data set."""
    groups: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        text = finding["text"].replace(root, "")
        groups.setdefault((finding["split"], finding["sequence"]), []).append(text)
    for (split, _), texts in list(groups.items())[:SHOWN]:
        more = f" (and {len(texts) - 1} more there)" if len(texts) > 1 else ""
        yield from wrapped(f"{split}: {texts[0]}{more}", "    ", "        ")
    if len(groups) > SHOWN:
        rest = sum(map(len, list(groups.values())[SHOWN:]))
        yield f"    ... {rest} more in {len(groups) - SHOWN} other sequences, all in check.json"


# ---------------------------------------------------------------- statistics


def statistics_text(facts: Facts) -> Iterator[str]:
    """A table of both splits, and of their sequences where these are few."""
    splits = facts["splits"]
    yield from heading("Statistics")
    columns = {name: dict(split_lines(found, facts["recipes"])) for name, found in splits.items()}
    labels = dict.fromkeys(label for lines in columns.values() for label in lines)
    rows = [{"": label, **{name: lines.get(label) for name, lines in columns.items()}} for label in labels]
    yield from format_table(rows).splitlines()
    each = [(name, found) for name, of_split in splits.items() for found in of_split["each"]]
    if len(each) <= LISTED:
        yield ""
        yield from format_table([sequence_row(*entry) for entry in each]).splitlines()


def split_lines(found: Facts, recipes: Mapping[str, tuple[float, float]]) -> Iterator[tuple[str, str]]:
    """(label, text) of each line of the table."""
    published = found["published"] or {}

    def of_published(count: Any, key: str) -> str:
        return f"{count}" if published.get(key) is None else f"{count}, published {published[key]}"

    yield "sequences", of_published(found["sequences"], "sequences")
    yield "frames", of_published(found["frames"], "frames")
    if found["targets"] is not None:
        yield (
            "targets",
            of_published(found["targets"] if found["marked"] is None else found["marked"], "targets"),
        )
        yield "targets per frame", few(found["per frame"], "{1} x {0}")
        yield "frames without targets", f"{found['without targets']}"
        yield "area, pixels", spread(found["area"])
        yield "SNR", spread(found["snr"])
        for label, snr in found["subsets"].items():
            yield f"SNR of the subset {label}", spread(snr)
        yield "step to the next frame, pixels", spread(found["step"])
    yield "sizes", few(found["sizes"], "{0}" if len(found["sizes"]) == 1 else "{1} x {0}")
    if found["mean"] is None:
        return
    yield (
        "depth, range of gray values",
        f"{few(found['depths'], '{0}')}, {found['lowest']:.4g} to {found['highest']:.4g}",
    )
    yield "mean, std of gray values", f"{found['mean']:.1f}, {found['std']:.1f}"
    if found["constants"][0] is not None:
        yield "constants of the data set", "{:.1f}, {:.1f}".format(*found["constants"])
    for model, (mean, std) in recipes.items():
        yield f"constants of {model}'s recipe", f"{mean:.1f}, {std:.1f}"


def sequence_row(split: str, found: Facts) -> dict[str, Any]:
    published = found["published frames"]
    return {
        "split": split,
        "sequence": found["name"],
        "frames": found["frames"],
        "published": published,
        "size": few(found["sizes"], "{0}"),
        "mean": found["mean"] and f"{found['mean']:.0f}",
        "std": found["std"] and f"{found['std']:.0f}",
        "targets": found["targets"],
        "area": middle(found["area"]),
        "SNR": middle(found["snr"]),
        "step": middle(found["step"]),
    }


def few(counts: Mapping[str, int], form: str, shown: int = 3) -> str:
    """The most common values with their counts."""
    texts = [form.format(value, count) for value, count in list(counts.items())[:shown]]
    return ", ".join(texts) + f", {len(counts) - shown} others" * (len(counts) > shown)


def spread(quantiles: Mapping[str, float] | None) -> str:
    """Median and the range of nine tenths."""
    if not quantiles:
        return ""
    return f"{quantiles['median']:.3g} ({quantiles['5 %']:.3g} to {quantiles['95 %']:.3g})"


def middle(quantiles: Mapping[str, float] | None) -> str:
    return f"{quantiles['median']:.3g}" if quantiles else ""


def definitions(facts: Facts) -> Iterable[str]:
    """How the figures and the findings are defined."""
    yield ""
    for text in facts["definitions"]:
        yield from wrapped(text)
