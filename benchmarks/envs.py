"""Million agent steps a second of every environment through VecEnv.step, on one core, as a markdown table.

    python benchmarks/envs.py                                     all environments, some with several settings
    python benchmarks/envs.py pong squared --copies 4096 --seconds 10

Timed are the call from Python, the check of the actions, the C loop with its resets, and reading the log;
actions are drawn beforehand. A copy with several agents counts as so many of `--copies`. Repetitions of the
environments take turns, so that a busy moment slows all alike; the table gives the median, and the slowest
and fastest repetition. For comparison: PufferLib 3.0's own C on a machine of the same kind, one core and
1,024 copies.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout; also, this file is named envs

import envs

REPETITIONS = 15
PUFFERLIB = {  # million steps a second
    "breakout": 6.4,
    "cartpole": 44,
    "connect4": 0.06,
    "go": 1.25,
    "pong, frameskip 1": 46,
    "pong, frameskip 8": 10.6,
    "snake, 256 to a map": 7.2,
    "squared": 90,
    "tetris": 5.8,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="environments; all of them if none is given")
    parser.add_argument("--copies", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=3, help="time for each row of the table")
    args = parser.parse_args()
    variants = [variant for name in args.names or envs.names() for variant in variants_of(name)]
    players = {label: Player(name, args.copies, config) for label, name, config in variants}
    speeds = {label: [] for label in players}
    for _ in range(REPETITIONS):
        for label, player in players.items():
            speeds[label].append(player.speed(args.seconds / REPETITIONS) / 1e6)

    print(f"\n{args.copies} copies, one core, {REPETITIONS} repetitions\n")
    print("| environment | million steps/s | slowest | fastest | PufferLib 3.0 |\n|---|---:|---:|---:|---:|")
    for label, measured in speeds.items():
        slowest, median, fastest = np.quantile(measured, (0, 0.5, 1))
        print(f"| {label} | {median:.1f} | {slowest:.1f} | {fastest:.1f} | {PUFFERLIB.get(label, '')} |")


def variants_of(name: str) -> list[tuple[str, str, dict]]:
    """Label, name and config of each row for an environment."""
    if name == "pong":
        return [(f"pong, frameskip {frames}", name, {"frameskip": frames}) for frames in (1, 8)]
    if name == "snake":
        crowd = {"agents": 256, "width": 256, "height": 192, "food": 1024}  # room for each as by default
        return [("snake, 32 to a map", name, {}), ("snake, 256 to a map", name, crowd)]
    return [(name, name, {})]


class Player:
    """An environment in the middle of its episodes, with actions to come."""

    def __init__(self, name: str, copies: int, config: dict):
        self.env = envs.make(name, max(1, copies // envs.resolve(name, config)[1]), config=config)
        self.env.reset(seed=0)
        self.env.action_space.seed(0)
        self.actions = [self.env.action_space.sample() for _ in range(256)]
        self.speed(0.1)  # warms up, and takes episodes out of step

    def speed(self, seconds: float) -> float:
        """Agent steps a second."""
        rounds, start = 0, time.perf_counter()
        while time.perf_counter() < start + seconds:
            for actions in self.actions:
                self.env.step(actions)
            self.env.log()
            rounds += 1
        return rounds * len(self.actions) * self.env.num_envs / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
