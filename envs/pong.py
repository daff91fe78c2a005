"""Pong to 21 points against an opponent that follows the ball; beaten by putting spin on it."""

import numpy as np
from gymnasium.spaces import Box, Discrete

config = {  # default, lowest, highest
    "frameskip": (8, 1, 64),
    "max_score": (21, 1, 1000),
    "max_steps": (5000, 1, 1_000_000),
    "paddle_height": (16.0, 1.0, 60.0),
    "paddle_speed": (1.5, 0.1, 8.0),
    "ball_speed": (3.0, 0.5, 4.0),
    "ball_spin": (0.6, 0.0, 4.0),
    "ball_max_spin": (2.4, 0.1, 4.0),
    "hit_reward": (0.1, 0.0, 1.0),
    "continuous": (0, 0, 1),
}


def observation_space(config: dict) -> Box:
    return Box(-1, 1, (8,), np.float32)


def action_space(config: dict) -> Discrete | Box:
    return Box(-1, 1, (1,), np.float32) if config["continuous"] else Discrete(3)


def keys(config: dict) -> dict[str, int | float]:
    """What the keyboard does in hand play; with no key pressed, `idle`."""
    up, down = (-1.0, 1.0) if config["continuous"] else (1, 2)
    return {"up": up, "w": up, "down": down, "s": down}


idle = 0
train = {"total_timesteps": 2_000_000}
solved = 20
fps = 15
