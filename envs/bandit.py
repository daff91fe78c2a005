"""Pull the arm that belongs to the context shown; solved in seconds if the gradient is right."""

import numpy as np
from gymnasium.spaces import Box, Discrete

config = {"arms": (8, 2, 1024)}  # default, lowest, highest


def observation_space(config: dict) -> Box:
    return Box(0, 1, (config["arms"],), np.float32)


def action_space(config: dict) -> Discrete:
    return Discrete(config["arms"])


train = {"total_timesteps": 500_000}
solved = 0.95
fps = 2


def keys(config: dict) -> dict[str, int]:
    return dict(zip("1234567890abcdefghijklmnoprstuvwxyz", range(config["arms"]), strict=False))


idle = None
