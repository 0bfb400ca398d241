"""What every part of the project leans on; imports nothing from model, dataset, loss or metrics."""

import os

# Before anything imports OpenCV, which reads it once: what FFmpeg prints of damaged videos is said in notes.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
