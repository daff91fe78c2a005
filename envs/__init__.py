"""The environments: one small Python file each here, one C header each in ocean_c/.

`make(name, num_envs)` gives a Gymnasium vector environment. To add one, copy squared.py and
ocean_c/squared.h. A name with a colon, such as gym:CartPole-v1, is another package's: see foreign.py.
"""

import difflib
import importlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Union

if TYPE_CHECKING:
    from envs.foreign import ForeignEnv, Spec
    from envs.vector import VecEnv

NOT_ENVIRONMENTS = ("__init__", "vector", "render", "screens", "foreign")


def names() -> list[str]:
    """Names of all environments."""
    return sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem not in NOT_ENVIRONMENTS)


def spec(name: str) -> Union[ModuleType, "Spec"]:
    """The environment's Python file: config, observation_space, action_space, train, solved, fps.

    Raises ValueError, with the nearest names, if there is none of that name.
    """
    if ":" in name:
        from envs import foreign

        return foreign.spec(name)
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"unknown environment '{name}': {hint}there are {', '.join(names())}")
    module = importlib.import_module(f"envs.{name}")
    for part in ("config", "observation_space", "action_space", "train", "solved", "fps"):
        if not hasattr(module, part):
            raise ValueError(f"envs/{name}.py has no {part}; see envs/squared.py")
    return module


def make(
    name: str,
    num_envs: int,
    seed: int = 0,
    num_threads: int = 1,
    groups: int = 1,
    config: dict | None = None,
    **options,
) -> Union["VecEnv", "ForeignEnv"]:
    """A vector environment of `num_envs` copies, split into `groups`, stepped by `num_threads` threads.

    config        knobs of the environment that differ from its defaults
    options       `copy`, `pin_memory`: see VecEnv
    Raises ValueError or TypeError, naming the argument, for anything out of place; build.BuildError if the
    environment cannot be compiled.
    """
    if ":" in name:
        from envs.foreign import ForeignEnv as VecEnv
    else:
        from envs.vector import VecEnv

    return VecEnv(name, num_envs, seed, num_threads, groups, config, **options)


def resolve(name: str, config: dict | None = None) -> tuple[dict, int]:
    """All knobs of the environment, `config` over their defaults, and the agents, so rows, of a copy.

    Raises as `make`.
    """
    if ":" in name:
        from envs.foreign import resolve
    else:
        from envs.vector import resolve

    return resolve(name, config or {})
