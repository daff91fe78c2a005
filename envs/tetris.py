"""Tetris with bags of seven, wall kicks, hold, and three pieces of preview; the score is lines cleared."""

import numpy as np
from gymnasium.spaces import Box, Discrete

config = {  # default, lowest, highest
    "steps_per_row": (6, 1, 1000),
    "max_steps": (5000, 1, 1_000_000),
    "reward_line": (1.0, 0.0, 10.0),
    "reward_piece": (0.4, 0.0, 1.0),
    "reward_hole": (-0.2, -1.0, 0.0),
    "reward_game_over": (-1.0, -10.0, 0.0),
}


def observation_space(config: dict) -> Box:
    return Box(-1, 1, (504,), np.int8)


def action_space(config: dict) -> Discrete:
    return Discrete(7)


def keys(config: dict) -> dict[str, int]:
    return {"left": 1, "right": 2, "up": 3, "down": 4, "space": 5, "c": 6}


idle = 0
train = {"total_timesteps": 30_000_000, "num_envs": 512, "hidden_size": 64}
solved = 180
fps = 12
