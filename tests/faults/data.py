"""Data sets on disks that went wrong: images, lists of sequences, files of boxes and points.

A small valid set is written in a layout of a registered reader and damaged in one way. Three commands read
it: a test of TopHat, and the training clips of a mask and of a box detector. Held means that each ends on one
sentence that names what is wrong, or gives exactly what a perfect data set with the content that was meant
gives: figures, curves, frames and labels to the bit.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.campaign import Case, FaultClass, NotHeld
from tests.faults.layouts import all_layouts
from tests.faults.lists import LISTS
from tests.faults.mutations import REFUSED, SAME, Mutated, Mutation
from tests.faults.names import IMAGES
from tests.faults.observe import VIEWS, observe
from tests.faults.sets import Files, Layout, Scene, draw_scene, put
from tests.faults.truths import TRUTHS

Observed = dict[str, dict[str, Any]]


def scene_of(seed: int) -> Scene:
    """The same content in every layout."""
    return draw_scene(np.random.default_rng([seed, 7]))


def given_by(case: Case, layout: Layout, files: Files, name: str) -> Observed:
    """What each view gives of a data set."""
    return observe(case, layout.reader, put(files, case.folder / name), case.folder / f"{name}_log")


def original(case: Case, layout: Layout, files: Files) -> Observed:
    """What the undamaged data set gives; found once. A view needs truth of its kind, and takes it then."""

    def make(folder: Path) -> None:
        found = given_by(case, layout, files, "original")
        needed = {"test": True, "Toy": layout.masks, "ToyBoxes": layout.form != "points"}
        for view, what in found.items():
            if "refused" in what and needed[view]:
                raise NotHeld(f"{view} refuses a data set in order: {what['refused']}")
        (folder / "found.json").write_text(json.dumps(found))

    key = f"data_{all_layouts().index(layout)}"
    return json.loads((case.once(key, make) / "found.json").read_text())


PAIRS: dict[tuple[Mutation, ...], list[tuple[Layout, Mutation]]] = {}


def find_pairs(seed: int, mutations: tuple[Mutation, ...]) -> None:
    """The layouts, each with the damage that it can take."""
    scene = scene_of(seed)
    PAIRS[mutations] = [
        (layout, mutation)
        for layout in all_layouts()
        for mutation in mutations
        if mutation(np.random.default_rng(0), layout, scene)
    ]


def mutated(case: Case, mutations: tuple[Mutation, ...]) -> tuple[Layout, Scene, Mutated]:
    """The layout and the damage of this case: each pair of both comes up equally often."""
    scene = scene_of(case.seed)
    layout, mutation = case.chosen(PAIRS[mutations])
    found = mutation(case.draw, layout, scene)
    case.about = f"{layout.reader} ({layout.label}): {found.about}; {found.expects}"
    return layout, scene, found


def try_damage(case: Case, mutations: tuple[Mutation, ...]) -> None:
    """Damage a data set and judge what the three commands make of it."""
    layout, scene, damage = mutated(case, mutations)
    files = layout.files(scene)
    before = original(case, layout, files)
    root = put(damage.files, case.folder / "damaged")
    found = observe(case, layout.reader, root, case.folder / "log", damage.flags)
    allowed = [before]
    if damage.equals and any("refused" not in what for what in found.values()):
        wanted = [other for other in damage.equals if other is not files and other != files]
        allowed = [before] * (len(wanted) < len(damage.equals))
        allowed += [given_by(case, layout, other, f"meant{n}") for n, other in enumerate(wanted)]
    judge(case, damage, before, found, allowed)


def judge(case: Case, damage: Mutated, before: Observed, found: Observed, allowed: list[Observed]) -> None:
    """Raises NotHeld for a silent wrong figure or label, and for a refusal too many or too few."""
    refusals = {v: found[v]["refused"] for v in VIEWS if "refused" in found[v] and "given" in before[v]}
    for view, what in found.items():
        if "refused" in what and "refused" in before[view]:
            continue
        if "given" in what and not any(same(what, other[view]) for other in allowed):
            raise NotHeld(
                f"{view}: silently {'another figure' if view == 'test' else 'other clips or labels'}"
            )
    if damage.expects == SAME and refusals:
        raise NotHeld(f"refused though in order: {refusals}")
    if damage.expects == REFUSED and not refusals:
        raise NotHeld("accepted, though it must be refused")
    for view, sentence in refusals.items():
        named = (*damage.named, *[str(case.folder / "damaged")] * (damage.expects != REFUSED))
        if damage.named and not any(name in sentence for name in named):
            raise NotHeld(f"{view}: the sentence names none of {', '.join(damage.named)}: {sentence}")


def same(one: Any, other: Any) -> bool:
    return json.loads(json.dumps(one)) == json.loads(json.dumps(other))


def fault_class(name: str, text: str, mutations: tuple[Mutation, ...], **counts: int) -> FaultClass:
    return FaultClass(
        name,
        text,
        counts,
        lambda case: try_damage(case, mutations),
        lambda seed, _: find_pairs(seed, mutations),
    )


IMAGE_CLASS = fault_class(
    "images", "damaged, foreign, lost and misnamed images: refused, or the figures that were meant", IMAGES,
    full=500, short=150, ci=24,
)  # fmt: skip
LIST_CLASS = fault_class(
    "lists", "damaged lists of sequences: refused, or the figures that were meant", LISTS,
    full=200, short=60, ci=10,
)  # fmt: skip
TRUTH_CLASS = fault_class(
    "truths", "damaged and impossible boxes and points: refused, or the figures that were meant", TRUTHS,
    full=300, short=80, ci=16,
)  # fmt: skip
