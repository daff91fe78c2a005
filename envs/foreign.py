"""Environments of other packages, with what the trainer uses of VecEnv.

    gym:CartPole-v1              any environment registered with Gymnasium
    gym:my_module:Mine-v0        the same, after importing a module, from the current folder too
    ale:Pong                     Atari 2600 games, by ale-py's own vector environment
    envpool:Pong-v5              EnvPool, by its Gymnasium interface

    env = envs.make("gym:CartPole-v1", 16)

Where Gymnasium knows a vector environment for an id (`vector_entry_point`), that is used, else its
SyncVectorEnv. Observations become one array: Box and MultiBinary as they are (float64 as float32, pictures
[height, width, channels] as [channels, height, width]), Discrete and MultiDiscrete one-hot, Dict and Tuple
flattened in Gymnasium's order, with integers in them divided by their highest value. Actions are Discrete or
MultiDiscrete, counted from 0 (MultiBinary is MultiDiscrete of twos), or Box, in float32; the trainer learns
Discrete and Box.

Some vector environments reset in the step after the one that ended an episode (Gymnasium's NEXT_STEP), and
ignore that step's action. `infos["_ignored"]` marks such rows: nothing is to be learned from that step.

Atari games follow Machado et al. 2018: an action is repeated with probability 0.25 ("sticky"), an episode is
a game and not a life, no random idling at the start. Beyond that as usual: every action is held for 4 frames,
the maximum of the last two of them is made 84 x 84 grey pixels, 4 of those are an observation; fire starts
a game that waits for it; the smaller set of actions; games are cut after 108,000 frames (30 minutes). Rewards
are clipped to -1, 0 and 1 for training; `score` is the game's own.
"""

import difflib
import functools
import importlib
import inspect
import math
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array

from envs.vector import CannotDraw, Step, check_integer

WIDEST = 2**16  # numbers in a one-hot vector
# Where the environment takes most of the time, few copies give frequent updates, and to learn more from each
# step costs little. They step as a whole. Observations come in any unit.
TRAIN = {"groups": 1, "update_epochs": 4.0, "normalize_observations": True}
Draw = Callable[[np.ndarray], np.ndarray]  # the observations of all rows to a picture of row 0
Created = tuple[VectorEnv, Draw | None]


class Spec:
    """What an environment's Python file holds, found out by creating one copy of it.

    create        (copies, threads, seed) to a vector environment and, where it can, what draws its first copy
    clip          whether rewards are clipped to [-1, 1]; the score is not
    seeds_once    whether only creating it can seed it
    """

    def __init__(
        self,
        name: str,
        create: Callable[[int, int, int], Created],
        solved: float | None,
        fps: float | None,
        train: dict[str, Any],
        clip: bool = False,
        seeds_once: bool = False,
    ):
        self.name, self.solved, self.train = name, solved, train
        self.clip, self.seeds_once = clip, seeds_once
        self.config: dict[str, tuple] = {}
        self._create = create
        env, draw = self.create(1, 1, 0)
        self.draws = draw is not None
        self.fps = fps or env.metadata.get("render_fps") or 30
        self.mode = env.metadata.get("autoreset_mode")
        spaces = env.single_observation_space, env.single_action_space
        env.close()
        if self.mode not in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP):
            raise ValueError(f"{name}: its vector environment has an unsupported autoreset_mode, {self.mode}")
        try:
            self.observations, self.to_rows = translate_observations(spaces[0])
            self.parts = shapes_of_parts(spaces[0])
            self.actions, self.to_actions = translate_actions(spaces[1])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        self.__doc__ = f"{name}: {describe(self.observations)} observed; actions {self.actions}."

    def observation_space(self, config: dict) -> Box:
        return self.observations

    def action_space(self, config: dict) -> Space:
        return self.actions

    def create(self, copies: int, num_threads: int, seed: int) -> Created:
        """ValueError, with the first line of its reason, where the package that has it cannot create it."""
        try:
            return self._create(copies, num_threads, seed)
        except Exception as error:
            raise ValueError(f"{self.name} cannot be created: {first_line(error)}") from error


def describe(space: Box) -> str:
    return f"{' x '.join(map(str, space.shape)) or 'one'} {space.dtype.name}"


def first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@functools.cache
def spec(name: str) -> Spec:
    """The environment's spaces, training defaults and so on; ValueError in one line if there is none."""
    kind, _, rest = name.partition(":")
    if kind not in KINDS:
        raise ValueError(f"unknown kind of environment '{name}': there are {', '.join(KINDS)}")
    return KINDS[kind](name, rest)


def unknown(name: str, wanted: str, there: Iterable[str]) -> ValueError:
    """What to raise for an id that is not there; names the nearest, whatever their case."""
    ids = {known.lower(): known for known in there}
    near = difflib.get_close_matches(wanted.lower(), ids, n=3, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(ids[key] for key in near)}?" if near else f"{len(ids)} others are there"
    )
    return ValueError(f"{name}: there is no '{wanted}'; {hint}")


def gym_spec(name: str, rest: str) -> Spec:
    module, _, env_id = rest.rpartition(":")
    if module:
        if os.getcwd() not in sys.path:  # scripts have their own folder there
            sys.path.append(os.getcwd())
        try:
            importlib.import_module(module)
        except Exception as error:
            raise ValueError(f"{name}: module {module} cannot be imported: {first_line(error)}") from error
    registered = gymnasium.registry.get(env_id)
    if registered is None:
        raise unknown(name, env_id, gymnasium.registry)
    vectorised = registered.vector_entry_point is not None
    create = create_vectorised if vectorised else create_copies
    return Spec(
        name,
        lambda copies, num_threads, seed: create(registered, copies),
        registered.reward_threshold,
        None,
        {"num_envs": 64 if vectorised else 16, **TRAIN, "total_timesteps": 1_000_000},
    )


def loaded(entry_point: Any) -> Any:
    """The class or function that an entry point, often a string, stands for."""
    return entry_point if callable(entry_point) else load_env_creator(entry_point)


def draws(creator: Any) -> dict[str, str]:
    """The argument that makes an environment draw, if it can."""
    modes = (getattr(creator, "metadata", None) or {}).get("render_modes") or ()
    return {"render_mode": "rgb_array"} if "rgb_array" in modes else {}


def create_copies(registered: EnvSpec, copies: int) -> Created:
    """Copies of an environment, one after the other; the first can draw itself."""

    def copy(options: dict[str, str]) -> Callable[[], gymnasium.Env]:
        return lambda: gymnasium.make(registered, **options)

    options = draws(loaded(registered.entry_point))
    makers = [copy(options), *[copy({})] * (copies - 1)]
    env = SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)
    return env, (lambda observations: env.envs[0].render()) if options else None


def create_vectorised(registered: EnvSpec, copies: int) -> Created:
    """The vector environment that is registered for an id, resetting in the same step if it offers that."""
    creator = loaded(registered.vector_entry_point)
    options: dict[str, Any] = draws(creator)
    picture = (lambda observations: env.render()[0]) if options else None
    if "autoreset_mode" in inspect.signature(creator).parameters:
        options["autoreset_mode"] = AutoresetMode.SAME_STEP
    env = gymnasium.make_vec(registered, copies, vectorization_mode="vector_entry_point", **options)
    return env, picture


def ale_spec(name: str, game: str) -> Spec:
    try:
        from ale_py import AtariVectorEnv
    except ImportError:
        raise ValueError(f"{name} needs the [atari] extra: pip install -e '.[atari]'") from None
    # Some cartridges are for two players only; those are not registered.
    games = {
        key.removeprefix("ALE/").removesuffix("-v5"): known.kwargs["game"]
        for key, known in gymnasium.registry.items()
        if known.namespace == "ALE"
    }
    names = {key.lower(): game for key, game in games.items()}
    rom = names.get(game.lower().replace("_", ""))
    if rom is None:
        raise unknown(name, game, games)

    def create(copies: int, num_threads: int, seed: int) -> Created:
        settings = {"num_threads": num_threads, "autoreset_mode": AutoresetMode.SAME_STEP, "noop_max": 0}
        settings |= {"repeat_action_probability": 0.25, "reward_clipping": False}
        env = AtariVectorEnv(rom, copies, **settings)
        if copies == 1:
            screen = {"img_height": 210, "img_width": 160, "grayscale": False, "stack_num": 1}
            env = Mirrored(env, AtariVectorEnv(rom, 1, **settings, **screen))

        def draw(observations: np.ndarray) -> np.ndarray:
            """The newest frame, as wide as televisions showed it: in colour where there is one copy."""
            if copies == 1:
                return resize(env.picture[0, -1], 280, 1)
            return resize(np.repeat(observations[0, -1, :, :, None], 3, 2), 112, 1)

        return env, draw

    # With one pass, minibatches of 512, width 32 and a rate of 0.03 Breakout rose to 3.6 and fell
    # to 1.7; with these it rises over 250,000 steps (one seed each, benchmarks/RESULTS.md).
    train = {**TRAIN, "num_envs": 8, "update_epochs": 2.0, "minibatch_size": 256, "hidden_size": 128}
    train |= {"learning_rate": 0.005, "total_timesteps": 10_000_000}
    return Spec(name, create, None, 15, train, clip=True)


class Mirrored(VectorWrapper):
    """A vector environment and a second one that does the same but observes what people see."""

    def __init__(self, env: VectorEnv, mirror: VectorEnv):
        super().__init__(env)
        self.mirror = mirror
        self.picture: np.ndarray | None = None  # what the mirror observed last

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        self.picture, _ = self.mirror.reset(seed=seed)
        return self.env.reset(seed=seed)

    def step(self, actions: np.ndarray) -> Step:
        self.picture, *_ = self.mirror.step(actions)
        return self.env.step(actions)

    def close(self, **kwargs: Any) -> None:
        self.mirror.close()
        self.env.close()


def envpool_spec(name: str, env_id: str) -> Spec:
    try:
        import envpool
    except ImportError:
        raise ValueError(f"{name} needs the [envpool] extra: pip install -e '.[envpool]'") from None
    if env_id not in envpool.list_all_envs():
        raise unknown(name, env_id, envpool.list_all_envs())

    def create(copies: int, num_threads: int, seed: int) -> Created:
        sizes = {"num_envs": copies, "num_threads": num_threads}
        env = envpool.make_gymnasium(env_id, seed=seed, render_mode="rgb_array", **sizes)
        return env, lambda observations: env.render()[0]

    threshold = getattr(envpool.make_spec(env_id), "reward_threshold", None)
    train = {"num_envs": 64, **TRAIN, "total_timesteps": 10_000_000}
    return Spec(name, create, threshold, None, train, seeds_once=True)


KINDS = {"gym": gym_spec, "ale": ale_spec, "envpool": envpool_spec}


class ForeignEnv(VectorEnv):
    """`num_envs` copies of the third-party environment `name`; arguments as in `envs.make`.

    As in VecEnv, the arrays returned are overwritten by the next step (`copy=True` gives copies), a true end
    wins over a cut in the same step, and where an episode was cut, `infos["final_obs"]` holds its last
    observation in the rows that `infos["_final_obs"]` marks. Further, `infos["_ignored"]` marks rows whose
    action was ignored because the episode had ended the step before; their reward is 0.

    num_threads   is used by ale and envpool; copies in Python step one after the other
    groups        must be 1
    pin_memory    is accepted and has no effect

    Copies are seeded as Gymnasium does: seed, seed + 1, and so on. Only the first can be drawn. They cannot
    be saved: what `load` goes on with are new episodes.
    """

    render_mode = "rgb_array"
    action_mask = None

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
        self.closed = True  # nothing is open until the end
        for argument, value in (("num_envs", num_envs), ("num_threads", num_threads), ("groups", groups)):
            check_integer(argument, value, 1, 2**24)
        check_integer("seed", seed, 0, 2**63 - 1)
        if groups != 1:
            raise ValueError(f"groups: {name} steps as a whole, so in 1 group, not {groups}")
        self._spec = spec(name)
        self.config, self.agents = resolve(name, config or {})
        self.name, self.copies, self.num_groups, self.copy = name, num_envs, 1, copy
        self.num_envs = num_envs
        self._num_threads = num_threads
        self._env, self._draw = self._spec.create(num_envs, num_threads, self._small(seed))
        self._same_step = self._spec.mode == AutoresetMode.SAME_STEP
        modes = {"autoreset_mode": self._spec.mode, "render_modes": ["rgb_array"]}
        self.metadata = modes | {"render_fps": self._spec.fps}
        self.single_observation_space = space = self._spec.observations
        self.observation_parts = self._spec.parts
        self.single_action_space = self._spec.actions
        self.observation_space = batch_space(space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        self.observations = np.zeros((num_envs, *space.shape), space.dtype)
        self.final_observations = np.zeros_like(self.observations)
        self.rewards = np.zeros(num_envs, np.float32)
        self.terminals = np.zeros(num_envs, np.bool_)
        self.truncations = np.zeros(num_envs, np.bool_)
        self._ignored = np.zeros(num_envs, np.bool_)  # rows whose next action is
        threshold = self._spec.solved
        self._threshold = threshold if threshold is not None and 0 < threshold < math.inf else None
        self._running = np.zeros((num_envs, 3))  # score, return and length of the episodes under way
        self._finished = np.zeros((num_envs, 5))  # sums over those that ended; perf and their number
        self.log_fields = ["score", "perf", "episode_return", "episode_length", "n"]
        if self._threshold is None:
            self.log_fields.remove("perf")
        self._seeded, self._seed, self.closed = False, seed, False

    def rows(self, group: int) -> slice:
        """The rows that a group owns: all of them."""
        check_integer("group", group, 0, 0)
        return slice(0, self.num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts new episodes and, with a seed, new random streams. Returns observations and no infos."""
        self._check_open("reset")
        if options:
            raise ValueError(f"options: {self.name} takes none, but got {options}")
        if seed is not None:
            check_integer("seed", seed, 0, 2**63 - 1)
        elif not self._seeded:
            seed = self._seed
        self._seeded = True
        if seed is not None:
            seed = self._small(seed)
            if self._spec.seeds_once:
                self._env.close()
                self._env, self._draw = self._spec.create(self.copies, self._num_threads, seed)
        batch, _ = self._env.reset(seed=seed)
        self.observations[...] = self._spec.to_rows(batch)
        self._ignored[:] = False
        self._running[:] = 0
        return (self.observations.copy() if self.copy else self.observations), {}

    def _small(self, seed: int) -> int:
        """A seed that third parties take as 32 bits, those of the other copies included."""
        return seed % (2**31 - self.copies)

    def step(self, actions: np.ndarray, group: int | None = None) -> Step:
        """Takes actions [rows, …]; gives observations, rewards, terminals, truncations, infos.

        Raises ValueError or TypeError for a wrong shape, type or value; then no copy has moved.
        """
        self._check_open("step")
        if group is not None:
            check_integer("group", group, 0, 0)
        if not self._seeded:
            raise RuntimeError("step: call reset first")
        batch, rewards, terminals, truncations, infos = self._env.step(self._check_actions(actions))
        self.observations[...] = self._spec.to_rows(batch)
        counted = ~self._ignored
        rewards = np.where(counted, rewards, 0)
        self.rewards[:] = np.clip(rewards, -1, 1) if self._spec.clip else rewards
        np.logical_and(terminals, counted, out=self.terminals)
        np.logical_and(truncations, counted & ~self.terminals, out=self.truncations)
        ended = self.terminals | self.truncations
        self._count(rewards, counted, ended)
        result: dict[str, np.ndarray] = {}
        if self.truncations.any():
            self._keep_final(infos)
            result = {"final_obs": self.final_observations, "_final_obs": self.truncations}
        if not self._same_step:
            if self._ignored.any():
                result["_ignored"] = self._ignored
            self._ignored = ended
        results = (self.observations, self.rewards, self.terminals, self.truncations)
        if self.copy:
            return *(array.copy() for array in results), {key: x.copy() for key, x in result.items()}
        return *results, result

    def _check_actions(self, actions: np.ndarray) -> np.ndarray:
        """The actions as the environment takes them."""
        space = self.action_space
        try:
            actions = np.asarray(actions)
        except ValueError as error:
            raise ValueError(f"actions: {error}") from None
        if actions.shape != space.shape:
            raise ValueError(f"actions: shape {actions.shape}, but {self.name} takes {space.shape}")
        if isinstance(space, Box):
            if actions.dtype.kind not in "iuf":
                raise TypeError(f"actions: dtype {actions.dtype}, but {self.name} takes numbers")
            if not np.isfinite(actions).all():
                raise ValueError("actions: some are not finite")
        else:
            if actions.dtype.kind not in "iu":
                raise TypeError(f"actions: dtype {actions.dtype}, but {self.name} takes integers")
            outside = (actions < 0) | (actions >= space.nvec)
            if outside.any():
                row = int(np.argwhere(outside)[0, 0])
                raise ValueError(f"actions: {actions[row]} in row {row} is not in {self.single_action_space}")
        return self._spec.to_actions(actions)

    def _keep_final(self, infos: dict[str, Any]) -> None:
        """Puts the last observations of truncated episodes into their rows of final_observations."""
        rows = np.flatnonzero(self.truncations)
        if not self._same_step:
            self.final_observations[rows] = self.observations[rows]
            return
        final = infos["final_obs"]
        if final.dtype == object:  # one observation a row
            space = self._env.single_observation_space
            batch = concatenate(space, [final[row] for row in rows], create_empty_array(space, len(rows)))
        else:
            batch = final[rows]
        self.final_observations[rows] = self._spec.to_rows(batch)

    def _count(self, rewards: np.ndarray, counted: np.ndarray, ended: np.ndarray) -> None:
        """Adds a step to the episodes under way, and those that ended to the log."""
        self._running[:, 0] += rewards
        self._running[:, 1] += self.rewards
        self._running[:, 2] += counted
        if ended.any():
            rows = np.flatnonzero(ended)
            self._finished[rows, :3] += self._running[rows]
            if self._threshold:
                self._finished[rows, 3] += np.clip(self._running[rows, 0] / self._threshold, 0, 1)
            self._finished[rows, 4] += 1
            self._running[rows] = 0

    def log(self, start: int = 0, end: int | None = None) -> dict[str, float]:
        """Means over the episodes that the copies [start, end) finished since their last log; `n` is how
        many.

        `score` is the sum of rewards; episode_return the same, after clipping; `perf` is there only where a
        reward is registered that counts as solved and is above 0. Without a finished episode only n = 0.
        """
        self._check_open("log")
        end = self.copies if end is None else end
        check_integer("start", start, 0, self.copies)
        check_integer("end", end, start, self.copies)
        *sums, n = self._finished[start:end].sum(0).tolist()
        self._finished[start:end] = 0
        if not n:
            return {"n": 0.0}
        score, episode_return, episode_length, perf = (total / n for total in sums)
        means = {"score": score, "perf": perf, "episode_return": episode_return}
        means |= {"episode_length": episode_length, "n": n}
        return {field: means[field] for field in self.log_fields}

    def render(self, copy: int = 0, width: int = 320, height: int = 240) -> np.ndarray:
        """A picture [height, width, 3] of the first copy, in bytes, with bars where its shape differs."""
        self._check_open("render")
        check_integer("copy", copy, 0, 0)
        check_integer("width", width, 1, 8192)
        check_integer("height", height, 1, 8192)
        if self._draw is None:
            raise CannotDraw(f"{self.name} cannot be drawn: it offers no render_mode 'rgb_array'")
        try:
            frame = np.asarray(self._draw(self.observations))
        except Exception as error:
            raise CannotDraw(f"{self.name} cannot be drawn: {first_line(error)}") from error
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise CannotDraw(f"{self.name} cannot be drawn: its pictures are {frame.dtype} {frame.shape}")
        return letter_box(frame, width, height)

    def save(self) -> dict[str, np.ndarray]:
        """Nothing: the state of a third party's environment cannot be read."""
        return {}

    def load(self, saved: dict[str, np.ndarray]) -> None:
        """Starts new episodes, as nothing was saved."""
        self.reset()

    def _check_open(self, what: str) -> None:
        if self.closed:
            raise RuntimeError(f"{what}: the environment is closed")

    def close_extras(self, **kwargs: Any) -> None:
        self._env.close()


def resolve(name: str, given: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The resolved config, which is empty, and 1 agent a copy."""
    spec(name)
    if not isinstance(given, dict):
        raise TypeError(f"config: {given!r} is no dict of knobs")
    if given:
        raise ValueError(f"config: {name} has no '{next(iter(given))}'; it has no knobs")
    return {}, 1


def translate_observations(space: Space) -> tuple[Box, Callable[[Any], np.ndarray]]:
    """The space of a row, and what makes rows [rows, …] of a batch; ValueError where there is no way."""
    if isinstance(space, Box):
        return translate_box(space)
    if isinstance(space, MultiBinary):
        return Box(0, 1, space.shape, np.uint8), np.asarray
    if isinstance(space, Discrete | MultiDiscrete):
        sizes = np.atleast_1d(space.n if isinstance(space, Discrete) else space.nvec).ravel()
        starts = np.broadcast_to(space.start, np.shape(sizes) if isinstance(space, Discrete) else space.shape)
        width = int(sizes.sum())
        if width > WIDEST:
            raise ValueError(
                f"observation space {space} would be {width:,} numbers, one-hot; {WIDEST:,} are the most"
            )
        first = np.cumsum(sizes) - sizes - starts.ravel()  # where the one of each part is at value 0

        def one_hot(batch: Any) -> np.ndarray:
            values = np.asarray(batch).reshape(len(batch), -1)
            rows = np.zeros((len(batch), width), np.uint8)
            np.put_along_axis(rows, values + first, 1, 1)
            return rows

        return Box(0, 1, (width,), np.uint8), one_hot
    if isinstance(space, Dict | Tuple):
        return translate_parts(space)
    raise ValueError(f"observation space {space}: {type(space).__name__} is not supported")


def shapes_of_parts(space: Space) -> list[tuple[int, ...]] | None:
    """The shapes of which a flattened Dict or Tuple is made up; None where a linear layer sees no difference:
    where all parts are flat."""
    if not isinstance(space, Dict | Tuple):
        return None
    shapes = []
    for part in space.spaces.values() if isinstance(space, Dict) else space.spaces:
        shapes += shapes_of_parts(part) or [translate_observations(part)[0].shape]
    return shapes if any(len(shape) > 2 for shape in shapes) else None


def translate_box(space: Box) -> tuple[Box, Callable[[Any], np.ndarray]]:
    if not space.shape:  # a single number
        box, to_rows = translate_box(Box(space.low.reshape(1), space.high.reshape(1), dtype=space.dtype.type))
        return box, lambda batch: to_rows(np.reshape(batch, (-1, 1)))
    if space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[2] <= 4 < space.shape[0]:
        low, high = np.moveaxis(space.low, 2, 0), np.moveaxis(space.high, 2, 0)
        return Box(low, high, dtype=np.uint8), lambda batch: np.moveaxis(batch, 3, 1)
    if space.dtype.kind in "iu" and highest(space) < 2**24:  # beyond it bounds stand for "any number"
        dtype = space.dtype if space.dtype.itemsize == 1 else np.int32
    elif space.dtype.kind in "iufb":
        dtype = np.uint8 if space.dtype.kind == "b" else np.float32
    else:
        raise ValueError(f"observation space {space}: {space.dtype} is not supported")
    with np.errstate(over="ignore"):
        low, high = space.low.astype(dtype), space.high.astype(dtype)
    return Box(low, high, dtype=dtype), lambda batch: np.asarray(batch, dtype)


def highest(space: Box) -> float:
    """The largest absolute value of a number in the space."""
    return float(np.abs([space.low.astype(float), space.high.astype(float)]).max())


def translate_parts(space: Dict | Tuple) -> tuple[Box, Callable[[Any], np.ndarray]]:
    """Dict and Tuple: the flat parts, one after the other; bytes if all are 0 or 1, else float32."""
    keys = list(space.spaces) if isinstance(space, Dict) else range(len(space.spaces))
    parts = {key: translate_observations(space.spaces[key]) for key in keys}
    if not parts:
        raise ValueError(f"observation space {space} is empty")
    binary = all(box.dtype == np.uint8 and box.high.max() <= 1 for box, _ in parts.values())
    dtype = np.uint8 if binary else np.float32
    scales = {
        key: dtype(1 / max(1, highest(box)) if box.dtype.kind in "iu" else 1)
        for key, (box, _) in parts.items()
    }
    low, high = (
        np.concatenate([getattr(box, end).ravel() * scales[key] for key, (box, _) in parts.items()])
        for end in ("low", "high")
    )

    def flat(batch: Any) -> np.ndarray:
        rows = {key: to_rows(batch[key]) for key, (_, to_rows) in parts.items()}
        return np.concatenate([x.reshape(len(x), -1) * scales[key] for key, x in rows.items()], 1)

    return Box(low.astype(dtype), high.astype(dtype), dtype=dtype), flat


def translate_actions(space: Space) -> tuple[Space, Callable[[np.ndarray], np.ndarray]]:
    """The space to act in, and what makes of checked actions those of the environment."""
    if isinstance(space, Discrete):
        return Discrete(int(space.n)), lambda actions: (actions + space.start).astype(space.dtype)
    if isinstance(space, MultiDiscrete) and space.nvec.ndim == 1:
        return MultiDiscrete(space.nvec), lambda actions: (actions + space.start).astype(space.dtype)
    if isinstance(space, MultiBinary) and len(space.shape) == 1:
        return MultiDiscrete([2] * space.shape[0]), lambda actions: actions.astype(space.dtype)
    if isinstance(space, Box) and space.dtype.kind == "f":
        with np.errstate(over="ignore"):
            bounds = space.low.astype(np.float32), space.high.astype(np.float32)
        low, high = (np.reshape(bound, space.shape or 1) for bound in bounds)
        return Box(low, high, dtype=np.float32), lambda actions: np.clip(
            actions.astype(space.dtype).reshape(-1, *space.shape), space.low, space.high
        )
    raise ValueError(
        f"action space {space} is not supported; Discrete, flat MultiDiscrete and MultiBinary, and Box are"
    )


def letter_box(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    """The frame as large as it fits into a picture [height, width, 3], the rest black."""
    scale = min(width / frame.shape[1], height / frame.shape[0])
    inner = [
        min(height, max(1, round(frame.shape[0] * scale))),
        min(width, max(1, round(frame.shape[1] * scale))),
    ]
    picture = np.zeros((height, width, 3), np.uint8)
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    picture[top : top + inner[0], left : left + inner[1]] = resize(resize(frame, inner[0], 0), inner[1], 1)
    return picture


def resize(frame: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Means of neighbouring pixels where the axis gets shorter, repeated pixels where it gets longer."""
    starts = np.arange(size) * frame.shape[axis] // size
    if size >= frame.shape[axis]:
        return frame.take(starts, axis)
    counts = np.diff(starts, append=frame.shape[axis])
    shape = [1, 1, 1]
    shape[axis] = size
    return np.add.reduceat(frame.astype(np.float32), starts, axis) / counts.reshape(shape)
