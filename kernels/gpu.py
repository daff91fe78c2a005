"""For GPUs: `advantages_reference` of cleanpuffer.py in Triton, and functions as CUDA graphs.

Triton comes with torch's builds for CUDA and exists for Linux only: import this file where it is used.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE_STEPS = 512  # of a program: four for each of its 128 threads, one load of 16 bytes of every array


@triton.jit
def compose(trace, slope, advantage, advantage_slope,
            own_trace, own_slope, own_advantage, own_advantage_slope):
    """A span of steps ("own") put before the one that follows it. With x the trace behind the last step of a
    span, the trace of its first step is trace + slope x, its advantage advantage + advantage_slope x."""
    return (own_trace + own_slope * trace, own_slope * slope,
            own_advantage + own_advantage_slope * trace, own_advantage_slope * slope)


@triton.jit
def turn(x, shape: tl.constexpr):
    """`x`, of a multiple of 4 numbers, with each four turned round: 0 1 2 3 4 5 … becomes 3 2 1 0 7 6 …"""
    even, odd = tl.split(tl.reshape(x, [x.numel // 4, 2, 2]))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return tl.reshape(tl.join(tl.join(fourth, second), tl.join(third, first)), shape)


# Each step's trace is linear in the next one's, and such maps can be composed in any grouping: one scan does
# all steps of a tile. Steps of a segment lie side by side in memory: a thread loads four of them, its
# neighbour the four before. So the scan goes from the back, but for each thread's own four. To turn those is
# to rename registers; reverse=True would send every number through the warp instead, 176 shuffles for 10
# (Triton 3.7). For horizons that are multiples of 4 there are neither barriers nor shared memory.
@triton.jit
def advantages_kernel(rewards, values, bootstraps, terminals, truncations, ratios, targets, advantages,
                      segments, gamma, decay, rho_clip, c_clip,
                      HORIZON: tl.constexpr, ROWS: tl.constexpr, TIMES: tl.constexpr):
    """One program does ROWS segments, in tiles of TIMES steps from the back."""
    FOURS: tl.constexpr = TIMES // 4
    four = tl.arange(0, ROWS * FOURS)[:, None]  # those of one segment after the other, each from its end
    segment = tl.program_id(0) * ROWS + four // FOURS
    column = tl.arange(0, TIMES)[None, :]
    behind_tile = tl.zeros([ROWS, 1], tl.float32)  # the trace there
    for done in range(0, HORIZON, TIMES):
        time = HORIZON - done - 4 * (four % FOURS + 1) + tl.arange(0, 4)[None, :]  # [ROWS * FOURS, 4]
        inside = (segment < segments) & (time >= 0)
        at = segment.to(tl.int64) * HORIZON + time
        reward, value = tl.load(rewards + at, inside), tl.load(values + at, inside)
        bootstrap, ratio = tl.load(bootstraps + at, inside), tl.load(ratios + at, inside)
        terminal, truncated = tl.load(terminals + at, inside) != 0, tl.load(truncations + at, inside) != 0
        next_value = tl.load(values + at + 1, inside & (time < HORIZON - 1))  # from a cache

        next_value = tl.where(truncated | (time == HORIZON - 1), bootstrap, next_value)
        delta = reward + gamma * tl.where(terminal, 0.0, next_value) - value
        carried = tl.where(terminal | truncated, 0.0, decay)  # of the trace behind
        steps = (turn(tl.minimum(ratio, rho_clip) * delta, [ROWS, TIMES]),
                 turn(tl.minimum(ratio, c_clip) * carried, [ROWS, TIMES]),
                 turn(delta, [ROWS, TIMES]), turn(carried, [ROWS, TIMES]))
        trace, slope, advantage, advantage_slope = tl.associative_scan(steps, 1, compose)
        trace += slope * behind_tile
        advantage += advantage_slope * behind_tile
        behind_tile = tl.sum(tl.where(column == TIMES - 1, trace, 0.0), 1, keep_dims=True)
        tl.store(targets + at, value + turn(trace, [ROWS * FOURS, 4]), inside)
        tl.store(advantages + at, turn(advantage, [ROWS * FOURS, 4]), inside)


def advantages_triton(
        rewards: Tensor, values: Tensor, bootstraps: Tensor, terminals: Tensor, truncations: Tensor,
        ratios: Tensor, gamma: float, gae_lambda: float, rho_clip: float, c_clip: float,
) -> tuple[Tensor, Tensor]:
    """`advantages_reference` for contiguous tensors of a GPU: float32, terminals and truncations bytes.

    The first call for a horizon compiles. Later ones can be captured in a CUDA graph. Where c is clipped so
    high that its product over 128 steps is beyond float32, results may not be finite.
    """
    targets, advantages = torch.empty_like(values), torch.empty_like(values)
    segments, horizon = values.shape
    times = min(128, max(4, triton.next_power_of_2(horizon)))  # at most what one warp loads
    rows = TILE_STEPS // times
    with torch.cuda.device_of(values):  # Triton launches on the current device
        advantages_kernel[(triton.cdiv(segments, rows),)](
            rewards, values, bootstraps, terminals, truncations, ratios, targets, advantages, segments,
            gamma, gamma * gae_lambda, rho_clip, c_clip, horizon, rows, times, num_warps=4)
    return targets, advantages


def tensors_in(x: Any) -> Iterator[Tensor]:
    """The tensors of nested tuples, in order."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, tuple):
        for part in x:
            yield from tensors_in(part)


def copy_of(x: Any) -> Any:
    if isinstance(x, tuple):
        return tuple(map(copy_of, x))
    return x.clone() if isinstance(x, Tensor) else x


class Graph:
    """A function of tensors, and tuples of tensors, that is recorded as a CUDA graph at its first call and
    replayed from then on: one launch for all its kernels. Arguments keep their shapes, and those of other
    kinds, which are never looked at again, their values. What is returned is overwritten by the next call;
    what else is read must stay where it is, numbers what they are.

    changed: what the function changes beside, so that the runs before the recording, in which libraries set
    themselves up, leave no trace.
    """

    recording = threading.Lock()  # groups begin at the same time

    def __init__(self, function: Callable, changed: Sequence[Tensor] = ()):
        self.function, self.changed, self.replay = function, changed, None

    def __call__(self, *arguments: Any) -> Any:
        if self.replay is None:
            with self.recording:
                self.arguments = copy_of(arguments)
                self.replay, self.results = self.record()
        for own, new in zip(tensors_in(self.arguments), tensors_in(arguments), strict=True):
            own.copy_(new)
        self.replay()
        return self.results

    def record(self) -> tuple[Callable[[], None], Any]:
        before = [x.clone() for x in self.changed]
        self.warm_up()
        with torch.no_grad():
            for x, own in zip(self.changed, before, strict=True):
                x.copy_(own)
        return self.capture()

    def warm_up(self) -> None:
        # On the stream of the recording, which no other graph has: cuBLAS has a workspace for each, which
        # graphs that run at the same time must not share, and autograd remembers the streams of what it has
        # seen. A group's stream will do.
        current = torch.cuda.current_stream()
        self.stream = torch.cuda.Stream() if current == torch.cuda.default_stream() else current
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            for _ in range(3):
                self.function(*self.arguments)
        current.wait_stream(self.stream)

    def capture(self) -> tuple[Callable[[], None], Any]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            results = self.function(*self.arguments)
        return graph.replay, results


def record(trainer: Any) -> None:
    """Has a Trainer's steps, the policy's and the optimizer's, become graphs when they are first made."""
    s, optimizer = trainer.segments, trainer.optimizer
    changed = [trainer.losses, s.values, s.ratios, *trainer.parameters, optimizer.steps]
    changed += [x for group in optimizer.moments for tensors in group for x in tensors]
    trainer.graphs = [Graph(trainer.play_step) for _ in trainer.streams]
    trainer.learn = Graph(trainer.learn, changed)
