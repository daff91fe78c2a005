"""Imports torch in two thirds of its time, and ends a process in none.

The system takes 0.2 s to load torch's library, while Python waits. Called through ctypes, which lets go of
Python's lock, a thread does that, and other packages are imported meanwhile.

A third of what Python then does is for compilers alone: which shapes operators give (on the device "meta",
too), and the export of programs. These come when they are asked for, or a private part of torch that is not
there yet, as by torch.compile.
"""

# ruff: noqa: F401
import atexit
import ctypes
import importlib.util
import os
import sys
import threading
from contextlib import suppress
from copy import copy
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

LATE = ("torch.export", "torch._meta_registrations")


class Late:
    """A finder of modules, as Python asks them: it imports the late ones before what may need them, and gives
    what has come with them."""

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if not name.startswith(("torch._", "torch.export")):
            return None
        sys.meta_path.remove(cls)
        for late in LATE:
            importlib.import_module(late)
        if name not in sys.modules:
            return None
        module = sys.modules[name]
        module.__spec__ = copy(module.__spec__)
        module.__spec__.loader = cls
        return module.__spec__

    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        pass


def load_library() -> None:
    with suppress(AttributeError, TypeError):  # no torch, or a system without dlopen
        libraries = Path(importlib.util.find_spec("torch").origin).parent / "lib"
        if not (libraries / "libtorch_cuda.so").exists():  # torch has those of GPUs found in its own way
            ctypes.CDLL(None).dlopen(bytes(libraries / "libtorch_cpu.so"), os.RTLD_LAZY)


def import_torch() -> None:
    """`import torch`, and other packages that take their time."""
    if "torch" in sys.modules:
        return
    # What has a library of its own would wait for torch's, so it comes first.
    import decimal
    import heapq
    import json
    import multiprocessing.connection
    import multiprocessing.sharedctypes
    import shutil
    import socket

    import numpy.random

    threading.Thread(target=load_library).start()
    import gymnasium.vector
    import tyro

    sys.modules |= {name: ModuleType(name) for name in LATE}
    import torch

    for name in LATE:
        del sys.modules[name]
        delattr(torch, name.removeprefix("torch."))
        torch._lazy_modules.add(name.removeprefix("torch."))  # which an attribute of torch may mean
    if hasattr(torch._C, "_set_generator_metaclass"):  # which they would do, and generators ask for
        torch._C._set_generator_metaclass(torch._opaque_base.OpaqueBaseMeta)
    sys.meta_path.insert(0, Late)


def leave(code: int) -> NoReturn:
    """sys.exit, without a tenth of a second in which Python and torch are taken to pieces."""
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):  # which may be closed
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
