"""Pictures of curves: Pd over Fa, and precision over recall."""

import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.files import write_atomically

FILES = {"roc": "roc_{protocol}_{targets}.png", "pr": "pr_{protocol}.png"}  # by the kind of curve
RING = {"marker": "o", "markersize": 9, "fillstyle": "none", "linestyle": "none"}  # around a point of a curve


def roc_picture(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    path: str | Path,
    title: str,
    points: Mapping[str, tuple[float, float]] | None = None,
    x: str = "Fa (false pixels / pixels)",
    y: str = "Pd (targets found / targets)",
) -> None:
    """Draw Pd over Fa, one curve per name, and write it to `path` as PNG.

    curves: (fa, pd) by name, one value per threshold
    points: (fa, pd) at the threshold 0.5 by the name of the curve, circled
    x, y:   what the axes are called
    The axis of Fa is logarithmic. Where a curve reaches Fa = 0, it is linear from 0 to the lowest decade.
    """
    figure = Figure(figsize=(7, 5), dpi=150, layout="constrained")
    axes = figure.subplots()
    points = points or {}
    for name, (fa, pd) in curves.items():
        (line,) = axes.plot(fa, pd, marker=".", linewidth=1.2, label=name)
        if name in points:
            axes.plot(*points[name], color=line.get_color(), **RING)
    if points:
        axes.plot([], [], color="black", label="threshold 0.5", **RING)
    scale_fa(axes, np.concatenate([fa for fa, _ in curves.values()]))
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    write_figure(figure, path)


def pr_picture(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    path: str | Path,
    title: str,
    points: Mapping[str, tuple[float, float]] | None = None,
    x: str = "recall (true boxes / targets)",
    y: str = "precision (true boxes / boxes)",
) -> None:
    """Draw precision over recall, one curve per name, and write it to `path` as PNG.

    curves: (recall, precision) by name; a curve ends at the last recall with a precision above 0
    points: (recall, precision) at score 0.5 by the name of the curve, circled
    x, y:   what the axes are called
    Dotted lines join points of equal F1.
    """
    points = points or {}
    figure = Figure(figsize=(7, 5.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for f1 in (0.5, 0.6, 0.7, 0.8, 0.9):
        recall = np.linspace(f1 / (2 - f1), 1)  # from where a precision of 1 gives this F1
        axes.plot(recall, f1 * recall / (2 * recall - f1), color="0.7", linewidth=0.8, linestyle=":")
        axes.text(1.01, f1 / (2 - f1), f"F1 {f1:g}", color="0.5", fontsize="x-small", va="center")
    for name, (recall, precision) in curves.items():
        stop = 1 + np.flatnonzero(precision).max(initial=-1)
        (line,) = axes.plot(recall[:stop], precision[:stop], linewidth=1.4, label=name)
        if name in points:
            axes.plot(*points[name], color=line.get_color(), **RING)
    if points:
        axes.plot([], [], color="black", label="score 0.5", **RING)
    axes.set(title=title, xlim=(0, 1), ylim=(0, 1.02), xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    write_figure(figure, path)


def curve_pictures(groups: Mapping[str, Any], lines: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """The curves of each group by the name of the picture that shows them, such as "roc_clean_PdFa.png".

    groups: by name, `utils.engine.score.Group`
    lines:  whole ones, for which it does not matter over what else was counted
    """
    pictures: dict[str, dict[str, Any]] = {}
    for line in lines:
        for name, group in groups.items():
            for kind, curve in group.curves(line).items():
                picture = FILES[kind].format(protocol=line.protocol, targets=line.targets)
                pictures.setdefault(picture, {})[name] = curve
    return pictures


def shared_curves(tests: Sequence[tuple[str, str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The pictures that show the curves of two or more tests, by model or by the source of its weights.

    tests: (model, source of its weights, curve of all sequences by the name of the picture)
    """
    times = Counter(model for model, _, _ in tests)
    pictures: dict[str, dict[str, Any]] = {}
    for model, source, curves in tests:
        for picture, curve in curves.items():
            pictures.setdefault(picture, {})[model if times[model] == 1 else source] = curve
    return {picture: curves for picture, curves in pictures.items() if len(curves) > 1}


def write_curves(path: Path, curves: Mapping[str, Any], title: str) -> None:
    """Draw curves of one kind, by name. Precision-recall curves are also written beside it, as CSV.

    path:   ends in a name that `curve_pictures` gives
    curves: `metrics.counting.Curve`
    """
    first = next(iter(curves.values()))
    pairs = {name: (curve.x, curve.y) for name, curve in curves.items()}
    points = {name: curve.point for name, curve in curves.items() if curve.point}
    if first.kind == "pr":
        pr_picture(pairs, path, title, points, first.x_label, first.y_label)
        write_pr_table(path.with_suffix(".csv"), pairs)
    else:
        roc_picture(pairs, path, title, points, first.x_label, first.y_label)


def write_pr_table(path: Path, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Write the points of precision-recall curves, which share their recalls, as CSV."""
    recall, _ = next(iter(pairs.values()))
    text = io.StringIO()
    table = np.column_stack([recall, *(precision for _, precision in pairs.values())])
    header = ",".join(["recall", *(f"precision of {name}" for name in pairs)])
    np.savetxt(text, table, "%.17g", delimiter=",", header=header, comments="")
    write_atomically(path, text.getvalue().encode())


def write_figure(figure: Figure, path: str | Path) -> None:
    """Write the figure as PNG, with the legend below its axes."""
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    png = io.BytesIO()
    figure.savefig(png, format="png")
    write_atomically(path, png.getvalue())


def scale_fa(axes: Axes, fa: np.ndarray) -> None:
    """A logarithmic axis, with a linear piece from 0 to the lowest decade if some Fa is 0."""
    lowest = 10.0 ** np.floor(np.log10(fa[fa > 0].min(initial=1)))
    if np.any(fa == 0):
        axes.set_xscale("symlog", linthresh=lowest, linscale=0.5)
        axes.set_xlim(left=-lowest / 5)
    else:
        axes.set_xscale("log")
