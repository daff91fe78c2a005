"""Small Gymnasium environments, each of which needs one thing that a policy or trainer can do.

Questions: every episode is one step, and its score whether the action was right. `gym:worlds:ID`.
"""

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


class World(VectorEnv):
    """What the others share: rows that reset at once. `ask` and `answer` are theirs."""

    observation: spaces.Space
    action: spaces.Space = spaces.Discrete(2)
    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int):
        self.num_envs, self.rng = num_envs, np.random.default_rng(0)
        self.single_observation_space, self.single_action_space = self.observation, self.action
        self.observation_space = batch_space(self.observation, num_envs)
        self.action_space = batch_space(self.action, num_envs)
        self.rows = np.arange(num_envs)

    def reset(self, *, seed=None, options=None):
        self.rng = self.rng if seed is None else np.random.default_rng(seed)
        return self.ask(), {}

    def step(self, actions):
        right = self.answer(actions).astype(np.float64)
        ended = np.ones(self.num_envs, bool)
        return self.ask(), right, ended, ~ended, {}


class Levers(World):
    """Three levers of 2, 5 and 3 positions, to be where the observation says: actions of several parts."""

    observation, action = spaces.MultiDiscrete([2, 5, 3]), spaces.MultiDiscrete([2, 5, 3])

    def ask(self):
        self.wanted = self.rng.integers([2, 5, 3], size=(self.num_envs, 3))
        return self.wanted

    def answer(self, actions):
        return (actions == self.wanted).mean(1)


class Crosses(World):
    """An upright or a diagonal cross somewhere on a grid with specks: convolution finds it anywhere."""

    SIZE = 8
    observation = spaces.Box(0, 1, (1, SIZE, SIZE), np.uint8)
    CROSSES = np.array([[[0, 1, 0], [1, 1, 1], [0, 1, 0]], [[1, 0, 1], [0, 1, 0], [1, 0, 1]]], np.uint8)

    def ask(self):
        self.kind = self.rng.integers(2, size=self.num_envs)
        grid = (self.rng.random((self.num_envs, 1, self.SIZE, self.SIZE)) < 0.1).astype(np.uint8)
        x, y = self.rng.integers(self.SIZE - 2, size=(2, self.num_envs))
        for i in range(3):
            for j in range(3):
                grid[self.rows, 0, y + i, x + j] = self.CROSSES[self.kind, i, j]
        return grid

    def answer(self, actions):
        return actions == self.kind


class Signs(Crosses):
    """Either cross, and a bit that turns the answer round: a Dict of a grid and a number."""

    observation = spaces.Dict({"bit": spaces.Discrete(2), "nested": spaces.Tuple([Crosses.observation])})

    def ask(self):
        grid = super().ask()
        bit = self.rng.integers(2, size=self.num_envs)
        self.kind ^= bit
        return {"bit": bit, "nested": (grid,)}


class Crowd(World):
    """Up to 12 entities (weight, side, there) in any order: which side has the heaviest?"""

    observation = spaces.Box(-1, 1, (12, 3), np.float32)

    def ask(self):
        entities = self.rng.uniform(-1, 1, (self.num_envs, 12, 3)).astype(np.float32)
        entities[..., 1], entities[..., 2] = np.sign(entities[..., 1]), 1
        there = np.arange(12) < self.rng.integers(1, 13, (self.num_envs, 1))
        entities *= self.rng.permuted(there, axis=1)[..., None]
        heaviest = np.where(entities[..., 2] > 0, entities[..., 0], -9).argmax(1)
        self.side = entities[self.rows, heaviest, 1] > 0
        return entities

    def answer(self, actions):
        return actions == self.side


class Patience(World):
    """Two places. From the first, action 0 gives 0.1 and stays, action 1 gives nothing and leads to the
    second, where every step gives 1. After each step the episode is cut, which is no end: the second place
    would go on giving.
    """

    observation = spaces.Box(0, 1, (2,), np.float32)

    def ask(self):
        self.place = self.rng.integers(2, size=self.num_envs)
        return np.eye(2, dtype=np.float32)[self.place]

    def step(self, actions):
        rewards = np.where(self.place == 1, 1.0, np.where(actions == 0, 0.1, 0.0))
        last, cut = np.eye(2, dtype=np.float32)[self.place | (actions == 1)], np.ones(self.num_envs, bool)
        return self.ask(), rewards, ~cut, cut, {"final_obs": last, "_final_obs": cut}


class Last(World):
    """Episodes of 8 steps, all rows together. Only the last action counts: it must be the cue shown then."""

    observation = spaces.Box(0, 1, (3,), np.float32)

    def ask(self):
        self.t = 0
        return self.observe()

    def observe(self):
        self.cue = self.rng.integers(2, size=self.num_envs)
        shown = np.zeros((self.num_envs, 3), np.float32)
        shown[self.rows, self.cue] = 1
        shown[:, 2] = self.t == 7
        return shown

    def step(self, actions):
        last = np.full(self.num_envs, self.t == 7)
        rewards = np.where(last, actions == self.cue, 0.0)
        self.t = (self.t + 1) % 8
        return self.observe(), rewards, last, ~last & False, {}


for kind in (Levers, Crosses, Signs, Crowd, Last):
    gymnasium.register(f"{kind.__name__}-v0", vector_entry_point=kind, reward_threshold=0.95)
gymnasium.register("Patience-v0", vector_entry_point=Patience)
