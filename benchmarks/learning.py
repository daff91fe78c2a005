"""Time to a score, from process start: whole runs as a user starts them, over seeds, in turns.

    python benchmarks/learning.py pong squared                     each to its solved score, five seeds
    python benchmarks/learning.py pong --to-the-end                whole runs, for their final score
    python benchmarks/learning.py pong --curves                    and the score at each tenth of the steps
    python benchmarks/learning.py memory --episodes 1000 -- --recurrent none      and then evaluated

What follows -- is handed to every run.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import envs


def run(env: str, seed: int, stop_score: float | None, episodes: int, extra: list[str]) -> dict:
    """Trains once; the summary, wall time measured from outside and, if asked for, the evaluated score."""
    with tempfile.TemporaryDirectory() as folder:
        script = [sys.executable, str(ROOT / "cleanpuffer.py")]
        stop = [] if stop_score is None else ["--stop-score", str(stop_score)]
        command = [*script, "--env", env, "--seed", str(seed), "--run-dir", f"{folder}/run", *stop, *extra]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr.strip() or done.stdout.strip())
        summary = {"wall": time.perf_counter() - began} | json.loads(
            Path(f"{folder}/run/summary.json").read_text()
        )
        lines = Path(f"{folder}/run/metrics.jsonl").read_text().splitlines()
        summary["curve"] = curve([json.loads(line) for line in lines])
        if episodes:
            command = [*script, "--eval", f"{folder}/run", "--episodes", str(episodes)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            summary["evaluated"] = float(re.match(r"score (\S+)", out)[1])
        return summary


def curve(lines: list[dict]) -> list[float]:
    """The score at each tenth of the steps: that of the last line until then, or else of the first."""
    first, *others = [line for line in lines if line["score"] is not None]
    ends = [tenth / 10 * lines[-1]["step"] for tenth in range(1, 11)]
    return [[first, *(line for line in others if line["step"] <= end)][-1]["score"] for end in ends]


def spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}}, {max(values):{form}})"


def main() -> None:
    own, extra = sys.argv[1:], []
    if "--" in own:
        own, extra = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("envs", nargs="*", default=envs.names())
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--to-the-end", action="store_true", help="do not stop at the solved score")
    parser.add_argument("--curves", action="store_true", help="whole runs, and the score at each tenth")
    parser.add_argument("--episodes", type=int, default=0, help="evaluate every run over so many")
    options = parser.parse_args(own)
    if options.curves:
        extra = ["--log-interval", "0.05", *extra]
    results: dict[str, list[dict]] = {env: [] for env in options.envs}
    for seed in range(1, options.seeds + 1):
        for env in options.envs:
            stop = None if options.to_the_end or options.curves else envs.spec(env).solved
            results[env].append(run(env, seed, stop, options.episodes, extra))
    print(f"{options.seeds} seeds, median (lowest, highest) {' '.join(extra)}\n")
    print("| env | score | wall seconds | steps | solved | evaluated |\n|---|---|---|---|---|---|")
    for env, runs in results.items():
        goal = envs.spec(env).solved
        solved = sum(None not in (goal, r["score"]) and r["score"] >= goal for r in runs)
        evaluated = spread([r["evaluated"] for r in runs], ".3f") if options.episodes else "-"
        print(
            f"| {env} | {spread([r['score'] for r in runs], '.3f')} "
            f"| {spread([r['wall'] for r in runs], '.2f')} | {spread([r['steps'] for r in runs], ',.0f')} "
            f"| {solved} of {len(runs)} | {evaluated} |"
        )
    if options.curves:
        print(f"\n| env |{''.join(f' {tenth}0 % |' for tenth in range(1, 11))}\n|{'---|' * 11}")
        for env, runs in results.items():
            tenths = zip(*(r["curve"] for r in runs), strict=True)
            print(f"| {env} | {' | '.join(spread(list(scores), '.3g') for scores in tenths)} |")


if __name__ == "__main__":
    main()
