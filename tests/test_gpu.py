"""What runs on a GPU: the advantage kernel, in Triton's interpreter and compiled for one, and the benchmark.
Tests that need a GPU are marked so."""

import dataclasses
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from test_trainer import make_trainer, random_segments

from cleanpuffer import Policy, Trainer, advantages_reference
from kernels import cpu

ROOT = Path(__file__).resolve().parent.parent
needs_triton = pytest.mark.skipif(not find_spec("triton"), reason="triton is not there; it exists for Linux")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")

SHAPES = [(1, 1), (3, 7), (33, 64), (100, 128), (9, 257)]  # the last is of two tiles and one step
SETTINGS = [(0.99, 0.95, 1.0, 1.0), (0.9, 0.5, 1.5, 0.7), (1.0, 1.0, 1e6, 1e6)]

INTERPRET = """
import sys, torch
from kernels.gpu import advantages_triton
torch.save([advantages_triton(*call) for call in torch.load(sys.argv[1])], sys.argv[2])
"""

COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from kernels.gpu import advantages_kernel as kernel
signature = dict.fromkeys(kernel.arg_names[:8], "*fp32") | dict.fromkeys(("terminals", "truncations"), "*u8")
signature |= dict.fromkeys(kernel.arg_names[8:], "fp32") | {"segments": "i32"}
sizes = {"HORIZON": 64, "ROWS": 8, "TIMES": 64}
signature |= dict.fromkeys(sizes, "constexpr")
aligned = {(i,): [["tt.divisibility", 16]] for i in range(8)}
source = triton.compiler.ASTSource(kernel, signature, sizes, aligned)
print(triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"])
"""


def run(*command: object, **environment: str) -> str:
    """What a command prints. One of its own, as the interpreter must be chosen before triton is imported."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check(results: tuple, segments: list, settings: tuple) -> None:
    """Holds results to the reference in float64: rounding was at most 2e-7 of the largest number, and a wrong
    step is off by the order of the numbers."""
    exact = [x.double() if x.is_floating_point() else x for x in segments]
    for result, want in zip(results, advantages_reference(*exact, *settings), strict=True):
        tolerance = 2e-6 * max(1.0, want.abs().max().item())
        torch.testing.assert_close(result.double(), want, rtol=0, atol=tolerance)


def interpreted(calls: list, folder: Path) -> list:
    """What the kernel in Triton's interpreter gives for the arguments of each call."""
    torch.save(calls, folder / "calls.pt")
    run("-c", INTERPRET, folder / "calls.pt", folder / "results.pt", TRITON_INTERPRET="1")
    return torch.load(folder / "results.pt")


@needs_triton
def test_interpreted_kernel_is_the_reference(tmp_path):
    calls = [[*random_segments(*shape, seed=i), *SETTINGS[i % 3]] for i, shape in enumerate(SHAPES)]
    for call, results in zip(calls, interpreted(calls, tmp_path), strict=True):
        check(results, call[:6], call[6:])


@needs_triton
def test_ratios_of_one_give_gae(tmp_path):
    """Schulman et al. 2016, equation 16, here written from the back."""
    rewards, values, bootstraps, terminals, truncations, ratios = random_segments(5, 64, seed=9)
    call = [rewards, values, bootstraps, terminals, truncations, torch.ones_like(ratios), 0.97, 0.9, 1.0, 1.0]
    ((targets, advantages),) = interpreted([call], tmp_path)
    next_value, advantage = bootstraps[:, -1], torch.zeros(5)
    for t in reversed(range(64)):
        next_value = torch.where(truncations[:, t] == 1, bootstraps[:, t], next_value)
        delta = rewards[:, t] + 0.97 * (1 - terminals[:, t]) * next_value - values[:, t]
        advantage = delta + 0.97 * 0.9 * (1 - terminals[:, t]) * (1 - truncations[:, t]) * advantage
        torch.testing.assert_close(advantages[:, t], advantage, rtol=1e-5, atol=1e-5)
        next_value = values[:, t]
    torch.testing.assert_close(targets, values + advantages, rtol=1e-5, atol=1e-5)


@needs_triton
def test_kernel_compiles_for_a_gpu_without_one(tmp_path):
    """For an H200 here. Threads load and store 16 bytes of floats at a time and do not wait for each other;
    that needs care with how Triton lays out a tile."""
    code = run("-c", COMPILE, TRITON_CACHE_DIR=str(tmp_path))
    assert code.count("ld.global.v4.b32") == 4 and code.count("st.global.v4.b32") == 2
    assert "bar.sync" not in code and ".shared" not in code


def test_benchmark_runs():
    report = run("benchmarks/gpu.py", "--device", "cpu", "--quick")
    for line in (
        "| memory, read and written |",
        "| breakout | 32 | 1,024 | bfloat16 |",
        "| pong | 32 | 1,024 | float32 |",
    ):
        assert line in report
    assert ("| 8 x 16 |" in report) == bool(find_spec("triton"))


def test_benchmark_without_a_gpu_says_so():
    command, none = [sys.executable, ROOT / "benchmarks" / "gpu.py"], {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | none)
    assert done.returncode == 2 and len(done.stdout.splitlines()) == 1 and "no GPU" in done.stdout


def tape_class():
    """A stand-in for CUDA graphs that needs no GPU and shares their laws: kernels (torch's operations) run
    again on the memory and with the numbers of the recording, and Python does not run."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    from kernels import gpu

    class Operations(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.all = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            self.all.append((function, args, kwargs or {}, out))
            return out

    class Tape(gpu.Graph):
        def warm_up(self):
            for _ in range(3):
                self.function(*self.arguments)

        def capture(self):
            before = [x.clone() for x in self.changed]  # a GPU records and does not run
            with Operations() as operations:
                results = self.function(*self.arguments)
            with torch.no_grad():
                for x, own in zip(self.changed, before, strict=True):
                    x.copy_(own)

            @torch.no_grad()
            def replay():
                for function, args, kwargs, out in operations.all:
                    again = function(*args, **kwargs)
                    for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                        if isinstance(old, torch.Tensor) and new is not None:
                            old.detach().copy_(new)

            return replay, results

    return Tape


GRAPHS = [
    {"env": "cartpole", "env_config": {"max_steps": 7}, "groups": 2},  # episodes are cut
    {"env": "cartpole", "optimizer": "adam"},
    {"env": "pong", "env_config": {"continuous": 1}, "normalize_observations": True},
    {"env": "connect4", "recurrent": "none", "replay_factor": 0.5},  # some actions are illegal
]


@needs_triton
@pytest.mark.parametrize("settings", GRAPHS)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_what_becomes_a_graph_can_be_one(monkeypatch, settings, device):
    """Rollouts and updates whose Python ran once only are those whose Python runs every time: nothing that
    changes is a number, or a tensor that is made anew elsewhere."""
    from kernels import gpu

    def readable(trainer: Trainer) -> Trainer:
        trainer.policy.network = trainer.policy.kernel = None  # as on a GPU
        trainer.optimizer.kernel = None
        return trainer

    if device == "cpu":
        monkeypatch.setattr(gpu, "Graph", tape_class())
    else:
        settings = settings | {"num_threads": 2}  # of two groups one plays while the other is recorded
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)  # whose LSTM has a hidden state of its own
    expected = readable(make_trainer(total_timesteps=2000, device=device, **settings))
    trainer = readable(Trainer(dataclasses.replace(expected.args, cuda_graphs=True)))
    for _ in range(4):
        for each in (expected, trainer):
            each.collect()
            each.update()
        assert trainer.losses.tolist() == pytest.approx(expected.losses.tolist(), rel=1e-4, abs=1e-6)
    assert all(graph.replay for graph in (*trainer.graphs, trainer.learn))
    assert len(trainer.graphs) == expected.args.groups
    for name, theirs in vars(expected.segments).items():
        torch.testing.assert_close(getattr(trainer.segments, name), theirs, rtol=1e-4, atol=1e-5)
    assert expected.segments.truncations.any() == ("max_steps" in str(settings))
    for mine, theirs in zip(trainer.parameters, expected.parameters, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", GRAPHS)
def test_a_gpu_is_waited_for_as_little_as_can_be(monkeypatch, settings):
    """On torch's device "meta", whose tensors have no numbers: to ask for one raises, as on a GPU it would
    wait, and so does most that mixes its tensors with a processor's. A rollout asks for actions alone, an
    update, when all is done, whether it is finite; and what they copy there is not waited for. What needs a
    random stream or C is stood in for."""

    def zeros(*shape: int, dtype: torch.dtype = torch.float32, **_) -> torch.Tensor:
        return torch.zeros(*shape, dtype=dtype, device="meta")

    def actions(self: Policy, drawn: torch.Tensor) -> np.ndarray:
        assert drawn.is_meta
        asked.append(len(drawn))
        return np.zeros_like(trainer.env.actions[: len(drawn)])

    def to(tensor: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        moved = copy(tensor, *args, **kwargs)
        assert tensor.is_meta or not moved.is_meta or kwargs["non_blocking"]
        return moved

    asked: list[int] = []
    args, copy = make_trainer(**settings).args, torch.Tensor.to
    monkeypatch.setattr(torch, "Generator", MagicMock())
    monkeypatch.setattr(torch, "rand", zeros)
    monkeypatch.setattr(torch, "multinomial", lambda _, count, **kwargs: zeros(count, dtype=torch.int64))
    monkeypatch.setattr(Policy, "noise", lambda self, *shape, **_: zeros(*shape, self.outputs))
    monkeypatch.setattr(Policy, "actions", actions)
    monkeypatch.setattr(cpu, "load_advantages", lambda: advantages_reference)
    monkeypatch.setattr(cpu, "load_muon_step", lambda *_: None)
    monkeypatch.setattr(cpu, "speed_up", lambda *_: None)
    trainer = Trainer(dataclasses.replace(args, device="meta"))
    monkeypatch.setattr(torch.Tensor, "to", to)
    for turn in (1, 2):
        trainer.collect()
        assert len(asked) == turn * args.horizon * args.groups
        with pytest.raises(RuntimeError, match="cannot be called on meta tensors"):
            trainer.update()
        assert trainer.updates == turn and trainer.losses.is_meta


@needs_triton
@needs_gpu
@pytest.mark.parametrize("shape", SHAPES)
def test_compiled_kernel_is_the_reference(shape):
    """Called, and replayed from a CUDA graph on other numbers."""
    from kernels.gpu import advantages_triton

    first, second = (random_segments(*shape, seed=seed) for seed in (0, 1))
    for settings in SETTINGS:
        inputs = [x.cuda() for x in first]
        check([x.cpu() for x in advantages_triton(*inputs, *settings)], first, settings)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = advantages_triton(*inputs, *settings)
        for tensor, other in zip(inputs, second, strict=True):
            tensor.copy_(other)
        graph.replay()
        check([x.cpu() for x in results], second, settings)


@needs_triton
@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_trainer_on_a_gpu(precision):
    """It has the kernel, and its first ratios are 1 to rounding, with graphs as without."""
    for graphs in (False, True):
        sizes = {"groups": 2, "num_threads": 2, "minibatch_size": 256}
        trainer = make_trainer(device="cuda", precision=precision, cuda_graphs=graphs, **sizes)
        assert trainer.advantages.__name__ == "advantages_triton"
        trainer.collect()
        trainer.update()
        ratios = trainer.segments.ratios
        assert ((ratios - 1).abs().max() < {"float32": 1e-5, "bfloat16": 2e-2}[precision]).item()
        trainer.collect()
        trainer.update()
