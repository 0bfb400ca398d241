"""The device of a run, and what makes a CPU fast."""

import ctypes
import os
import platform
import re
from pathlib import Path

import torch

from utils.errors import UserError


def pick_device(name: str = "auto", tf32: bool = False, deterministic: bool = False) -> torch.device:
    """`auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:i`. Raises UserError for one that is missing.

    tf32:          let a GPU round the factors of its sums to 10 bits: faster, but logits change at the 1e-2
                   level
    deterministic: only algorithms that give the same bits in every run; where torch has none, it raises
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as cuBLAS wants it
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a check of torch's own code, not needed
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device takes auto, cpu, cuda or cuda:i, not {name!r}")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise UserError(
                f"--device {name}: this machine has {count} CUDA devices; use --device cpu or auto"
            )
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    else:
        keep_freed_memory()
    return device


def keep_freed_memory() -> None:
    """Let glibc reuse large freed blocks instead of returning them to the kernel.

    By default each tensor above 32 MB is mapped anew, and the page faults cost a third or more of a training
    step on a CPU. The numbers do not change. Other C libraries are left alone.
    """
    if platform.system() == "Linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        m_trim_threshold, m_mmap_max = -1, -4
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def processor_name() -> str:
    """The CPU's name, as the system tells it."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()
