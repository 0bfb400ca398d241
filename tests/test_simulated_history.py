"""The four simulated frames before each sequence of NUDT-MIRSDT, which only DTUM's .mat files have."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recipes import recipe_of
from scipy.io import savemat

import test as test_command
import train
from dataset import create_dataset
from dataset.clips import TrainingClips
from dataset.prepare import prepared
from dataset.video import TestVideo
from utils.errors import UserError, run_command
from utils.recipe.resolve import resolve_recipe
from utils.recipe.schema import Recipe
from utils.registry import MODELS
from utils.task import TASKS

SPLITS = {"train": ("Sequence1", "Sequence2"), "test": ("Sequence47",)}
FRAMES, SIZE = 7, (18, 21)


def scene(kind: type = np.uint8, frames_of_a_file: int = 5) -> tuple[np.ndarray, list[np.ndarray]]:
    """(all frames of a sequence, the simulated ones first; what the .mat file of each real frame has)."""
    frames = np.random.default_rng(3).integers(0, 256, (FRAMES + 4, *SIZE)).astype(kind)
    if np.issubdtype(kind, np.floating):
        frames[:4] += kind(0.25)
    before = np.zeros((frames_of_a_file - 5, *SIZE), kind)  # the loader takes the last five
    return frames, [np.concatenate([before, frames[i : i + 5]]) for i in range(FRAMES)]


def nudt_mirsdt(folder: Path, mix: bool = True, images_first: bool = False, **options) -> Path:
    """A folder with NUDT-MIRSDT in the tree of DTUM, with .mat files or without."""
    frames, files = scene(**options)
    for split, names in SPLITS.items():
        (folder / "NUDT-MIRSDT").mkdir(exist_ok=True)
        (folder / "NUDT-MIRSDT" / f"{split}.txt").write_text("".join(f"{n}/Mix/00001.mat\n" for n in names))
        for name in names:
            for kind in ("images", "masks", *["Mix"] * mix):
                place = (kind, name) if images_first else (name, kind)
                place = folder.joinpath("NUDT-MIRSDT", *place)
                place.mkdir(parents=True)
                for n in range(FRAMES):
                    if kind == "Mix":
                        savemat(place / f"{n + 1:05d}.mat", {"Mix": files[n]})
                        continue
                    pixels = frames[4 + n].astype(np.uint8) if kind == "images" else np.eye(*SIZE) * 255
                    Image.fromarray(pixels.astype(np.uint8)).save(place / f"{n + 1:05d}.png")
    return folder


def dtum_recipe(dataset: str = "NUDT-MIRSDT", **typed) -> Recipe:
    return resolve_recipe(MODELS.entry("ResUNet-DTUM").facts["recipe"], dataset, typed)


def published_clip(mix: np.ndarray) -> np.ndarray:
    """The published item of a .mat file: its last five frames, normalised, then zeros up to 512x512."""
    clip = (mix[-5:].astype(np.float32) - np.float32(105.4025)) / np.float32(26.6452)
    height, width = clip.shape[1:]
    return np.pad(clip, ((0, 0), (0, 512 - height), (0, 512 - width)))


@pytest.mark.parametrize(
    "options",
    [{}, {"frames_of_a_file": 8}, {"kind": np.float64}, {"kind": np.float32}, {"images_first": True}],
    ids=str,
)
def test_clips_are_those_of_the_files(tmp_path, options):
    """In training and in test, of every frame, to the bit."""
    root, (_, files) = (
        nudt_mirsdt(tmp_path, **options),
        scene(**{k: v for k, v in options.items() if k != "images_first"}),
    )
    recipe = dtum_recipe()
    data = {split: create_dataset("NUDT-MIRSDT", root, split) for split in SPLITS}
    tested = {frames.first: clip[0] for frames, clip in TestVideo(data["test"][0], data["test"], recipe.view)}
    clips = TrainingClips(data["train"], recipe, TASKS["masks"])
    trained = {clips[0, i]["name"]: clips[0, i]["clip"] for i in range(len(clips))}
    assert len(trained) == 2 * FRAMES
    for n in range(FRAMES):
        for clip in (tested[n], *(trained[f"{name}[{n}]"] for name in SPLITS["train"])):
            assert np.array_equal(clip.numpy(), [published_clip(files[n])] * 3)


def test_other_models_and_recipes_repeat_the_first_frame(tmp_path):
    data = create_dataset("NUDT-MIRSDT", nudt_mirsdt(tmp_path), "test")
    video = TestVideo(data[0], data, dtum_recipe(history="repeat").view)
    assert [frames.places for frames, _ in video][:2] == [(0, 0, 0, 0, 0), (0, 0, 0, 0, 1)]
    for name in MODELS.names():
        if name != "ResUNet-DTUM":
            recipe = resolve_recipe(MODELS.entry(name).facts["recipe"], "NUDT-MIRSDT", {})
            assert recipe.view.history == "repeat"


def test_a_longer_history_repeats_the_first_simulated_frame(tmp_path):
    data = create_dataset("NUDT-MIRSDT", nudt_mirsdt(tmp_path), "test")
    video = TestVideo(data[0], data, recipe_of(frames=7, key=6, history="simulated").view)
    assert next(iter(video))[0].places == (-4, -4, -4, -3, -2, -1, 0)


def test_where_there_are_no_files_one_note_says_so(tmp_path, capsys):
    root = nudt_mirsdt(tmp_path, mix=False)
    data = [create_dataset("NUDT-MIRSDT", root, split) for split in SPLITS]
    prepared(dtum_recipe(), data)
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        f"note: 3 of 3 sequences of NUDT-MIRSDT in {root / 'NUDT-MIRSDT'} have no simulated frames "
        "(Mix/00001.mat, of DTUM's authors); their first frame is repeated instead, in 12 of 21 clips"
    )
    first = next(iter(TestVideo(data[1][0], data[1], dtum_recipe().view)))[0]
    assert first.places == (0, 0, 0, 0, 0)
    prepared(dtum_recipe(history="repeat"), data)
    assert capsys.readouterr().out == ""


def test_nothing_is_said_where_the_files_are_there(tmp_path, capsys):
    root = nudt_mirsdt(tmp_path)
    prepared(dtum_recipe(), [create_dataset("NUDT-MIRSDT", root, split) for split in SPLITS])
    assert capsys.readouterr().out == ""


def written(path: Path, **content) -> None:
    savemat(path, content)


MIX = np.zeros((5, *SIZE), np.uint8)
BROKEN = {
    "missing": (lambda path: path.unlink(), "are missing"),
    "another key": (lambda path: written(path, Mixed=MIX, other=1), "no variable Mix, but Mixed, other"),
    "few frames": (lambda path: written(path, Mix=MIX[:4]), r"Mix is 4x18x21, but .* wants 5 frames or more"),
    "another size": (lambda path: written(path, Mix=MIX[:, 1:]), "Mix is 5x17x21, but .*of 18x21"),
    "one frame": (lambda path: written(path, Mix=MIX[0]), "Mix is 18x21, but"),
    "text": (lambda path: written(path, Mix="frames"), "Mix is"),
    "complex": (lambda path: written(path, Mix=MIX + 1j), "Mix has values of type complex128"),
    "not finite": (
        lambda path: written(path, Mix=MIX / np.float64(0)),
        "Mix has values that are no gray values",
    ),
    "too large": (lambda path: written(path, Mix=MIX + 400.0), "Mix has values that are no gray values"),
    "no .mat file": (lambda path: path.write_bytes(b"nothing" * 100), "damaged or no .mat file"),
    "empty": (lambda path: path.write_bytes(b""), "damaged or no .mat file"),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:500]), "damaged or no .mat file"),
    "HDF5": (lambda path: path.write_bytes(hdf5_header()), "MATLAB 7.3.*save it as version 7"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "cannot read"),
}


def hdf5_header() -> bytes:
    """As MATLAB begins a file of version 7.3."""
    file = io.BytesIO()
    savemat(file, {"Mix": MIX})
    content = bytearray(file.getvalue())
    content[124:126] = b"\x00\x02"
    return bytes(content)


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize("fault", BROKEN)
def test_files_that_cannot_be_used_are_refused_before_anything_runs(tmp_path, fault):
    root = nudt_mirsdt(tmp_path)
    path = root / "NUDT-MIRSDT" / "Sequence2" / "Mix" / "00001.mat"
    spoil, message = BROKEN[fault]
    spoil(path)
    data = [create_dataset("NUDT-MIRSDT", root, split) for split in SPLITS]
    with pytest.raises(UserError, match=message) as raised:
        prepared(dtum_recipe(), data)
    assert str(path) in str(raised.value) and "--set history=repeat" in str(raised.value)
    prepared(dtum_recipe(history="repeat"), data)  # other recipes never open it


def test_frames_of_16_bit_are_refused(tmp_path):
    root = nudt_mirsdt(tmp_path)
    for path in (root / "NUDT-MIRSDT/Sequence47/images").iterdir():
        Image.fromarray(np.full(SIZE, 1000, np.uint16)).save(path)
    with pytest.raises(UserError, match="of 16 bit.*--set history=repeat"):
        prepared(dtum_recipe(), [create_dataset("NUDT-MIRSDT", root, "test")])


def test_an_augmentation_that_needs_all_targets_is_refused(tmp_path):
    data = create_dataset("NUDT-MIRSDT", nudt_mirsdt(tmp_path), "train")
    recipe = dtum_recipe(augment=("clones",))
    with pytest.raises(UserError, match="clones needs the targets of all frames.*simulated.*history=repeat"):
        TrainingClips(data, recipe, TASKS["masks"])


def test_the_commands_tell_and_use_them(tmp_path, capsys):
    """A training and a test of its checkpoint, without the files and with a damaged one."""
    root, log = nudt_mirsdt(tmp_path, mix=False), tmp_path / "log"
    common = ["--dataset_names", "NUDT-MIRSDT", "--dataset_dir", root, "--log_dir", log, "--device", "cpu"]
    begin = ["--model_names", "ResUNet-DTUM", "--epochs", 1, "--sample_rate", 0.2, "--num_workers", 0]
    begin = [*common, *begin, "--set", "canvas=None", "--set", "multiple=8"]
    train.main([str(word) for word in begin])
    assert "3 of 3 sequences" in capsys.readouterr().out
    (folder,) = (log / "NUDT-MIRSDT" / "ResUNet-DTUM").iterdir()
    tested = [*common, "--checkpoint", folder / "last.pth", "--protocol", "published", "--save_predictions"]
    test_command.main([str(word) for word in tested])
    assert "1 of 1 sequences" in capsys.readouterr().out
    (kept,) = (log / "NUDT-MIRSDT" / "ResUNet-DTUM").glob("*/predictions")

    test_command.main([str(w) for w in [*common, "--predictions", kept, "--protocol", "published"]])
    assert "simulated" not in capsys.readouterr().out

    for name in (*SPLITS["train"], *SPLITS["test"]):
        (root / "NUDT-MIRSDT" / name / "Mix").mkdir()
        (root / "NUDT-MIRSDT" / name / "Mix" / "00001.mat").write_bytes(b"none")
    for command, argv in ((train, begin), (test_command, tested)):
        with pytest.raises(SystemExit) as ended:
            run_command(lambda command=command, argv=argv: command.main([str(word) for word in argv]))
        assert ended.value.code == 2
        assert "damaged or no .mat file" in capsys.readouterr().err
