"""Which learning rate is best at which width, with muP and without: scores after a fixed number of steps.

    python benchmarks/width.py --processes 2 --svg docs/width.svg        Muon and Adam, pong and breakout
    python benchmarks/width.py --envs pong --optimizers adam --seeds 5

The network of the first width is the same in both ways: muP is told that width as its base. A run whose loss
is not finite has the score of one that has learned nothing. The curves need matplotlib.
"""

import argparse
import concurrent.futures
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cleanpuffer
from settings import choose_sizes, parse_arguments
from trackers import Diverged, write_atomic

STEPS = {"pong": 600_000, "breakout": 1_200_000}  # enough to tell good rates from bad ones
CENTRES = {"muon": 0.03, "adam": 0.004}
LOWEST = {"pong": -21.0, "breakout": 0.0}
Job = tuple[str, str, str, int, float, int]  # env, optimizer, way, width, rate, seed


def run(job: Job, base: int) -> float:
    """The score at the end, over the last 100 episodes or more."""
    env, optimizer, way, width, rate, seed = job
    words = f"--env {env} --optimizer {optimizer} --hidden-size {width} --learning-rate {rate} --seed {seed}"
    words += f" --total-timesteps {STEPS[env]} --num-threads 1"
    if way == "muP":
        words += f" --mup-base-width {base}"
    args = parse_arguments(words.split(), cleanpuffer.Args)
    choose_sizes(args)
    trainer, scores = cleanpuffer.Trainer(args), cleanpuffer.Scores()
    try:
        while trainer.steps < args.total_timesteps:
            trainer.collect()
            trainer.update()
            scores.add(trainer.env.log())
            scores.since_line = 0
    except Diverged:
        return LOWEST[env]
    return scores.means()["score"]


def draw(scores: dict[tuple, list[float]], options: argparse.Namespace) -> None:
    """A row of curves for each environment, a column for each optimizer and way."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    columns = [(optimizer, way) for optimizer in options.optimizers for way in ("standard", "muP")]
    shape = len(options.envs), len(columns)
    _, axes = plt.subplots(
        *shape, figsize=(3 * shape[1], 2.6 * shape[0]), sharey="row", squeeze=False, layout="constrained"
    )
    for row, env in zip(axes, options.envs, strict=True):
        for axis, (optimizer, way) in zip(row, columns, strict=True):
            for width in options.widths:
                rates = [r for e, o, w, h, r in scores if (e, o, w, h) == (env, optimizer, way, width)]
                points = [scores[env, optimizer, way, width, rate] for rate in rates]
                medians = [statistics.median(p) for p in points]
                (line,) = axis.plot(rates, medians, "o-", label=f"width {width}")
                axis.fill_between(rates, *zip(*((min(p), max(p)) for p in points), strict=True), alpha=0.15)
                best = max(range(len(rates)), key=lambda i: medians[i])
                axis.axvline(rates[best], color=line.get_color(), linestyle=":")
            axis.set(xscale="log", title=f"{env}, {optimizer}, {way}", xlabel="learning rate")
            axis.set_xticks(rates, [f"{rate:g}" for rate in rates])
            axis.minorticks_off()
        row[0].set_ylabel("score")
        row[0].legend()
    plt.savefig(options.svg)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--envs", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--optimizers", nargs="+", default=list(CENTRES), choices=list(CENTRES))
    parser.add_argument("--widths", nargs="+", type=int, default=[64, 128, 256])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write scores to this file, and do not repeat what it has")
    parser.add_argument("--svg", type=Path, help="draw the curves")
    options = parser.parse_args()
    base = options.widths[0]
    jobs: list[Job] = [
        (env, optimizer, way, width, CENTRES[optimizer] * 2.0**power, seed)
        for seed in range(1, options.seeds + 1)
        for env in options.envs
        for optimizer in options.optimizers
        for way in ("standard", "muP")
        for width in options.widths
        for power in range(-2, 3)
        if (way, width) != ("muP", base)
    ]
    known = json.loads(options.json.read_text()) if options.json and options.json.exists() else []
    done = {tuple(job): score for *job, b, steps, score in known if (b, steps) == (base, STEPS[job[0]])}
    with concurrent.futures.ProcessPoolExecutor(options.processes) as pool:
        waiting = {pool.submit(run, job, base): job for job in jobs if job not in done}
        for future in concurrent.futures.as_completed(waiting):
            done[waiting[future]] = future.result()
            if options.json:
                found = json.dumps([[*job, base, STEPS[job[0]], score] for job, score in done.items()])
                write_atomic(options.json, found.encode())  # these are hours
    scores: dict[tuple, list[float]] = {}
    for *job, seed in jobs:
        scores.setdefault(tuple(job), []).append(done[(*job, seed)])
        if job[3] == base:
            scores.setdefault((*job[:2], "muP", *job[3:]), []).append(done[(*job, seed)])
    for env in options.envs:
        for optimizer in options.optimizers:
            rates = [CENTRES[optimizer] * 2.0**power for power in range(-2, 3)]
            print(f"\n{env}, {optimizer}, {STEPS[env]:,} steps, {options.seeds} seeds, learning rate:\n")
            print(f"| | width | {' | '.join(f'{rate:g}' for rate in rates)} | best |\n|{'---|' * 8}")
            for way in ("standard", "muP"):
                for width in options.widths:
                    points = [scores[env, optimizer, way, width, rate] for rate in rates]
                    medians = [statistics.median(p) for p in points]
                    best = rates[max(range(5), key=lambda i: medians[i])]
                    cells = [
                        f"{m:.1f} ({min(p):.1f}, {max(p):.1f})" for m, p in zip(medians, points, strict=True)
                    ]
                    print(f"| {way} | {width} | {' | '.join(cells)} | {best:g} |")
    if options.svg:
        draw(scores, options)


if __name__ == "__main__":
    main()
