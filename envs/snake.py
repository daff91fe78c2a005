"""Many snakes on one map eat, grow and get into each other's way; one policy plays them all."""

import numpy as np
from gymnasium.spaces import Box, Discrete

config = {  # default, lowest, highest
    "agents": (32, 1, 256),
    "width": (64, 4, 256),
    "height": (48, 4, 256),
    "food": (192, 0, 65536),
    "vision": (5, 1, 7),
    "max_length": (20, 3, 65536),
    "max_steps": (1000, 1, 1_000_000),
    "food_reward": (0.2, 0.0, 10.0),
    "death_reward": (-1.0, -10.0, 0.0),
    "corpse_food": (0.5, 0.0, 1.0),
}


def observation_space(config: dict) -> Box:
    side = 2 * config["vision"] + 1
    return Box(-1, 1, (side, side), np.int8)


def action_space(config: dict) -> Discrete:
    return Discrete(5)


def keys(config: dict) -> dict[str, int]:
    """Actions of the keys, for playing by hand."""
    return {"up": 1, "down": 2, "left": 3, "right": 4, "w": 1, "s": 2, "a": 3, "d": 4}


idle = 0  # the action without a key: straight on
train = {"total_timesteps": 10_000_000, "num_envs": 8}  # with what sweep.py found:
train |= {"update_epochs": 1.26, "learning_rate": 0.015, "gamma": 0.997}
train |= {"gae_lambda": 0.78, "ent_coef": 0.0015}
solved = 40
fps = 10
