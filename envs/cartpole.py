"""Balance a pole on a cart: Gymnasium's CartPole-v1, step for step."""

import math

import numpy as np
from gymnasium.spaces import Box, Discrete

config = {"max_steps": (500, 1, 1_000_000)}  # default, lowest, highest


def observation_space(config: dict) -> Box:
    """Twice the limits of position and angle, as Gymnasium has it: the last step may go beyond them."""
    high = np.array([4.8, np.inf, math.radians(24), np.inf], np.float32)
    return Box(-high, high, dtype=np.float32)


def action_space(config: dict) -> Discrete:
    return Discrete(2)


def keys(config: dict) -> dict[str, int]:
    return {"left": 0, "right": 1}


idle = None  # every step is a push
train = {"total_timesteps": 1_000_000}
solved = 475
fps = 50
