"""Where a run is computed: the device, and what makes a CPU fast. Nothing else knows of devices."""

import ctypes
import os
import platform
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from utils.errors import UserError
from utils.recipe.fields import setting, shown


@dataclass(frozen=True)
class RuntimeSettings:
    """Where and how a run is computed."""

    device: str = setting("auto", "auto, cpu, cuda or cuda:i", flag="device", can_change=True)
    tf32: bool = setting(False, "faster, coarser sums on a GPU", flag="tf32", can_change=True)
    deterministic: bool = setting(
        False, "the same bits in every run, on a GPU too; slower there", flag="deterministic", can_change=True
    )
    seed: int = setting(
        0, "seed of everything random", at_least=0, at_most=2**32 - 1, flag="seed", in_training=True
    )
    num_workers: int | None = setting(
        None,
        "clip-loading processes; None: half the cores, up to 4",
        at_least=0,
        at_most=256,
        flag="num_workers",
        can_change=True,
        in_training=True,
    )
    save_every: int = setting(
        200,
        "batches between saves of last.pth within an epoch",
        at_least=1,
        at_most=1_000_000,
        flag="save_every",
        can_change=True,
        in_training=True,
    )


@dataclass(frozen=True)
class Runtime:
    """The device and the precision of a run.

    dtype: what convolutions and matrix products are computed in; weights and losses are float32 throughout

    A later form counts processes and compiles: what asks for `is_main`, `prepare` and `place` stays.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32

    @classmethod
    def of(cls, settings: RuntimeSettings) -> "Runtime":
        """Raises UserError for a device that is not there."""
        return cls(pick_device(settings.device, settings.tf32, settings.deterministic))

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files."""
        return True

    @property
    def pins_memory(self) -> bool:
        """Whether loaded batches should lie where the device can fetch them."""
        return self.device.type == "cuda"

    @property
    def name(self) -> str:
        """The device as people call it."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"

    def prepare(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model on the device."""
        return model.to(self.device)

    def computing(self) -> AbstractContextManager:
        """What networks are computed in: their precision."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def widened(self, raw: Any) -> Any:
        """What a network gives, in at least float32: a sigmoid or a box in 16 bit would be too coarse."""
        if isinstance(raw, dict):
            return {name: self.widened(value) for name, value in raw.items()}
        if isinstance(raw, list):
            return [self.widened(value) for value in raw]
        return raw.to(torch.promote_types(raw.dtype, torch.float32))

    def place(self, value: Any) -> Any:
        """A tensor, or a list of them, on the device."""
        if isinstance(value, list):
            return [self.place(v) for v in value]
        return value.to(self.device, non_blocking=True)


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
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", name, re.ASCII):
        raise UserError(f"--device takes auto, cpu, cuda or cuda:i, not {shown(name)}")
    device = torch.device(name)
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
