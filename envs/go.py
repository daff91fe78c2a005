"""Go on 7 x 7 to 19 x 19 against an opponent that captures, escapes, threatens, or plays at random."""

import numpy as np
from gymnasium.spaces import Box, Discrete

config = {  # default, lowest, highest
    "size": (7, 7, 19),
    # On 7 x 7 perfect play gives black 9 points, and the opponent against itself wins half with about 2.
    "komi": (5.5, -361.0, 361.0),
    "move_limit": (3, 1, 100),
    "legal_moves": (1, 0, 1),
}
SCALARS = 6


def observation_space(config: dict) -> Box:
    return Box(-1, 1, (2 * config["size"] ** 2 + SCALARS + config["legal_moves"],), np.int8)


def action_space(config: dict) -> Discrete:
    return Discrete(config["size"] ** 2 + 1)


def action_mask(config: dict) -> slice | None:
    """Where in an observation the flags of the legal actions are."""
    first = config["size"] ** 2 + SCALARS
    return slice(first, first + config["size"] ** 2 + 1) if config["legal_moves"] else None


def keys(config: dict) -> dict[str, int]:
    """What each key does in play by hand; the stones are set with the mouse."""
    return {"p": config["size"] ** 2}


def board(config: dict) -> dict:
    """Where the board is drawn: cell (0, 0) has its centre at `origin`; action = row * columns + column."""
    pitch = 7 / config["size"]
    return {
        "rows": config["size"],
        "columns": config["size"],
        "view": (10, 7.5),
        "origin": (0.25 + pitch / 2, 0.25 + pitch / 2),
        "pitch": pitch,
    }


idle = None  # the game waits for a move
train = {"total_timesteps": 20_000_000, "num_envs": 512, "hidden_size": 128}
solved = 0.9
fps = 2
