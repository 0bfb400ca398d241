"""How the files of a sequence were listed before: by path objects, whose stems were taken anew."""

from dataset.layout import natural_key


def in_order(folder, names):
    """Paths of image files in natural order."""
    paths = sorted((folder / name for name in names), key=lambda path: natural_key(path.stem))
    for before, path in zip(paths, paths[1:], strict=False):
        assert before.stem != path.stem
    for path in paths:
        str(path)
    return tuple(paths)


def pair(frames, others):
    """For every frame the file of its stem."""
    named = {path.stem: path for path in others}
    assert named.keys() == {path.stem for path in frames}
    return tuple(named[path.stem] for path in frames)
