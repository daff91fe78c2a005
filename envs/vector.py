"""VecEnv: copies of a C environment as a `gymnasium.vector.VectorEnv`, without copying what C writes.

    env = envs.make("pong", 1024)
    observations, infos = env.reset(seed=1)
    observations, rewards, terminals, truncations, infos = env.step(actions)

The arrays returned are views on the rows that C writes: the next step overwrites them (`copy=True` gives
copies). An episode that ends resets at once (Gymnasium's SAME_STEP): the observation is the next episode's
first, and where it was cut, `infos["final_obs"]` holds the last one of the old. A copy owns `agents`
consecutive rows, so `num_envs`, as Gymnasium means it, counts rows. Copies are independent, each with its own
random stream: results do not depend on threads or groups.

With `groups`, parts of the vector step on threads of their own while the caller is busy with another part:

    for group in range(groups):
        env.send(actions[env.rows(group)], group)
    ... = env.recv()                                   # the group that was sent first
"""

import itertools
import json
import math
import queue
import threading
import weakref
from collections import deque
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

import build
import envs

Step = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


class CannotDraw(ValueError):
    """An environment that has no pictures, or lacks what it needs to draw them."""


class VecEnv(VectorEnv):
    """`num_envs` copies of the environment `name`; arguments as in `envs.make`.

    copy          return copies instead of views, for callers that keep what they got
    pin_memory    hold observations and rewards in page-locked memory, for asynchronous copies to a GPU

    Attributes: num_envs (rows), copies, agents, num_groups, config (all knobs), log_fields, action_mask
    (the part of a flattened observation that says which actions are legal, or None), observation_parts
    (shapes of what a flat observation is made up of, or None), Gymnasium's spaces. Not for use by several
    threads at once, but for `step` of different groups.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(
        self,
        name: str,
        num_envs: int,
        seed: int = 0,
        num_threads: int = 1,
        groups: int = 1,
        config: dict | None = None,
        copy: bool = False,
        pin_memory: bool = False,
    ):
        for argument, value in (("num_envs", num_envs), ("num_threads", num_threads), ("groups", groups)):
            check_integer(argument, value, 1, 2**24)
        check_integer("seed", seed, 0, 2**63 - 1)
        if num_envs % groups:
            raise ValueError(f"num_envs ({num_envs}) must be a multiple of groups ({groups})")
        spec = envs.spec(name)
        self.name, self.copies, self.num_groups, self.copy = name, num_envs, groups, copy
        self.config = resolve_config(name, spec.config, config or {})
        self.metadata = {**self.metadata, "render_fps": spec.fps}
        self._ffi, self._lib, c_config = load_library(name, self.config)

        self.agents = self._lib.vec_agents(c_config)
        self.num_envs = rows = num_envs * self.agents
        self.single_observation_space = space = spec.observation_space(self.config)
        self.single_action_space = spec.action_space(self.config)
        self.observation_space = batch_space(space, rows)
        self.action_space = batch_space(self.single_action_space, rows)
        mask = getattr(spec, "action_mask", None)
        self.action_mask = mask(self.config) if mask else None
        self.observation_parts = None
        row_bytes = self._lib.vec_observation_bytes(c_config)
        if not isinstance(space, Box) or math.prod(space.shape) * space.dtype.itemsize != row_bytes:
            raise ValueError(
                f"envs/{name}.py declares observations {space}; ocean_c/{name}.h has {row_bytes} bytes a row"
            )
        self._bounds, shape = action_bounds(self.single_action_space)

        def array(row: tuple[int, ...], dtype: Any) -> np.ndarray:
            if not pin_memory:
                return np.zeros((rows, *row), dtype)
            import torch

            return torch.zeros(
                (rows, *row), dtype=getattr(torch, np.dtype(dtype).name), pin_memory=True
            ).numpy()

        self.observations = array(space.shape, space.dtype)
        self.final_observations = array(space.shape, space.dtype)
        self.actions = np.zeros((rows, *shape), self._bounds.dtype)
        self.rewards = array((), np.float32)
        self.terminals = array((), np.bool_)  # C writes bytes 0 and 1
        self.truncations = array((), np.bool_)
        pointer = self._ffi.from_buffer
        c_rows = self._ffi.new("Rows *")[0]
        c_rows.observations, c_rows.final_observations = (
            pointer(self.observations),
            pointer(self.final_observations),
        )
        c_rows.actions = pointer(self.actions)
        c_rows.rewards = pointer("float[]", self.rewards)
        c_rows.terminals = pointer("uint8_t[]", self.terminals)
        c_rows.truncations = pointer("uint8_t[]", self.truncations)
        continuous, bounds = self.actions.dtype.kind == "f", pointer(self._bounds)
        self._vec = self._lib.vec_create(
            num_envs, c_config, c_rows, row_bytes, self._bounds[0].size, continuous, bounds
        )
        if not self._vec:
            raise MemoryError(f"no memory for num_envs={num_envs} copies of {name}")
        self._workers: list[Workers] = []  # one, started when first needed
        self._starting = threading.Lock()
        self._free = weakref.finalize(self, release, self._lib, self._vec, self._workers)
        self.log_fields = [field for field, _ in self._ffi.typeof("Log").fields]
        self._log = np.zeros(len(self.log_fields))
        self._seeded = False
        self._seed = seed
        self.closed = False

        per_group = num_envs // groups
        self._views = [self._view(group * per_group, (group + 1) * per_group) for group in range(groups)]
        self._all = self._view(0, num_envs)
        self._sent: deque[int] = deque()
        self._jobs: list[Job | None] = [None] * groups
        self.num_threads = num_threads

    def _view(self, start: int, end: int) -> tuple:
        """The copies [start, end) and their rows of every array."""
        rows = slice(start * self.agents, end * self.agents)
        results = (self.observations, self.rewards, self.terminals, self.truncations, self.final_observations)
        return (start, end, rows, self.actions[rows], *(array[rows] for array in results))

    def rows(self, group: int) -> slice:
        """The rows that a group owns."""
        return self._views[group][2]

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts new episodes and, with a seed, new random streams. Returns observations and no infos."""
        if options:
            raise ValueError(f"options: {self.name} takes none, but got {options}")
        self._check_idle("reset")
        if seed is not None:
            check_integer("seed", seed, 0, 2**63 - 1)
        if seed is not None or not self._seeded:
            self._lib.vec_seed(self._vec, self._seed if seed is None else seed)
            self._seeded = True
        self._lib.vec_reset(self._vec, 0, self.copies)
        return (self.observations.copy() if self.copy else self.observations), {}

    def step(self, actions: np.ndarray, group: int | None = None) -> Step:
        """Takes actions [rows, …]; gives observations, rewards, terminals, truncations, infos.

        actions       of any integer type, for a Box of any float type
        group         step its rows only; several threads may step a group each
        Raises ValueError or TypeError for a wrong shape, type or value; then no copy has moved.
        """
        self._check_idle("step")
        view = self._all if group is None else self._group(group)
        self._write_actions(actions, view)
        if self.num_threads == 1:
            return self._result(view, self._lib.vec_step(self._vec, view[0], view[1]))
        return self._result(view, self._start(view).wait())

    def send(self, actions: np.ndarray, group: int = 0) -> None:
        """Starts a step of one group, with its actions; `recv` gives the result. Raises as `step`."""
        self._check_open("send")
        view = self._group(group)
        if self._jobs[group] is not None:
            raise RuntimeError(f"send: group {group} was sent already; receive it first")
        self._write_actions(actions, view)
        self._jobs[group] = self._start(view)
        self._sent.append(group)

    def recv(self, group: int | None = None) -> Step:
        """What `step` returns, for the rows of the group that was sent first (or of the one named)."""
        if not self._sent or (group is not None and self._jobs[group] is None):
            raise RuntimeError("recv: nothing was sent")
        if group is None:
            group = self._sent.popleft()
        else:
            self._sent.remove(group)
        job, self._jobs[group] = self._jobs[group], None
        return self._result(self._views[group], job.wait())

    def c_step(self, group: int) -> tuple[int, Any, int, int]:
        """For C that steps a group itself: the address of `int step(void *vec, int start, int end)`, which
        takes `actions` as they are and gives how many rows were cut, and its arguments."""
        self._check_idle("step")
        step = self._ffi.cast("intptr_t", self._ffi.addressof(self._lib, "vec_step"))
        return int(step), self._ffi.cast("void *", self._vec), *self._group(group)[:2]

    def _write_actions(self, actions: np.ndarray, view: tuple) -> None:
        start, end, rows, target = view[:4]
        try:
            actions = np.asarray(actions)
        except ValueError as error:
            raise ValueError(f"actions: {error}") from None
        if actions.shape != target.shape:
            raise ValueError(f"actions: shape {actions.shape}, but {self.name} takes {target.shape}")
        kinds, wanted = ("f", "floats") if target.dtype.kind == "f" else ("iu", "integers")
        if actions.dtype.kind not in kinds:
            raise TypeError(f"actions: dtype {actions.dtype}, but {self.name} takes {wanted}")
        if not self._seeded:
            raise RuntimeError("step: call reset first")
        target[...] = actions  # unsigned values beyond int64 turn negative
        if self._lib.vec_bad_actions(self._vec, start, end):
            inside = (target >= self._bounds[0]) & (target <= self._bounds[1])
            row = rows.start + int(inside.reshape(len(target), -1).all(1).argmin())
            raise ValueError(
                f"actions: {self.actions[row]} in row {row} is not in {self.single_action_space}"
            )

    def _start(self, view: tuple) -> "Job":
        """Has the threads step the copies of a view."""
        with self._starting:  # groups may step on several threads at once
            if not self._workers:
                self._workers.append(Workers(self.num_threads))
        return self._workers[0].start(self._lib.vec_step, self._vec, view[0], view[1])

    def _result(self, view: tuple, truncated: int) -> Step:
        _, _, _, _, observations, rewards, terminals, truncations, final = view
        infos = {"final_obs": final, "_final_obs": truncations} if truncated else {}
        if not self.copy:
            return observations, rewards, terminals, truncations, infos
        infos = {key: value.copy() for key, value in infos.items()}
        return observations.copy(), rewards.copy(), terminals.copy(), truncations.copy(), infos

    def log(self, start: int = 0, end: int | None = None) -> dict[str, float]:
        """Means over the episodes that the copies [start, end) finished since their last log; `n` is how
        many.

        Score, perf (0 to 1, 1 is solved), episode_return, episode_length and what else the environment
        counts; without a finished episode only n = 0.
        """
        self._check_open("log")
        end = self.copies if end is None else end
        check_integer("start", start, 0, self.copies)
        check_integer("end", end, start, self.copies)
        self._log[:] = 0
        pointer = self._ffi.from_buffer("double[]", self._log)
        self._lib.vec_log(self._vec, start, end, pointer)
        sums = dict(zip(self.log_fields, self._log.tolist(), strict=True))
        n = sums.pop("n")
        return {**{field: total / n for field, total in sums.items()}, "n": n} if n else {"n": 0.0}

    def render(self, copy: int = 0, width: int = 320, height: int = 240) -> np.ndarray:
        """A picture [height, width, 3] of one copy, in bytes."""
        self._check_open("render")
        check_integer("copy", copy, 0, self.copies - 1)
        check_integer("width", width, 1, 8192)
        check_integer("height", height, 1, 8192)
        frame = np.empty((height, width, 3), np.uint8)
        self._lib.vec_render(self._vec, copy, self._ffi.from_buffer("uint8_t[]", frame), width, height)
        return frame

    def save(self) -> dict[str, np.ndarray]:
        """Everything there is to the vector now, as arrays that `load` takes; receive what was sent first."""
        self._check_idle("save")
        states = np.empty((self.copies, self._lib.vec_state_size()), np.uint8)
        self._lib.vec_save(self._vec, self._ffi.from_buffer("char[]", states))
        rows = {name: getattr(self, name).copy() for name in ROWS}
        return {"made_as": self._made_as(), "states": states, **rows}

    def _made_as(self) -> np.ndarray:
        """What a saved state belongs to, as bytes of text."""
        return np.frombuffer(json.dumps([self.name, self.config]).encode(), np.uint8).copy()

    def load(self, saved: dict[str, np.ndarray]) -> None:
        """Goes back to what `save` gave. ValueError if that was of another environment, config or size."""
        self._check_idle("load")
        made_as = self._made_as()
        if not np.array_equal(saved.get("made_as"), made_as):
            found = bytes(saved["made_as"]).decode() if "made_as" in saved else "nothing"
            raise ValueError(f"saved state: is of {found}, but this is {bytes(made_as).decode()}")
        wanted = {name: (getattr(self, name).shape, getattr(self, name).dtype) for name in ROWS}
        wanted["states"] = ((self.copies, self._lib.vec_state_size()), np.dtype(np.uint8))
        for name, want in wanted.items():
            found = (saved[name].shape, saved[name].dtype) if name in saved else "nothing"
            if found != want:
                raise ValueError(f"saved state: {name} is {found}, but {self.name} here has {want}")
        self._lib.vec_load(self._vec, self._ffi.from_buffer("char[]", np.ascontiguousarray(saved["states"])))
        for name in ROWS:
            np.copyto(getattr(self, name), saved[name])
        self._seeded = True

    def _check_open(self, what: str) -> None:
        if self.closed:
            raise RuntimeError(f"{what}: the environment is closed")

    def _check_idle(self, what: str) -> None:
        self._check_open(what)
        if self._sent:
            raise RuntimeError(f"{what}: receive every group that was sent first")

    def _group(self, group: int) -> tuple:
        check_integer("group", group, 0, self.num_groups - 1)
        return self._views[group]

    def close_extras(self, **kwargs: Any) -> None:
        self._free()


def release(lib: Any, vec: Any, workers: list["Workers"]) -> None:
    """Ends the threads, then frees what they step; when a vector is closed, forgotten, or Python ends."""
    for each in workers:
        each.close()
    lib.vec_close(vec)


ROWS = ("observations", "final_observations", "actions", "rewards", "terminals", "truncations")


class Job:
    """One step of a group, in as many parts as there are threads."""

    def __init__(self, parts: int):
        self.results: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.parts = parts

    def wait(self) -> int:
        """Waits for every part; returns how many rows were truncated."""
        return sum(self.results.get() for _ in range(self.parts))


class Workers:
    """Threads that step ranges of copies; CFFI releases the interpreter's lock while C runs."""

    def __init__(self, num_threads: int):
        self.queue: queue.SimpleQueue = queue.SimpleQueue()
        self.threads = [threading.Thread(target=self.work, daemon=True) for _ in range(num_threads)]
        for thread in self.threads:
            thread.start()

    def work(self) -> None:
        while (task := self.queue.get()) is not None:
            function, vec, start, end, results = task
            results.put(function(vec, start, end))

    def start(self, function: Any, vec: Any, start: int, end: int) -> Job:
        bounds = np.linspace(start, end, min(len(self.threads), end - start) + 1).astype(int).tolist()
        job = Job(len(bounds) - 1)
        for low, high in itertools.pairwise(bounds):
            self.queue.put((function, vec, low, high, job.results))
        return job

    def close(self) -> None:
        for _ in self.threads:
            self.queue.put(None)
        for thread in self.threads:
            thread.join()
        self.threads = []


def check_integer(argument: str, value: Any, low: int, high: int) -> None:
    """Raises TypeError or ValueError, naming the argument, unless value is an integer in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{argument}: {value!r} is no integer")
    if not low <= value <= high:
        raise ValueError(f"{argument}: {value} is not between {low} and {high}")


def resolve_config(name: str, knobs: dict[str, tuple], given: dict[str, Any]) -> dict[str, Any]:
    """The environment's config with what was given over its defaults; raises ValueError or TypeError."""
    if not isinstance(given, dict):
        raise TypeError(f"config: {given!r} is no dict of knobs")
    config = {knob: default for knob, (default, _, _) in knobs.items()}
    for knob, value in given.items():
        if knob not in knobs:
            raise ValueError(f"config: {name} has no '{knob}'; it has {', '.join(knobs)}")
        default, low, high = knobs[knob]
        if isinstance(default, int):
            check_integer(f"config {knob}", value, low, high)
        elif isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise TypeError(f"config {knob}: {value!r} is no number")
        elif not low <= value <= high:
            raise ValueError(f"config {knob}: {value} is not between {low} and {high}")
        config[knob] = type(default)(value)
    return config


def load_library(name: str, config: dict[str, Any]) -> tuple[Any, Any, Any]:
    """CFFI's ffi and lib of an environment, and its config in C."""
    module = build.load(name)
    fields = [field for field, _ in module.ffi.typeof("Config").fields]
    if sorted(fields) != sorted(config):
        raise ValueError(
            f"envs/{name}.py has the knobs {', '.join(config)}; ocean_c/{name}.h has {', '.join(fields)}"
        )
    return module.ffi, module.lib, module.ffi.new("Config *", config)


def resolve(name: str, given: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The resolved config, and how many agents, so rows, a copy has under it; raises as VecEnv."""
    config = resolve_config(name, envs.spec(name).config, given)
    _, lib, c_config = load_library(name, config)
    return config, lib.vec_agents(c_config)


def action_bounds(space: Any) -> tuple[np.ndarray, tuple[int, ...]]:
    """Lowest and highest finite value [2, …] of each number of an action row, in C's type; a row's shape."""
    if isinstance(space, Discrete) and space.start == 0:
        return np.array([0, space.n - 1], np.int64), ()
    if isinstance(space, MultiDiscrete) and not space.start.any() and space.nvec.ndim == 1:
        return np.stack([np.zeros_like(space.nvec), space.nvec - 1]).astype(np.int64), space.shape
    if isinstance(space, Box) and space.dtype == np.float32:
        largest = np.finfo(np.float32).max
        return np.clip([space.low, space.high], -largest, largest), space.shape
    raise ValueError(
        f"action space {space}: C environments take Discrete or MultiDiscrete, counted from 0, or float32 Box"
    )
