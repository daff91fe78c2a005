"""Imports torch in two thirds of its time, for a program that trains.

The system takes 0.2 s to load torch's library, while Python waits. Called through ctypes, which lets go of
Python's lock, a thread does that, and other packages are imported meanwhile.

A third of what Python then does is for compilers: the export of programs, and what shapes operators give.
These come when they are asked for, or a private part of torch that is not there yet, as by torch.compile. But
tensors on the device "meta" need them, and do not ask: `import torch._meta_registrations` first.
"""

# ruff: noqa: F401
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
from typing import Any

LATE = ("torch.export", "torch._meta_registrations")
WITH_THEM = {"export", "_meta_registrations", "_decomp", "_refs", "_prims"}  # attributes of torch
PLUGINS = "TORCH_DEVICE_BACKEND_AUTOLOAD"  # 0 keeps torch from importing plugins


class Late:
    """A finder of modules, as Python asks them: it imports the late ones before what may need them. What is
    asked for may have come with them; Python would run it once more, if it were not given as it is."""

    done, spec = False, None

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if cls.done or not name.startswith(("torch._", "torch.export")):
            return None
        cls.done = True
        for late in LATE:
            importlib.import_module(late)
        if name not in sys.modules:
            return None
        module = sys.modules[name]
        cls.spec, module.__spec__ = module.__spec__, copy(module.__spec__)
        module.__spec__.loader = cls
        return module.__spec__

    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    @classmethod
    def exec_module(cls, module: ModuleType) -> None:
        module.__spec__ = cls.spec


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

    if "--profile" not in sys.argv:  # torch's profiler is to be loaded by the main thread, and complains
        threading.Thread(target=load_library).start()
    import gymnasium.vector
    import tyro

    if "torch" in sys.modules:
        return
    plugins = os.environ.get(PLUGINS)
    os.environ[PLUGINS] = "0"  # until all is there
    sys.modules |= {name: ModuleType(name) for name in LATE}
    try:
        import torch
    finally:
        for name in LATE:
            del sys.modules[name]
        del os.environ[PLUGINS]
    if plugins is not None:
        os.environ[PLUGINS] = plugins
    for name in LATE:
        delattr(torch, name.removeprefix("torch."))
    torch._lazy_modules.update(WITH_THEM)
    if hasattr(torch._C, "_set_generator_metaclass"):  # which they would do, and generators ask for
        torch._C._set_generator_metaclass(torch._opaque_base.OpaqueBaseMeta)
    sys.meta_path.insert(0, Late)
    if plugins in (None, "1"):
        torch._import_device_backends()
