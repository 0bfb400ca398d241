"""Where frames come from: image files and TIFF pages, video files and cameras, images by a pipe."""

from dataset.sources.find import open_sources, tell_apart
from dataset.sources.images import SequenceSource

__all__ = ["SequenceSource", "open_sources", "tell_apart"]
