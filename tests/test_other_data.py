"""Published figures stand beside measured ones only where the data is what the papers used."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

import test
from dataset import create_dataset
from dataset.published import differences, read_published, standing
from dataset.sequence import Published, Sequence, SequenceSet
from metrics.papers import published_rows, read_papers
from metrics.protocols import table_figures
from utils.registry import DATASETS
from utils.report.rows import Table


def sequences(**lengths: int) -> tuple[Sequence, ...]:
    return tuple(Sequence(name, tuple(map(Path, map(str, range(n))))) for name, n in lengths.items())


LISTED = Published({"A": 3, "B": 4, "C": 5})


def a_set(
    split: str = "test",
    published: Published | None = LISTED,
    mask_threshold: float | None = None,
    **lengths: int,
) -> SequenceSet:
    options = {} if mask_threshold is None else {"mask_threshold": mask_threshold}
    return SequenceSet("Set", Path("set"), split, sequences(**lengths), published=published, options=options)


def test_masks_read_by_another_rule_are_other_data():
    said = "other data: pixels of masks above 127 are targets"
    assert standing(a_set(mask_threshold=127, A=3, B=4, C=5)) == said


@pytest.mark.parametrize(
    "data, said",
    [
        (a_set(A=3, B=4, C=5), "published"),
        (a_set(c=5, b=4, a=3), "published"),  # in another order and case, as TSMSA writes the names
        (a_set(A=3), "other data: 1 of 3 sequences, 3 of 12 frames"),
        (a_set(A=3, B=4, C=4), "other data: 3 of 3 sequences, 11 of 12 frames"),
        (a_set(A=3, B=4, C=5, D=9), "other data: 3 of 3 sequences, 1 others, 12 of 12 frames"),
        (a_set("train", A=3, B=4, C=5), "other data: the train split"),
        (a_set(mask_threshold=0, A=3, B=4, C=5), "published"),
        (a_set(A=3, published=None), "other data: no published list to compare it with"),
        (a_set(A=7, B=1, published=Published({"A": None, "B": None})), "published"),
        (a_set(A=7, published=Published({"A": None, "B": None})), "other data: 1 of 2 sequences"),
    ],
)
def test_standing(data, said):
    assert standing(data) == said
    if data.split == "test" and data.published:
        assert (said == "published") == (not list(differences(data)))


def test_every_difference_is_told():
    found = [(d.sequence, d.text) for d in differences(a_set(A=3, B=9, D=1))]
    assert found == [
        ("B", "B has 9 frames, published are 4"),
        ("C", "the published sequence C is missing"),
        ("D", "the sequence D is not in the published list"),
    ]


SHIPPED = {  # sequences, frames and targets of the lists, as specifications and repositories state them
    "NUDT-MIRSDT": {"train": (80, 8000, None), "test": (20, 2000, 1729)},
    "DAUB": {"train": (10, 8982, 8982), "test": (7, 4795, 4795)},
    "ITSDT-15K": {"train": (40, 10000, 37686), "test": (20, 5000, 23151)},
    "IRDST": {"train": (42, 20398, 21038), "test": (43, 20258, 20763)},
    "IRDST-simulation": {"train": (250, 82892, None), "test": (66, 19185, None)},
    "MWIRSTD": {"train": (13, 990, None), "test": (1, 300, None)},
    "RGBT-Tiny": {"train": (45, None, None), "test": (15, None, None)},
    "SatVideoIRSDT": {"train": (1008, None, None), "test": (200, None, None)},
    "TSIRMT": {"train": (140, None, None), "test": (60, None, None)},
}
WITHOUT_LISTS = {"Folder", "IRSatVideo-LEO", "Synthetic"}


def listed_set(name: str, root: Path, split: str) -> SequenceSet:
    """The data set with one frame of every published sequence, in the order that its reader knows."""
    part = {"train": "train", "test": "val"}[split]
    shipped = {
        "NUDT-MIRSDT": (f"NUDT-MIRSDT/{split}_sequences.txt", "*/images/1.png", "*/masks/1.png"),
        "DAUB": (f"DAUB/uestc_{part}.csv", "images/*/0.bmp"),
        "ITSDT-15K": (f"ITSDT-15K/uestc_{part}.csv", "images/*/0.bmp"),
        "IRDST": (f"IRDST/real_uestc_{part}.csv", "images/*/0.bmp"),
        "IRDST-simulation": (f"{name}/simulation_{split}.csv", "images/*/1.bmp", "masks/*/1.bmp"),
        "MWIRSTD": (f"{name}/tsmsa_{split}.csv", "images/*/0.jpg", "masks/*/0.png"),
        "RGBT-Tiny": (
            f"{name}/deeppro_{split}_sequences.txt",
            f"{split}2017/*/01/0.png",
            "segmentations/*/0.png",
        ),
        "SatVideoIRSDT": (
            f"{name}/deeppro_{part}_sequences.txt",
            f"{part}/*/img/1.png",
            f"{part}/*/mask/1.png",
        ),
        "TSIRMT": (f"{name}/lmaformer_{part}_sequences.txt", "images/*/1.png", "masks/*/1.png"),
    }
    listed, *places = shipped[name]
    names = read_published(listed).frames
    for place in places:
        for sequence in names:
            path = root / place.replace("*", sequence)
            path.parent.mkdir(parents=True, exist_ok=True)
            if len(places) == 1:  # boxes are compared with the size of the frames
                Image.new("L", (8, 8)).save(path)
            else:
                path.touch()
    if len(places) == 1:  # lists of boxes
        lines = [f"{places[0].replace('*', sequence)} 1,2,5,6,0\n" for sequence in names]
        (root / f"coco_{part}_{name}.txt").write_text("".join(lines))
    return create_dataset(name, root, split)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", SHIPPED)
def test_readers_know_what_was_published(tmp_path, name, split):
    data = listed_set(name, tmp_path, split)
    counts = list(data.published.frames.values())
    frames = None if None in counts else sum(counts)
    assert (len(counts), frames, data.published.targets) == SHIPPED[name][split]
    missing = [d for d in differences(data) if "missing" in d.text or "not in the" in d.text]
    assert missing == []


def test_every_reader_is_named_above():
    noise = {"NUDT-MIRSDT-Noise"}  # as NUDT-MIRSDT, below
    toys = {
        name for name in DATASETS.names() if not DATASETS.entry(name).build.__module__.startswith("dataset.")
    }
    assert set(DATASETS.names()) - toys == set(SHIPPED) | WITHOUT_LISTS | noise


def test_home_made_noise_is_other_data(tmp_path):
    listed_set("NUDT-MIRSDT", tmp_path / "NUDT-MIRSDT", "test")
    noisy = tmp_path / "NUDT-MIRSDT-Noise" / "sigma8"
    shutil.copytree(tmp_path / "NUDT-MIRSDT", noisy)
    data = create_dataset("NUDT-MIRSDT-Noise", tmp_path, "test")
    assert data.published == create_dataset("NUDT-MIRSDT", tmp_path, "test").published
    (noisy / "noise.json").write_text("{}")
    data = create_dataset("NUDT-MIRSDT-Noise", tmp_path, "test")
    assert data.published is None and standing(data).startswith("other data")
    assert any("tools/add_noise.py" in note for note in data.notes)


# The rows


def entry_of(model: str) -> dict:
    (entry,) = (e for e in published_rows("NUDT-MIRSDT", model) if e["group"] == "all")
    return entry


def test_a_published_row_keeps_its_figures_beside_the_same_data_alone():
    table, entry = Table(table_figures()), entry_of("DeepPro")
    shown = {
        data: table.published(entry, data) for data in (None, "published", "other data: 3 of 20 sequences")
    }
    assert shown[None] == shown["published"]
    assert shown[None]["Pd %"] == pytest.approx(98.5)
    other = shown["other data: 3 of 20 sequences"]
    assert all(other[label] is None for label in table.figures)
    assert other["weights"].startswith("other data: 3 of 20 sequences (published: DeepPro (arXiv")
    assert {**other, **dict.fromkeys((*table.figures, "weights"))} == {
        **shown[None],
        **dict.fromkeys((*table.figures, "weights")),
    }


def test_rows_of_a_split_of_their_own_are_never_compared():
    table, entry = Table(table_figures()), entry_of("LMAFormer")
    assert table.published(entry)["Pd %"] == pytest.approx(99.68)
    beside = table.published(entry, "published")
    assert beside["Pd %"] is None
    assert beside["weights"].startswith("other data: published on a split of its own, 84 and 36 sequences")
    assert sum("own_data" in row for row in read_papers()["rows"]) == 2


# The commands


@pytest.fixture
def daub(tiny_data, tmp_path, monkeypatch):
    """DAUB with two short test sequences, as if they were all that was published."""
    source = create_dataset("Synthetic", tiny_data, "test")
    lines = []
    for number, sequence in enumerate(source):
        folder = tmp_path / "DAUB/images/test" / f"data{number}"
        folder.mkdir(parents=True)
        for frame, path in enumerate(sequence.images[:3]):
            shutil.copy(path, folder / f"{frame}.png")
            lines.append(f"images/test/data{number}/{frame}.png 1,2,9,10,0\n")
    (tmp_path / "DAUB/coco_val_DAUB.txt").write_text("".join(lines))
    published = Published({"test/data0": 3, "test/data1": 3}, 6)
    monkeypatch.setattr("dataset.uestc.read_published", lambda *_, **__: published)
    return tmp_path


def tables(folder: Path, capsys, *args) -> tuple[list[dict], dict]:
    """The rows of the common table of a test of TopHat, and its eval.json."""
    capsys.readouterr()
    test.main(["--model_names", "TopHat", "--dataset_names", "DAUB", "--dataset_dir", str(folder), *args])
    written = Path(capsys.readouterr().out.rstrip().rpartition("\nin ")[2])
    with (written / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    (path,) = written.parents[1].glob("DAUB/TopHat/*/eval.json")
    return rows, json.loads(path.read_text())


def test_a_test_says_other_data_where_a_sequence_lacks(daub, tmp_path, capsys, monkeypatch):
    row = {**published_rows("DAUB", "SSTNet")[0], "model": "TopHat"}
    monkeypatch.setattr("test.published_rows", lambda *_: [row])
    rows, facts = tables(daub, capsys, "--log_dir", str(tmp_path / "whole"))
    assert facts["data"] == "published"
    assert (rows[-1]["AP50 %"], rows[-1]["weights"][:9]) == ("95.59", "published")

    path = daub / "DAUB/coco_val_DAUB.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    rows, facts = tables(daub, capsys, "--log_dir", str(tmp_path / "part"))
    said = "other data: 1 of 2 sequences, 3 of 6 frames, 3 of 6 boxes"
    assert facts["data"] == said
    assert (rows[-1]["AP50 %"], rows[-1]["weights"].startswith(said)) == ("", True)
    assert facts["published"][0]["weights"].startswith(said) and facts["published"][0]["AP50 %"] is None
    assert any(r["AP50 %"] for r in rows)  # what was measured stays


@pytest.mark.parametrize(
    "data, mark",
    [
        ("published", ""),
        ("other data: 1 of 2 sequences", " (other data: 1 of 2 sequences)"),
        (None, " (counts not recorded)"),
    ],
)
def test_own_evaluations_on_other_data_are_marked_in_the_table_of_papers(tmp_path, data, mark):
    folder = tmp_path / "DAUB/STMENet/2026-01-01_10-00-00"
    folder.mkdir(parents=True)
    scores = [{"protocol": "clean", "targets_by": "", "rule": "a rule", "groups": {"all": {"iou": 0.5}}}]
    facts = {"model": "STMENet", "weights": "a.pth", "split": "test", "data": data, "scores": scores}
    facts = {key: value for key, value in facts.items() if value is not None}
    (folder / "eval.json").write_text(json.dumps(facts))
    (row,) = Table(table_figures()).evaluated(tmp_path, "DAUB")
    assert row["weights"] == f"ours: a.pth{mark}"


def test_a_part_of_a_set_is_other_data():
    data = a_set(A=3, B=4, C=5)
    assert standing(dataclasses.replace(data, sequences=data.sequences[1:])).startswith("other data: 2 of 3")
