"""Several processes train one policy, each on its share of the environments.

    torchrun --nproc-per-node=2 cleanpuffer.py --env pong

Rank 0 runs `train` in cleanpuffer.py as a process alone does: it decides, writes and shows. Before each of
its steps it tells the others, who `follow`, to do the same. Its weights are theirs, and stay so, as all make
equal steps by equal gradients: means over the ranks of each one's mean over its share of the minibatch.
--num-envs and --minibatch-size count what all have together; --groups is each process's own.

Commands and objects go over gloo. So do tensors of a processor; those of GPUs, one a process, over nccl.
"""

import dataclasses
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from build import BuildError
from trackers import RANK, WORLD, Diverged, UsageError, to_json, write_atomic

STEP, SAVE, LOAD, END = range(4)  # what rank 0 tells the others to do
STARTED = time.time()


class Lost(Exception):
    """Another process has ended in the middle of something."""


@contextmanager
def connected() -> Iterator[None]:
    """Every exchange stands in one: gloo and nccl have no error of their own for a lost connection."""
    try:
        yield
    except RuntimeError as error:
        message = re.sub(r"^\[.*?\] ", "", str(error))  # of the file it comes from
        raise Lost(re.split(r"\. |\n", message)[0]) from error


def tell(command: int, value: int = 0) -> tuple[int, int]:
    """On rank 0, tells the others what to do; on these, waits to be told, and returns it."""
    told = torch.tensor((command, value))
    with connected():
        dist.broadcast(told, 0)
    return tuple(told.tolist())


def gather(own: Any) -> list:
    """Objects of all ranks in their order on rank 0, [] on the others."""
    parts = [None] * WORLD if RANK == 0 else None
    with connected():
        dist.gather_object(own, parts)
    return parts or []


def scatter(parts: list) -> Any:
    """This rank's own of the objects that rank 0 has, one for each."""
    own = [None]
    with connected():
        dist.scatter_object_list(own, parts or None)
    return own[0]


def share(args: Any) -> Any:
    """What a process has of the settings: its part of sizes, a GPU, random streams of its own."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", WORLD))  # processes on this machine
    return dataclasses.replace(
        args,
        num_envs=args.num_envs // WORLD,
        minibatch_size=args.minibatch_size // WORLD,
        num_threads=max(args.env_threads, args.num_threads // local),
        device=f"cuda:{os.environ['LOCAL_RANK']}" if args.device == "cuda" else args.device,
        seed=(args.seed + RANK * 0x9E3779B97F4A7C15) % 2**63,  # far from other seeds of other ranks
    )


class Rank:
    """What a Trainer does otherwise as one of several; mixed into its class."""

    world = WORLD

    def __init__(self, args: Any):
        self.whole = args
        super().__init__(share(args))
        self.group = dist.new_group(backend="nccl") if self.device.type == "cuda" else None
        with connected():
            for x in (*self.policy.parameters(), *self.policy.buffers()):
                dist.broadcast(x.data, 0, group=self.group)
        if self.policy.normalizer is not None:
            self.merge, self.policy.normalizer.merge = self.policy.normalizer.merge, self.merge_all

    def average(self, tensors: list[Tensor]) -> list[Tensor]:
        """Means over the ranks, in one exchange of one flat tensor: each exchange costs as much as it waits.

        DistributedDataParallel would do this in autograd's hooks, but the network in C has its gradients
        outside of autograd, and on a processor nothing is left to overlap it with.
        """
        flat = torch.cat([x.flatten() for x in tensors])
        with connected():
            dist.all_reduce(flat, group=self.group)
        parts = (flat / WORLD).split([x.numel() for x in tensors])
        return [part.view(x.shape) for part, x in zip(parts, tensors, strict=True)]

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        wide = x.double()  # so that the difference of squares is exact enough
        mean, square = self.average([wide.mean(), wide.square().mean()])
        return mean.float(), (square - mean**2).clamp(min=0).sqrt().float()

    def merge_all(self, n: int, mean: Tensor, variance: Tensor) -> None:
        """The observation normaliser's `merge`, with what all ranks have seen."""
        [middle] = self.average([mean])
        [variance] = self.average([variance + (mean - middle) ** 2])
        self.merge(n * WORLD, middle, variance)

    def collect(self) -> None:
        if RANK == 0:
            tell(STEP)
        super().collect()

    def log(self) -> dict[str, float]:
        """Means over the episodes of all ranks. An interrupt that any of them has seen is rank 0's, too."""
        seen = gather((super().log(), self.interrupted.is_set()))
        if any(interrupted for _, interrupted in seen):
            self.interrupted.set()
        reports = [report for report, _ in seen if report["n"]]
        n = sum(report["n"] for report in reports)
        fields = [field for field in reports[0] if field != "n"] if reports else []
        return {k: sum(report[k] * report["n"] for report in reports) / n for k in fields} | {"n": n}

    def save(self) -> dict[str, Any]:
        """What one process would save, of the environments of all: rank 0's first."""
        if RANK == 0:
            tell(SAVE)
        saved = super().save()
        own = saved["generators"], *({k: x.cpu() for k, x in items(saved, name)} for name in SPLIT)
        generators, *parts = zip(*gather(own), strict=True) if RANK == 0 else (gather(own),)
        if RANK:
            return {}
        for name, rows in zip(SPLIT, parts, strict=True):
            joined = {k: torch.cat([part[k] for part in rows]) for k in rows[0] if k != "made_as"}
            saved[name] = saved[name] | joined if isinstance(saved[name], dict) else tuple(joined.values())
        saved["generators"] = [state for pair in generators for state in pair]
        saved["layout"]["num_envs"] = self.whole.num_envs
        return saved

    def load(self, saved: dict[str, Any]) -> None:
        """Goes back to what any number of processes saved. The same number goes on with the same bits; random
        streams that there were not begin anew."""
        parts = []
        if RANK == 0:
            before = saved["layout"]["num_envs"]
            if before != (now := self.whole.num_envs):
                raise UsageError(f"--resume: its checkpoint has num_envs {before}, not {now}")
            saved["layout"]["num_envs"] = self.args.num_envs
            parts = [divide(saved, rank) for rank in range(WORLD)]
            super().load(parts[0])  # which fails, if it does, before the others know
            tell(LOAD)
        own = scatter(parts)
        if RANK:
            if not own["generators"]:
                torch.manual_seed(self.args.seed + own["steps"])
                self.generator.manual_seed(self.args.seed + own["steps"])
                own["generators"] = [torch.get_rng_state(), self.generator.get_state()]
            super().load(own)

    def follow(self) -> int:
        """Does what rank 0 tells, until it tells the exit code."""
        while True:
            command, value = tell(END)
            if command == STEP:
                with suppress(Diverged):  # as on rank 0, which says so
                    self.collect()
                    self.update()
                    self.log()
            elif command == SAVE:
                self.save()
            elif command == LOAD:
                self.load({})
            else:
                return value


SPLIT = ("lstm", "replay", "environment")  # what a checkpoint has of every row or copy


def items(saved: dict[str, Any], name: str) -> Any:
    part = saved[name]
    return part.items() if isinstance(part, dict) else enumerate(part)


def divide(saved: dict[str, Any], rank: int) -> dict[str, Any]:
    """A rank's part of a checkpoint."""

    def rows(name: str, x: Tensor) -> Tensor:
        return x if name == "made_as" else x.tensor_split(WORLD)[rank].clone()  # not a view of all

    parts = {name: {k: rows(k, x) for k, x in items(saved, name)} for name in SPLIT}
    parts["lstm"] = tuple(parts["lstm"].values())
    return saved | parts | {"generators": saved["generators"][2 * rank : 2 * rank + 2]}


def together(train: Callable[[Any, type], int]) -> Callable[[Any, type], int]:
    """`train` of cleanpuffer.py, by all processes. From here on rank 0 alone prints."""
    if RANK:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    return lambda args, kind: start(train, args, type(kind.__name__, (Rank, kind), {}))


def start(train: Callable[[Any, type], int], args: Any, kind: type) -> int:
    """Trains as rank 0 or follows it. Returns the exit code, which is the same for all."""
    if args.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        dist.init_process_group("gloo")
    except (ValueError, RuntimeError) as error:
        message = str(error).splitlines()[0]
        raise UsageError(f"{WORLD} processes, as torchrun starts them, cannot meet: {message}") from None
    try:
        args.run_dir = scatter([args.run_dir] * WORLD if RANK == 0 else [])  # by default it has a random name
        end = watch(args)
        try:
            return follow(args, kind) if RANK else lead(train, args, kind)
        finally:
            end()
    except Lost as error:
        mourn(args, error)
        sys.stdout.flush()
        os._exit(1)  # an orderly end would wait for the one that is lost
    finally:
        dist.destroy_process_group()


def lead(train: Callable[[Any, type], int], args: Any, kind: type) -> int:
    try:
        code = train(args, kind)
    except (UsageError, BuildError):
        with suppress(Lost):
            tell(END, 2)
        raise
    tell(END, code)
    return code


def follow(args: Any, kind: type) -> int:
    interrupted = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: interrupted.set())
    args.gif = None  # which rank 0 draws
    trainer = kind(args)
    trainer.interrupted = interrupted
    return trainer.follow()


def watch(args: Any) -> Callable[[], None]:
    """Has a thread wait for the next rank to end, and ends this process if that one was lost and the main
    thread does not notice, as where it waits for a GPU. Returns the function for an orderly end."""
    ended, group = threading.Event(), dist.new_group(backend="gloo", timeout=timedelta(days=1000))

    def wait() -> None:
        try:
            with connected():
                dist.recv(torch.zeros(1), (RANK + 1) % WORLD, group)
        except Lost as error:
            if not ended.wait(2):
                mourn(args, error)
                os._exit(1)

    def end() -> None:
        ended.set()
        with suppress(RuntimeError):
            dist.send(torch.zeros(1), (RANK - 1) % WORLD, group)
        thread.join(2)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return end


def mourn(args: Any, error: Lost) -> None:
    """What is left to do where a process was lost: the first of the others says so, and sees to summary.json,
    which rank 0 has written if it could."""
    time.sleep(0.5 * RANK)
    path = Path(args.run_dir)
    summary = path / "summary.json"
    written = summary.exists() and summary.stat().st_mtime >= STARTED
    if RANK and written:
        return
    if not written and (args.resume or not summary.exists()):  # rank 0 is lost, or had not begun
        last = {}
        with suppress(OSError, ValueError, IndexError):
            last = json.loads((path / "metrics.jsonl").read_bytes().splitlines()[-1])
        names = {"cost": "seconds", "steps": "step"}
        fields = ("score", "perf", "episodes", "cost", "steps", "sps")
        record = {"status": "error"} | {name: last.get(names.get(name, name)) for name in fields}
        with suppress(OSError):
            write_atomic(summary, to_json(record))
    print(f"cleanpuffer.py: error: a process of this run was lost: {error}", file=sys.stderr, flush=True)
