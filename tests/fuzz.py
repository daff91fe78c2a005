"""Plays random actions with AddressSanitizer and UBSan on; the first memory error or broken promise ends it.

    python tests/fuzz.py                               every environment, a million agent steps each
    python tests/fuzz.py pong squared --steps 10_000_000

Each environment is played with its defaults, with all knobs lowest, all highest, each one alone at both ends,
and drawn at random. Besides memory, every step is held to what environments promise: observations within
their space, finite rewards, perf from 0 to 1. It compiles the debug builds and starts itself again with what
the sanitizers need; that takes gcc on Linux. Exit code 0 if nothing was found.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout

import build  # noqa: E402
import envs  # noqa: E402
from envs.vector import VecEnv  # noqa: E402

ROWS = 64  # at least, in at least two copies


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="environments; all of them if none is given")
    parser.add_argument("--steps", type=int, default=1_000_000, help="agent steps of each environment")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    names = args.names or envs.names()
    if "libasan" not in os.environ.get("LD_PRELOAD", ""):
        return start_again(names)
    for name in names:
        rng = np.random.default_rng(args.seed)
        configs = odd_configs(envs.spec(name).config, rng)
        steps = sum(fuzz(name, config, args.steps // len(configs), rng) for config in configs)
        print(f"{name}: {steps:,} agent steps with {len(configs)} configs, nothing found", flush=True)
    return 0


def start_again(names: list[str]) -> int:
    try:
        for name in names:
            build.compile_module(name, debug=True)
    except build.BuildError as error:
        print(f"fuzz.py: error: {error}", file=sys.stderr)
        return 2
    asked = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    library = asked.stdout.strip()
    if not os.path.isabs(library):
        print("fuzz.py: error: gcc has no libasan.so; install libasan", file=sys.stderr)
        return 2
    wanted = {"CLEANPUFFER_DEBUG": "1", "ASAN_OPTIONS": "detect_leaks=0", "LD_PRELOAD": library}
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | wanted)


def odd_configs(knobs: dict[str, tuple], rng: np.random.Generator) -> list[dict]:
    configs = [{}]
    configs += [{knob: limits[end] for knob, limits in knobs.items()} for end in (1, 2)]
    configs += [{knob: limits[end]} for knob, limits in knobs.items() for end in (1, 2)]
    configs += [{knob: draw(*limits, rng) for knob, limits in knobs.items()} for _ in range(4)]
    return configs


def draw(default: float, low: float, high: float, rng: np.random.Generator) -> float:
    """A value of a knob; of large integers mostly small ones, so that episodes end."""
    if isinstance(default, int):
        return int(low + (high - low + 1) ** rng.random() - 1)
    return float(rng.uniform(low, high))


def fuzz(name: str, config: dict, steps: int, rng: np.random.Generator) -> int:
    """Plays at least `steps` agent steps; returns how many."""
    copies = max(2, ROWS // envs.resolve(name, config)[1])
    env = envs.make(name, copies, seed=int(rng.integers(2**63)), config=config)
    env.action_space.seed(int(rng.integers(2**31)))
    check(env, env.reset()[0])
    rounds = -(-steps // env.num_envs)
    for i in range(rounds):
        observations, rewards, terminals, truncations, infos = env.step(env.action_space.sample())
        check(env, observations)
        assert np.isfinite(rewards).all(), f"{name} {config}: rewards {rewards}"
        assert not (terminals & truncations).any(), f"{name} {config}: terminal and truncation at once"
        if infos:
            check(env, infos["final_obs"][truncations])
        if i % 256 == 0 or i == rounds - 1:
            env.render(int(rng.integers(copies)), *rng.integers(1, 200, 2))
            env.load(env.save())
            log = env.log()
            assert np.isfinite(list(log.values())).all(), f"{name} {config}: log {log}"
            assert -1e-5 <= log.get("perf", 0) <= 1 + 1e-5, f"{name} {config}: perf {log['perf']}"
    env.close()
    return rounds * env.num_envs


def check(env: VecEnv, observations: np.ndarray) -> None:
    space = env.single_observation_space
    inside = (observations >= space.low) & (observations <= space.high)  # false for nan, too
    outside = observations[~inside][:5]
    assert inside.all(), f"{env.name} {env.config}: observations {outside} are not in {space}"


if __name__ == "__main__":
    sys.exit(main())
