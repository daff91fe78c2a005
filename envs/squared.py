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
train = {"total_timesteps": 4_000_000}
solved = 0.95
fps = 8


# To play it by hand: the action of each key, and the one when none is pressed, or None to wait for a key.
def keys(config: dict) -> dict[str, int]:
    return {"up": 1, "w": 1, "down": 2, "s": 2, "left": 3, "a": 3, "right": 4, "d": 4, "space": 0}


idle = None
