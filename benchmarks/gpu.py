"""What a GPU gives: its own rates, the advantage kernel, training speed; as Markdown, in under ten minutes.

    python benchmarks/gpu.py                              on a machine with a GPU
    python benchmarks/gpu.py --device cpu --quick         tiny, to see that it runs: its numbers say nothing

The kernel is timed in a CUDA graph of many calls, each on tensors of its own, so that neither Python nor a
cache is in the figure. Calls from Python are timed one after the other, as a trainer makes them. Training
settings take turns, in one process.
"""

import argparse
import itertools
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor
from train import make_trainer

import cleanpuffer

SETTINGS = (0.99, 0.95, 1.0, 1.0)  # gamma, gae_lambda, rho_clip, c_clip
STEP_BYTES = 4 * 4 + 2 * 1 + 2 * 4  # four floats and two bytes read, two floats written


def finish(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_each(calls: list[Callable], device: torch.device, repeats: int, graph: bool = False) -> float:
    """Median seconds of one of the calls, made one after the other; on a GPU, if asked, from a CUDA graph."""

    def run() -> list:
        return [call() for call in calls]  # results are kept, so that none lands where another was

    for _ in range(2):  # compiles, and fills the pool of memory
        run()
    if graph and device.type == "cuda":
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded):
            run()
        run = recorded.replay
    times = []
    for _ in range(repeats):
        finish(device)
        began = time.perf_counter()
        run()
        finish(device)
        times.append((time.perf_counter() - began) / len(calls))
    return statistics.median(times)


def copy_rate(device: torch.device, size: int, repeats: int) -> float:
    """Bytes a second, read and written, of copies of `size` bytes."""
    source = torch.randn(size // 4, device=device)
    target = torch.empty_like(source)
    return 2 * size / seconds_each([lambda: target.copy_(source)] * 4, device, repeats)


def product_rate(device: torch.device, width: int, precision: str, repeats: int) -> float:
    """Operations a second of products of random square matrices: bfloat16, float32 or tf32."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = (torch.randn(width, width, device=device, dtype=dtype) for _ in range(2))
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    seconds = seconds_each([lambda: a @ b] * 4, device, repeats)
    torch.set_float32_matmul_precision("highest")
    return 2 * width**3 / seconds


def random_segments(segments: int, horizon: int, device: torch.device) -> list[Tensor]:
    """Experience [segments, horizon] in the order of `advantages_reference`; an episode is 100 steps."""
    rewards, values, bootstraps = (torch.randn(segments, horizon, device=device) for _ in range(3))
    ends = torch.randint(0, 200, (segments, horizon), device=device)
    ratios = (0.3 * torch.randn(segments, horizon, device=device)).exp()
    return [rewards, values, bootstraps, (ends == 0).byte(), (ends == 1).byte(), ratios]


def kernel_row(
    kernel: Callable, shape: tuple[int, int], device: torch.device, least: int, bandwidth: float, repeats: int
) -> list[str]:
    """A row of the kernel's table, timed over at least `least` bytes."""
    size = STEP_BYTES * math.prod(shape)
    inputs = [random_segments(*shape, device) for _ in range(math.ceil(least / size))]
    seconds = seconds_each([lambda x=x: kernel(*x, *SETTINGS) for x in inputs], device, repeats, graph=True)
    reference = cleanpuffer.advantages_reference
    called, slow = (
        seconds_each([lambda f=f: f(*inputs[0], *SETTINGS)], device, repeats) for f in (kernel, reference)
    )
    exact = reference(*(x.double() if x.is_floating_point() else x for x in inputs[0]), *SETTINGS)
    pairs = zip(kernel(*inputs[0], *SETTINGS), exact, strict=True)
    difference = max((result - want).abs().max().item() for result, want in pairs)
    return [
        f"{shape[0]:,} x {shape[1]}",
        f"{seconds * 1e6:,.1f}",
        f"{size / 1e6:,.1f}",
        f"{size / seconds / 1e9:,.0f} GB/s, {size / seconds / bandwidth:.0%}",
        f"{called * 1e6:,.0f}",
        f"{slow * 1e6:,.0f}",
        f"{difference:.1e}",
    ]


def train_for(trainer: cleanpuffer.Trainer, seconds: float) -> tuple[float, float]:
    """Steps a second, and the share of the time that `collect` took; `update` ends by waiting for the GPU."""
    first, collecting, began = trainer.steps, 0.0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        trainer.collect()
        collecting += time.perf_counter() - start
        trainer.update()
    passed = time.perf_counter() - began
    return (trainer.steps - first) / passed, collecting / passed


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def measure_device(device: torch.device, quick: bool, repeats: int) -> float:
    """Prints the table of the device's rates; returns its bytes a second."""
    bandwidth = copy_rate(device, 2**16 if quick else 2**32, repeats)
    kinds = ("bfloat16", "tf32", "float32")
    rates = [product_rate(device, 64 if quick else 8192, kind, repeats) for kind in kinds]
    print_table(
        ["memory, read and written", *(f"{kind} products" for kind in kinds)],
        [[f"{bandwidth / 1e9:,.0f} GB/s", *(f"{rate / 1e12:,.1f} Top/s" for rate in rates)]],
    )
    return bandwidth


def measure_kernel(device: torch.device, quick: bool, repeats: int, bandwidth: float) -> None:
    if find_spec("triton") is None:
        print("\nThe advantage kernel is skipped: triton is not installed.")
        return
    if device.type == "cpu":
        print("\nThe advantage kernel runs in Triton's interpreter.")
        os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
    from kernels.gpu import advantages_triton

    shapes = [(4096, 64), (8192, 64), (16384, 64), (65536, 64), (16384, 128), (65536, 16), (16384, 100)]
    rows = [
        kernel_row(advantages_triton, shape, device, 1 if quick else 2**33, bandwidth, repeats)
        for shape in ([(8, 16)] if quick else shapes)
    ]
    print_table(
        [
            "segments x horizon",
            "µs a call, in a graph",
            "MB",
            "of the bandwidth",
            "µs from Python",
            "µs of the reference from Python",
            "largest difference to it in float64",
        ],
        rows,
    )


def measure_training(device: torch.device, quick: bool, repeats: int, seconds: float) -> None:
    sizes = [(32, 1024)] if quick else [(4096, 16384), (16384, 16384), (16384, 65536)]  # copies, minibatch
    graphs = ["--no-cuda-graphs", "--cuda-graphs"] if device.type == "cuda" else ["--no-cuda-graphs"]
    settings = list(itertools.product(("breakout", "pong"), sizes, ("float32", "bfloat16"), graphs))
    trainers = [
        make_trainer(
            f"--env {env} --num-envs {n} --minibatch-size {m} --precision {p} {g} --hidden-size 128 "
            f"--device {device}".split()
        )
        for env, (n, m), p, g in settings
    ]
    results: list[list] = [[] for _ in settings]
    for _ in range(repeats):
        for trainer, result in zip(trainers, results, strict=True):
            tf32 = trainer.args.precision != "float32"  # which a trainer sets for its process
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
            result.append(train_for(trainer, seconds))
    rows, phases = [], []
    for (env, (n, m), precision, graph), trainer, result in zip(settings, trainers, results, strict=True):
        rates, collecting = zip(*result, strict=True)
        name = [env, f"{n:,}", f"{m:,}", precision, "no" if "no" in graph else "yes"]
        spread = f"{statistics.median(rates):,.0f} ({min(rates):,.0f}, {max(rates):,.0f})"
        share = f"{statistics.median(collecting):.0%}"
        rows.append([*name, f"{trainer.args.groups}", f"{trainer.batch:,}", spread, share])
        phases.append([*name, *(f"{share:.0%}" for share in trainer.profile.shares().values())])
    names = ["env", "copies", "minibatch", "precision", "graphs"]
    print_table([*names, "groups", "batch", "steps/s (lowest, highest)", "in collect"], rows)
    print(
        "\nShares of the time that threads spent in the phases. What a GPU still does then is counted where a"
    )
    print("thread next waits for it: in rollout copy, or in none, at the end of an update.")
    print_table([*names, *cleanpuffer.Profile.PHASES], phases)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, as always on a processor")
    parser.add_argument(
        "--repeats", type=int, help="of each measurement (default 5, 1 if quick), of training at most 3"
    )
    parser.add_argument("--seconds", type=float, help="of each repeat of training (default 2)")
    options = parser.parse_args()

    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("benchmarks/gpu.py: torch finds no GPU here; --device cpu --quick shows that it runs")
        return 2
    quick = options.quick or device.type == "cpu"
    repeats = options.repeats or (1 if quick else 5)
    seconds = options.seconds or (0.01 if quick else 2.0)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a processor"
    print(f"{name}, torch {torch.__version__}")
    bandwidth = measure_device(device, quick, 4 * repeats)
    measure_kernel(device, quick, 4 * repeats, bandwidth)
    measure_training(device, quick, min(repeats, 3), seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
