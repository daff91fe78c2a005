"""Connect four against an opponent that looks one move ahead, and else plays at random."""

import numpy as np
from gymnasium.spaces import Box, Discrete

config = {"opponent_randomness": (0.0, 0.0, 1.0)}  # default, lowest, highest


def observation_space(config: dict) -> Box:
    return Box(-1, 1, (22, 7), np.int8)


def action_space(config: dict) -> Discrete:
    return Discrete(7)


def action_mask(config: dict) -> slice:
    """The part of a flattened observation that says which columns are not full."""
    return slice(147, 154)


def keys(config: dict) -> dict[str, int]:
    """What each key does in play by hand."""
    return {str(column + 1): column for column in range(7)}


idle = None  # the game waits for a key
train = {"total_timesteps": 10_000_000, "num_envs": 512, "hidden_size": 64}
solved = 0.95
fps = 2
