"""`test.py --paper_table`: every published row, and what this machine measured below its model."""

import csv
import json
from pathlib import Path

import pytest

import test
from metrics.papers import published_rows
from metrics.protocols import table_figures
from utils.errors import run_command
from utils.report.rows import Table


def evaluation(folder: Path, weights: str, pd: float, split: str = "test") -> None:
    """As much of an eval.json as the table reads."""
    figures = {"pd": pd, "fa": 1e-6, "auc": 0.5, "iou": float("nan")}
    scores = [
        {"protocol": p, "targets_by": "ShootingRules", "rule": f"rule of {p}", "groups": {"all": figures}}
        for p in ("published", "clean")
    ]
    facts = {"model": folder.parent.name, "weights": weights, "split": split, "data": "published"}
    facts["scores"] = scores
    folder.mkdir(parents=True)
    (folder / "eval.json").write_text(json.dumps(facts).replace("NaN", "null"))


def run(*args) -> int:
    with pytest.raises(SystemExit) as end:
        run_command(lambda: test.main([str(a) for a in args]))
    return end.value.code


def test_published_and_own_rows_stand_together(tmp_path, capsys):
    runs = tmp_path / "NUDT-MIRSDT" / "DeepPro"
    evaluation(runs / "2026-01-01_10-00-00", "a.pth", 0.25)
    evaluation(runs / "2026-01-02_10-00-00", "a.pth", 0.75)
    evaluation(runs / "2026-01-02_11-00-00", "b.pth", 0.5)
    evaluation(runs / "2026-01-03_10-00-00", "a.pth", 0.1, split="train")
    evaluation(tmp_path / "NUDT-MIRSDT" / "TopHat" / "2026-01-01_10-00-00", "no parameters", 0.125)
    assert run("--paper_table", "nudt_mirsdt", "--log_dir", tmp_path) == 0
    said = capsys.readouterr().out
    (folder,) = (tmp_path / "tables").iterdir()
    with (folder / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    own = [r for r in rows if r["weights"].startswith("ours")]
    measured = {(r["model"], r["weights"], r["protocol"]): float(r["Pd %"]) for r in own}
    assert measured == {
        ("DeepPro", "ours: a.pth", "published"): 75,
        ("DeepPro", "ours: a.pth", "clean"): 75,
        ("DeepPro", "ours: b.pth", "published"): 50,
        ("DeepPro", "ours: b.pth", "clean"): 50,
        ("TopHat", "ours: no parameters", "published"): 12.5,
        ("TopHat", "ours: no parameters", "clean"): 12.5,
    }
    published = published_rows("NUDT-MIRSDT")
    assert len(rows) - len(own) == len(published)
    for entry in published:
        assert entry["source"] in said and entry["rule"]["text"] in said
    first_of = {r["model"]: index for index, r in reversed(list(enumerate(rows)))}
    of_deeppro = [r["model"] == "DeepPro" for r in rows]
    start = first_of["DeepPro"]
    assert all(of_deeppro[start : start + sum(of_deeppro)])
    assert "6 of these lines were measured here" in said


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda p, f: p.write_text("{"), "eval.json is no JSON with figures"),
        (lambda p, f: p.write_text("[]"), "eval.json holds [] instead of entries by name"),
        (lambda p, f: (p.unlink(), p.mkdir()), "eval.json, which should hold figures, is no file"),
        (lambda p, f: f.pop("split"), "eval.json has no entry 'split'"),
        (lambda p, f: f["scores"].append(3), "eval.json, scores[2] holds 3 instead of entries by name"),
        (
            lambda p, f: f["scores"][1].update(rule=None),
            "eval.json, scores[1] has rule = None instead of a text",
        ),
        (
            lambda p, f: f["scores"][0].update(groups={"all": 1}),
            "scores[0] has groups = a dict instead of figures",
        ),
        (
            lambda p, f: f["scores"][0]["groups"]["all"].update(pd="0.5"),
            "scores[0], group all, has pd = '0.5' instead of a number, or none",
        ),
        (lambda p, f: f.update(dataset="DAUB"), "eval.json is a test on DAUB"),
    ],
)
def test_an_evaluation_that_cannot_be_read_is_left_out_with_a_note(tmp_path, capsys, spoil, said):
    runs = tmp_path / "NUDT-MIRSDT" / "DeepPro"
    evaluation(runs / "2026-01-01_10-00-00", "a.pth", 0.25)
    evaluation(runs / "2026-01-02_10-00-00", "b.pth", 0.5)
    path = runs / "2026-01-02_10-00-00" / "eval.json"
    facts = json.loads(path.read_text())
    spoil(path, facts)
    if path.is_file() and len(path.read_text()) > 2:
        path.write_text(json.dumps(facts))
    assert run("--paper_table", "NUDT-MIRSDT", "--log_dir", tmp_path) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith(f"note: {path}") and said in captured.err
    assert (
        captured.err.endswith("; its figures are left out of the table\n") and captured.err.count("\n") == 1
    )
    assert "2 of these lines were measured here" in captured.out


def test_a_set_without_published_figures_is_refused(tmp_path, capsys):
    assert run("--paper_table", "Synthetic", "--log_dir", tmp_path) == 2
    assert "nothing is published on Synthetic; known: DAUB" in capsys.readouterr().err
    assert not (tmp_path / "tables").exists()


def test_coverage_is_read_back_and_parts_of_other_groups_are_left_out(tmp_path):
    """Of a group without masks, the line of pixels that a mixed set has beside it is not shown."""
    folder = tmp_path / "NUDT-MIRSDT/DeepPro/2026-01-01_10-00-00"
    evaluation(folder, "a.pth", 0.25)
    facts = json.loads((folder / "eval.json").read_text())
    counts = {"all": (2, 7), "points": (1, 3)}, {"all": (1, 4), "points": (0, 0)}
    facts["scores"] = [
        {
            "protocol": "clean",
            "targets_by": targets,
            "rule": "a rule",
            "groups": {g: {"sequences": n, "frames": f, "curve": None} for g, (n, f) in groups.items()},
        }
        for targets, groups in zip(("ShootingRules", ""), counts, strict=True)
    ]
    (folder / "eval.json").write_text(json.dumps(facts))
    rows = Table(table_figures()).evaluated(tmp_path, "NUDT-MIRSDT")
    assert [(r["targets by"], r["group"], r["sequences"], r["frames"]) for r in rows] == [
        ("ShootingRules", "all", 2, 7),
        ("ShootingRules", "points", 1, 3),
        ("", "all", 1, 4),
    ]
