"""Pickles that would run something when they are read, and other objects that are no weights."""

import cProfile
import functools
import importlib
import io
import operator
import os
import pickle
import runpy
import shutil
import subprocess
import timeit
import types
import webbrowser
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Reduced:
    """Pickled as the call of something."""

    def __init__(self, call: Callable, *args: Any, state: Any = None):
        self.call, self.args, self.state = call, args, state

    def __reduce__(self):
        return (self.call, self.args) if self.state is None else (self.call, self.args, self.state)


def gadgets(sentinel: Path) -> dict[str, Any]:
    """Objects by name; whatever is called writes the file `sentinel`."""
    shell, code = f"touch {sentinel}", f"open({str(sentinel)!r}, 'w').close()"
    nested = io.BytesIO()
    pickle.dump(Reduced(os.system, shell), nested)
    array = np.empty(2, dtype=object)
    array[0] = Reduced(os.system, shell)
    partial = functools.partial(os.system, shell)
    return {
        "os.system": Reduced(os.system, shell),
        "subprocess.Popen": Reduced(subprocess.Popen, ["touch", str(sentinel)]),
        "subprocess.run": Reduced(subprocess.run, ["touch", str(sentinel)]),
        "builtins.eval": Reduced(eval, code),
        "builtins.exec": Reduced(exec, code),
        "builtins.open": Reduced(open, str(sentinel), "w"),
        "builtins.getattr": Reduced(getattr, dict, "keys"),
        "builtins.__import__": Reduced(__import__, "antigravity"),
        "importlib": Reduced(importlib.import_module, "this"),
        "functools.partial": partial,
        "functools.partial called": Reduced(partial),
        "operator.methodcaller": Reduced(operator.methodcaller("touch"), sentinel),
        "operator.attrgetter": operator.attrgetter("__class__"),
        "pathlib": sentinel,
        "pathlib.touch": Reduced(Path.touch, sentinel),
        "shutil.copy": Reduced(shutil.copy, "/etc/hostname", str(sentinel)),
        "runpy": Reduced(runpy.run_path, str(sentinel)),
        "timeit": Reduced(timeit.timeit, code),
        "cProfile": Reduced(cProfile.run, code),
        "webbrowser": Reduced(webbrowser.open, f"file://{sentinel}"),
        "types.SimpleNamespace": types.SimpleNamespace(a=1),
        "torch.hub": Reduced(torch.hub.load, "owner/repository", "model"),
        "torch.load": Reduced(torch.load, str(sentinel)),
        "torch.jit.load": Reduced(torch.jit.load, str(sentinel)),
        "torch.save": Reduced(torch.save, 1, str(sentinel)),
        "torch.from_file": Reduced(torch.from_file, str(sentinel), True, 10),
        "torch.storage": Reduced(torch.storage._load_from_bytes, nested.getvalue()),
        "torch.nn.Module": torch.nn.Linear(2, 2),
        "numpy object array": array,
        "numpy.fromfile": Reduced(np.fromfile, "/etc/hostname"),
        "numpy.load": Reduced(np.load, str(sentinel)),
        "a class": OrderedDict,
        "a subclass's state": Reduced(OrderedDict, state={"__class__": Reduced}),
        "a function": os.getcwd,
        "a slice": slice(1, 2),
        "a huge tensor": Reduced(torch.empty, 10**13),
        "bytearray": Reduced(bytearray, 10**13),
    }
