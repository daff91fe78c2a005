"""See a cue, walk a corridor, and recall the cue at its end: chance (0.5) without a recurrent policy.

What lies further back than the horizon is hardly learned: keep `length` below it (docs/algorithm.md).
"""

import numpy as np
from gymnasium.spaces import Box, Discrete

config = {"length": (16, 1, 100_000)}  # default, lowest, highest


def observation_space(config: dict) -> Box:
    return Box(0, 1, (4,), np.float32)


def action_space(config: dict) -> Discrete:
    return Discrete(2)


train = {"total_timesteps": 6_000_000}
solved = 0.95
fps = 12


def keys(config: dict) -> dict[str, int]:
    return {"up": 0, "w": 0, "down": 1, "s": 1}


idle = None
