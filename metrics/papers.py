"""Figures that papers, their READMEs and their logs state, to put beside one's own (papers.json)."""

import json
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from utils.errors import UserError
from utils.registry import fold


def published_rows(dataset: str, model: str | None = None) -> list[dict[str, Any]]:
    """The published rows of a data set, of all models or of one; empty where nothing is published.

    Names are compared without case, '-' and '_'. A row has

    dataset, model
    group:  "all", or a named part of the data set such as "SNR<=3"
    figures, those that the source states: pd_percent in 0..100; fa (false pixels / pixels), auc, iou, niou,
            precision, recall, f1 and, of boxes, ap50, published_precision, published_recall, published_f1 and
            curve_best_f1 (see `metrics.average_precision.curve_figures`) in 0..1
    rule:   how it was scored: a text, and the metric and options for `create_metric`, which are None where
            this project lacks the rule or the source does not state its options
    source: where the figures stand
    own_data: where the source tested on other sequences than the published list that ships with the project
    note:   what limits a comparison, if anything
    """
    papers = read_papers()
    return [
        {**row, "rule": papers["rules"][row["rule"]], "source": papers["sources"][row["source"]]}
        for row in papers["rows"]
        if fold(row["dataset"]) == fold(dataset) and (model is None or fold(row["model"]) == fold(model))
    ]


def refuse_unpublished(dataset: str) -> NoReturn:
    """Raises UserError with the data sets that something is published on."""
    known = ", ".join(sorted({entry["dataset"] for entry in read_papers()["rows"]}))
    raise UserError(f"nothing is published on {dataset}; known: {known}")


def published_complexity(model: str) -> dict[str, Any]:
    """What the source states of a model's cost: kib (float32 parameters) and gmac_per_frame at `size`; or {}.

    DeepPro's README calls multiply-adds "FLOPs".
    """
    found = [entry for entry in read_papers()["complexity"] if fold(entry["model"]) == fold(model)]
    return found[0] if found else {}


@cache
def read_papers() -> dict[str, Any]:
    """The content of papers.json: rules and sources by key, the rows that name them, and the complexity."""
    return json.loads(Path(__file__).with_name("papers.json").read_text(encoding="utf-8"))
