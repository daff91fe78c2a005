"""Find the way to the far end of a maze, a new one in every episode, seeing only what is near."""

import numpy as np
from gymnasium.spaces import Box, Discrete

# Each knob of MazeConfig in ocean_c/maze.h: default, lowest, highest.
config = {"rooms": (4, 2, 16), "vision": (2, 1, 5), "max_steps": (200, 1, 1_000_000)}


def observation_space(config: dict) -> Box:
    side, size = 2 * config["vision"] + 1, 2 * config["rooms"] + 1
    return Box(-1, 1, (side * side + 2 * size,), np.int8)


def action_space(config: dict) -> Discrete:
    return Discrete(4)


def keys(config: dict) -> dict[str, int]:
    return {"up": 0, "w": 0, "down": 1, "s": 1, "left": 2, "a": 2, "right": 3, "d": 3}


idle = None  # waits for a key
train = {"total_timesteps": 2_000_000}
solved = 0.95
fps = 12
