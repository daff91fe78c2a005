"""Walk from the middle of a small grid to a target on its border; the template for new environments."""

import numpy as np
from gymnasium.spaces import Box, Discrete

# Each knob of SquaredConfig in ocean_c/squared.h: default, lowest, highest.
config = {"size": (11, 3, 64), "max_steps": (44, 1, 1_000_000)}


def observation_space(config: dict) -> Box:
    return Box(-1, 1, (config["size"], config["size"]), np.int8)


def action_space(config: dict) -> Discrete:
    return Discrete(5)


# What differs from the trainer's defaults, the score that counts as solved, frames a second to watch at.
train = {"total_timesteps": 2_000_000}
solved = 0.95
fps = 8
