"""Where frames come from: image files and TIFF pages, video files and cameras, images by a pipe."""

from dataset.sources.find import open_sources

__all__ = ["open_sources"]
