"""Several processes that train together, as torchrun starts them.

Started by torchrun itself, this file is what the ranks of `test_two_ranks_compute_what_one_process_does` do.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from cleanpuffer import Args, Trainer
from settings import choose_sizes
from trackers import UsageError

ROOT = Path(__file__).resolve().parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
SMALL = ["--num-envs=32", "--horizon=16", "--minibatch-size=128", "--hidden-size=16", "--log-interval=0.05"]
# With all that a checkpoint has: a normaliser, segments that are replayed.
FULL = ["--env=cartpole", "--normalize-observations", "--replay-factor=0.5", *SMALL]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(*arguments: object, world: int = 2, program: tuple = ("cleanpuffer.py",)) -> list:
    """The ranks, as torchrun starts them but with their own outputs and exit codes."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    size = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    return [
        subprocess.Popen(
            [sys.executable, *program, *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | meeting | size | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def finish(ranks: list[subprocess.Popen], *codes: int, seconds: float = 60) -> list[tuple[str, str]]:
    """Waits for every rank; checks exit codes and that only one of them printed. Returns stdout, stderr."""
    try:
        results = [rank.communicate(timeout=seconds) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == list(codes), results
    assert all("Traceback" not in err for _, err in results), results
    assert not any(out for out, _ in results[1:]), results
    return results


def wait_for(file: Path, ranks: list[subprocess.Popen], lines: int) -> None:
    end = time.time() + 40
    while not file.exists() or file.read_bytes().count(b"\n") < lines:
        assert time.time() < end and all(rank.poll() is None for rank in ranks)
        time.sleep(0.01)


def read(folder: Path, name: str = "summary.json") -> dict:
    return json.loads((folder / name).read_text())


def weights(folder: Path) -> list[torch.Tensor]:
    return list(torch.load(folder / "model.pt", weights_only=True).values())


def checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoint.pt", weights_only=True)


# Sizes and what is refused


def test_sizes_are_totals_that_can_be_split():
    def sizes(processes: int, **settings) -> Args:
        args = Args(env="pong", device="cpu", **settings)
        choose_sizes(args, processes)
        return args

    one, two, three = (sizes(processes) for processes in (1, 2, 3))
    assert (two.num_envs, two.minibatch_size) == (one.num_envs, one.minibatch_size) == (256, 2048)
    assert three.num_envs % 3 == 0 and three.minibatch_size // three.horizon % 3 == 0
    wide = sizes(2, num_envs=4096)
    assert wide.groups == sizes(1, num_envs=2048).groups > 1
    for settings, message in (
        ({"num_envs": 31}, "--num-envs: 31 cannot be split evenly between 2 processes"),
        ({"minibatch_size": 192}, "--minibatch-size: 192 is 3 segments of 64, which cannot be split"),
        ({"num_envs": 6, "groups": 2, "minibatch_size": 128}, "--groups: 2 does not divide .* 3 in each"),
    ):
        with pytest.raises(UsageError, match=message):
            sizes(2, **settings)


def test_rank_0_alone_says_what_is_refused():
    results = finish(start("--env", "pong", "--num-envs", 31), 2, 2)
    assert results[0][1].startswith("cleanpuffer.py: error: --num-envs: 31 cannot be split")
    assert results[0][1].count("\n") == 1 and not results[1][1]


def test_what_needs_one_process_is_refused(tmp_path, monkeypatch):
    from envs import render

    monkeypatch.setattr(render, "WORLD", 2)
    for settings in ({"eval": "x"}, {"watch": "x"}, {"play": True}):
        assert "start it without torchrun" in render.problem(Args(**settings))
    assert render.problem(Args()) is None


def test_one_process_knows_nothing_of_others(tmp_path):
    code = (
        "import sys, cleanpuffer, torch; code = cleanpuffer.main(sys.argv[1:]);"
        "sys.exit(code or 'ranks' in sys.modules or torch.distributed.is_initialized())"
    )
    command = [sys.executable, "-c", code, "--env=pong", *SMALL, "--total-timesteps=1000", "--run-dir"]
    environment = os.environ | {"WORLD_SIZE": "1", "RANK": "0"}
    assert not subprocess.run([*command, tmp_path / "run"], cwd=ROOT, env=environment).returncode


# Training


def one_and_two() -> None:
    """On each of two ranks: recorded segments in one process, and half of them in each of two."""
    import torch.distributed as dist

    import ranks

    args = Args(env="pong", num_envs=16, horizon=16, minibatch_size=256, hidden_size=16, prio_alpha=0.0)
    args.device, args.num_threads, args.groups, args.normalize_returns = "cpu", 1, 1, False
    choose_sizes(args, 2)
    dist.init_process_group("gloo")
    one, two = Trainer(args), type("Ranked", (ranks.Rank, Trainer), {})(args)
    assert two.env.num_envs == 8 and two.segments.h.shape[0] == 8

    # The same first weights, other games and actions.
    for p, q in zip(one.parameters, two.parameters, strict=True):
        assert torch.equal(p, q)
    Trainer.collect(two)  # nobody needs to be told
    mine = [two.segments.actions.clone(), two.segments.observations.clone()]
    for x in mine:
        parts = [torch.empty_like(x) for _ in range(2)]
        dist.all_gather(parts, x)
        assert not torch.equal(*parts)

    # Rows of the same segments; the scale of returns is that of all.
    one.collect()
    half = slice(8 * ranks.RANK, 8 * ranks.RANK + 8)
    generator = torch.Generator().manual_seed(5)
    one.segments.rewards.copy_(torch.randn(16, 16, generator=generator))
    one.segments.valid.copy_(torch.rand(16, 16, generator=generator) > 0.2)
    for name, x in vars(one.segments).items():
        getattr(two.segments, name).copy_(x[half])
    results = []
    for trainer in (one, two):
        s = trainer.segments
        trainer.scale_rewards()
        trainer.old_values.copy_(s.values)
        s.ratios.fill_(1)
        targets, advantages, _ = trainer.estimate()
        mean, deviation = trainer.moments(advantages)
        trainer.learn(torch.arange(len(targets)), (advantages - mean) / (deviation + 1e-8), targets)
        losses = trainer.average([trainer.losses])[0]
        gradients = [p.grad for p in trainer.parameters]
        results.append(
            [*gradients, losses, trainer.return_moment / trainer.return_moment[1], mean, deviation]
        )
    for x, y in zip(*results, strict=True):
        assert x.abs().max() > 0
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)
    for p, q in zip(one.parameters, two.parameters, strict=True):  # Muon enlarges differences
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-3)

    # The observation normaliser, and the score.
    args.normalize_observations = True
    one, two = Trainer(args), type("Ranked", (ranks.Rank, Trainer), {})(args)
    for _ in range(2):
        x = 3 + torch.randn(16, 5, 8, generator=generator) * torch.arange(1, 9)
        one.policy.normalizer.update(x)
        two.policy.normalizer.update(x[half])
    for x, y in zip(one.policy.normalizer.buffers(), two.policy.normalizer.buffers(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)
    two.interrupted = threading.Event()
    reports = [[{"n": 1.0, "score": 6.0}, {"n": 2.0, "score": 3.0}], [{"n": 0.0}, {"n": 2.0, "score": 3.0}]]
    for report, n, score in ((reports[0], 3, 4), (reports[1], 2, 3), ([{"n": 0.0}] * 2, 0, None)):
        two.env.log = lambda report=report: report[ranks.RANK]
        all_of_them = two.log()
        if ranks.RANK == 0:
            assert all_of_them["n"] == n and all_of_them.get("score") == score
    assert not two.interrupted.is_set()
    if ranks.RANK == 1:
        two.interrupted.set()
    two.log()
    assert two.interrupted.is_set()
    dist.destroy_process_group()


def test_two_ranks_compute_what_one_process_does():
    """Gradients of the whole batch as one minibatch, moments, losses to 1e-5 (float32, added otherwise)."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [*TORCHRUN, __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of two ranks, by torchrun."""
    folder = tmp_path_factory.mktemp("ranks") / "run"
    command = [*TORCHRUN, "cleanpuffer.py", *FULL, "--total-timesteps=20000", "--run-dir", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("settings: ") == done.stdout.count("watch it: ") == 1
    return folder


def test_one_run_is_written(trained):
    summary, lines = read(trained), (trained / "metrics.jsonl").read_text().splitlines()
    assert summary["status"] == "ok" and summary["steps"] == json.loads(lines[-1])["step"] == 20480
    assert len({json.loads(line)["step"] for line in lines}) == len(lines)
    assert read(trained, "config.json")["args"]["num_envs"] == 32
    saved = checkpoint(trained)
    assert saved["layout"]["num_envs"] == 32
    rows = [x for name, x in saved["environment"].items() if name != "made_as"]
    assert {len(x) for x in (*saved["lstm"], *rows)} == {32}
    first, second = saved["environment"]["observations"].chunk(2)
    assert not torch.equal(first, second) and len(saved["replay"]["h"]) == 16
    assert not torch.equal(saved["generators"][1], saved["generators"][3])


def test_interrupted_and_resumed_by_two_and_by_one(trained, tmp_path):
    """Ctrl-C saves; two go on with the same bits; one goes on as well, and two after it."""
    folder = tmp_path / "run"
    ranks = start(*FULL, "--total-timesteps=20000", "--run-dir", folder)
    wait_for(folder / "metrics.jsonl", ranks, lines=1)
    for rank in ranks:
        rank.send_signal(signal.SIGINT)
    finish(ranks, 130, 130)
    steps = read(folder)["steps"]
    assert read(folder)["status"] == "interrupted" and 0 < steps < 20000
    other = shutil.copytree(folder, tmp_path / "other")
    finish(start("--resume", folder), 0, 0)
    assert read(folder)["steps"] == 20480
    assert all(torch.equal(p, q) for p, q in zip(weights(folder), weights(trained), strict=True))
    command = [sys.executable, "cleanpuffer.py", "--resume", other, "--total-timesteps", str(steps + 1000)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert read(other)["steps"] >= steps + 1000 and len(checkpoint(other)["generators"]) == 2
    results = finish(start("--resume", other, "--total-timesteps", steps + 3000), 0, 0)
    assert read(other)["steps"] >= steps + 3000 and len(checkpoint(other)["generators"]) == 4
    assert "2 processes" in results[0][0]


# Rank 0 hears nothing of the other for a long time, as one that waits for a GPU.
ASLEEP = """
import sys, time, pathlib, cleanpuffer
class Asleep(cleanpuffer.Trainer):
    def update(self):
        super().update()
        if self.updates == 3:
            pathlib.Path(sys.argv[-1], "asleep").write_text("3\\n")
            time.sleep(100)
sys.exit(cleanpuffer.main(sys.argv[1:], trainer_kind=Asleep))
"""


@pytest.mark.parametrize(("victim", "asleep"), [(0, False), (1, True)])
def test_a_rank_that_dies_ends_the_run(victim, asleep, tmp_path):
    program = ("-c", ASLEEP) if asleep else ("cleanpuffer.py",)
    settings = ["--env=pong", *SMALL, "--total-timesteps=1000000000", "--run-dir", tmp_path / "run"]
    ranks = start(*settings, program=program)
    wait_for(tmp_path / "run" / ("asleep" if asleep else "metrics.jsonl"), ranks, lines=1)
    ranks[victim].kill()
    codes = [-signal.SIGKILL if rank == victim else 1 for rank in range(2)]
    message = finish(ranks, *codes, seconds=10)[1 - victim][1]
    assert message.startswith("cleanpuffer.py: error: a process of this run was lost")
    assert message.count("\n") == 1
    assert read(tmp_path / "run")["status"] == "error"


if __name__ == "__main__":
    one_and_two()
