"""Training speed: steps a second, where the time goes, and the share of this machine's matrix-product rate.

    python benchmarks/train.py                                 pong, LSTM of width 32 and 128, two threads
    python benchmarks/train.py --widths 128 --threads 1 2      settings are measured in turns, in one process
    python benchmarks/train.py --busy                          also beside a process that keeps a core busy
    python benchmarks/train.py --precisions float32 bfloat16   products in either
    python benchmarks/train.py --costs                         a step's cost against copies, width, horizon

A step costs 2 operations a weight to play and 6 to train (Kaplan et al. 2020, section 2.1). Their rate is
compared with that of 1024 x 1024 matrix products by torch on as many threads, measured in turns with it: of
float32 numbers and, where training rounds to bfloat16, of these.
"""

import argparse
import concurrent.futures
import itertools
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import cleanpuffer
from settings import choose_sizes, parse_arguments


def matrix_product_rate(threads: int, precision: str = "float32", seconds: float = 0.5) -> float:
    """Operations a second of products of this precision, each thread on its own matrices."""

    def work(_: int) -> int:
        torch.set_num_threads(1)
        a, b = torch.randn(2, 1024, 1024, dtype=getattr(torch, precision))
        done, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            a @ b
            done += 1
        return done

    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(work, range(threads)))
    return done * 2 * 1024**3 / (time.perf_counter() - began)


def make_trainer(arguments: list[str]) -> cleanpuffer.Trainer:
    args = parse_arguments([*arguments, "--total-timesteps", str(10**12)], cleanpuffer.Args)
    choose_sizes(args)
    trainer = cleanpuffer.Trainer(args)
    for _ in range(2):  # warm up
        trainer.collect()
        trainer.update()
    trainer.profile.shares()
    return trainer


def steps_per_second(trainer: cleanpuffer.Trainer, seconds: float) -> float:
    began, first = time.perf_counter(), trainer.steps
    while time.perf_counter() - began < seconds:
        trainer.collect()
        trainer.update()
    return (trainer.steps - first) / (time.perf_counter() - began)


def measure_costs(options: argparse.Namespace) -> None:
    """Nanoseconds a step against copies, width and horizon, the others at 512, 32 and 64; minibatches are an
    eighth of the batch. Where cost grows in proportion, a row is level."""
    table = {
        "copies": [["--num-envs", str(n)] for n in (64, 256, 512, 1024, 4096, 16384)],
        "width": [["--hidden-size", str(n)] for n in (16, 32, 64, 128, 256, 512)],
        "horizon": [["--horizon", str(n)] for n in (8, 16, 32, 64, 128, 256)],
    }
    base = ["--env", options.env, "--num-envs", "512", "--hidden-size", "32", "--horizon", "64"]
    base += ["--num-threads", str(options.threads[0]), "--precision", options.precisions[0]]
    for name, settings in table.items():
        trainers = []
        for setting in settings:
            sizes = dict(zip(base[::2], base[1::2], strict=True)) | dict([setting])
            batch = int(sizes["--num-envs"]) * int(sizes["--horizon"])
            trainers.append(make_trainer([*base, *setting, "--minibatch-size", str(batch // 8)]))
        rates = [[] for _ in settings]
        for _ in range(options.repeats):
            for trainer, own in zip(trainers, rates, strict=True):
                own.append(steps_per_second(trainer, options.seconds / 2))
        costs = [1e9 / statistics.median(own) for own in rates]
        weights = [sum(p.numel() for p in trainer.parameters) for trainer in trainers]
        print(f"\n| {name} | " + " | ".join(value for _, value in settings) + " |")
        print("|---" * (1 + len(settings)) + "|")
        print("| ns a step | " + " | ".join(f"{cost:,.0f}" for cost in costs) + " |")
        rows = (f"{8 * count / cost:.0f}" for count, cost in zip(weights, costs, strict=True))
        print("| Gop/s | " + " | ".join(rows) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="pong")
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--precisions", nargs="+", default=["float32"], help="float32, bfloat16")
    parser.add_argument("--costs", action="store_true", help="cost against copies, width and horizon instead")
    parser.add_argument("--num-envs", type=int, default=1024)
    parser.add_argument("--minibatch-size", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each repeat")
    parser.add_argument("--busy", action="store_true", help="also beside a busy process")
    options = parser.parse_args()

    if options.costs:
        return measure_costs(options)
    settings = list(itertools.product(options.widths, options.precisions, options.threads))
    sizes = ["--env", options.env, "--num-envs", str(options.num_envs)]
    sizes += ["--minibatch-size", str(options.minibatch_size)]
    trainers = [
        make_trainer(
            [*sizes, "--hidden-size", str(width), "--precision", precision, "--num-threads", str(threads)]
        )
        for width, precision, threads in settings
    ]
    rates, busy_rates = ([[] for _ in settings] for _ in range(2))
    products = [{name: [] for name in dict.fromkeys(("float32", precision))} for _, precision, _ in settings]
    for _ in range(options.repeats):
        for i, (_, _, threads) in enumerate(settings):
            for precision, own in products[i].items():
                own.append(matrix_product_rate(threads, precision))
            rates[i].append(steps_per_second(trainers[i], options.seconds))
            if options.busy:
                neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                try:
                    busy_rates[i].append(steps_per_second(trainers[i], options.seconds))
                finally:
                    neighbour.kill()
                    neighbour.wait()

    print(f"{options.env}, {options.num_envs} copies, minibatch {options.minibatch_size}\n")
    columns = (
        "width",
        "precision",
        "threads",
        "steps/s (lowest, highest)",
        "of the matrix-product rate",
        "beside a busy process",
    )
    print(f"| {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|")
    for i, (width, precision, threads) in enumerate(settings):
        rate = statistics.median(rates[i])
        spread = f"{min(rates[i]):,.0f}, {max(rates[i]):,.0f}"
        weights = sum(p.numel() for p in trainers[i].parameters)
        busy = f"{statistics.median(busy_rates[i]) / rate:.0%}" if options.busy else "-"
        medians = {name: statistics.median(own) for name, own in products[i].items()}
        shares = ", ".join(
            f"{8 * weights * rate / median:.0%} of {median / 1e9:.0f} Gop/s in {name}"
            for name, median in medians.items()
        )
        print(f"| {width} | {precision} | {threads} | {rate:,.0f} ({spread}) | {shares} | {busy} |")
    print("\n| width | precision | threads | " + " | ".join(cleanpuffer.Profile.PHASES) + " |")
    print("|" + "---|" * (3 + len(cleanpuffer.Profile.PHASES)))
    for (width, precision, threads), trainer in zip(settings, trainers, strict=True):
        print(
            f"| {width} | {precision} | {threads} | "
            + " | ".join(f"{s:.0%}" for s in trainer.profile.shares().values())
            + " |"
        )


if __name__ == "__main__":
    main()
