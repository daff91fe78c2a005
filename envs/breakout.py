"""Breakout: 864 points for two walls of bricks, five balls, and a paddle that steers them."""

import numpy as np
from gymnasium.spaces import Box, Discrete

config = {  # default, lowest, highest
    "frameskip": (4, 1, 64),
    "max_steps": (10_000, 1, 1_000_000),
    "paddle_width": (24.0, 4.0, 144.0),
    "paddle_speed": (3.0, 0.1, 100.0),
    "ball_speed": (2.5, 0.1, 1000.0),
    "brick_reward": (1.0, 0.0, 10.0),
    "lost_reward": (0.0, -10.0, 0.0),
    "continuous": (0, 0, 1),
}


def observation_space(config: dict) -> Box:
    return Box(-1, 1, (118,), np.float32)


def action_space(config: dict) -> Discrete | Box:
    return Box(-1, 1, (1,), np.float32) if config["continuous"] else Discrete(3)


def keys(config: dict) -> dict[str, int | float]:
    """What the keyboard does in hand play; with no key pressed, `idle`."""
    return {"left": -1.0, "right": 1.0} if config["continuous"] else {"left": 1, "right": 2}


idle = 0
train = {"total_timesteps": 30_000_000, "num_envs": 512, "hidden_size": 16}  # with what sweep.py found:
train |= {"update_epochs": 0.5, "learning_rate": 0.025, "gamma": 0.998, "gae_lambda": 0.76}
train |= {"clip_coef": 0.25, "vf_coef": 1.3, "ent_coef": 0.02}
solved = 800
fps = 15
