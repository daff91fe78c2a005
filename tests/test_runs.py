"""Runs as a user starts them, as processes: command line, run folder, exit codes, resuming, playing."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import envs

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--num-envs=32", "--horizon=16", "--minibatch-size=128", "--hidden-size=8", "--log-interval=0.05"]
NO_DISPLAY = os.environ | {"DISPLAY": "", "WAYLAND_DISPLAY": "", "SSH_CONNECTION": "from elsewhere"}


def start(*arguments: object, **options) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "cleanpuffer.py"), *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def run(*arguments: object, code: int = 0, **options) -> tuple[str, str]:
    """Runs to the end; checks the exit code and that there is no traceback. Returns stdout and stderr."""
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, (out, err)
    assert "Traceback" not in out + err, err
    return out, err


def fails(*arguments: object, code: int = 2, **options) -> str:
    """Runs, expects one line on stderr and that exit code; returns the line."""
    _, err = run(*arguments, code=code, **options)
    assert err.startswith("cleanpuffer.py: error: ") and err.count("\n") == 1, err
    return err


def metrics(folder: Path) -> list[dict]:
    def no_constant(name: str):
        raise AssertionError(f"{name} in metrics.jsonl")

    return [json.loads(line, parse_constant=no_constant) for line in (folder / "metrics.jsonl").open()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model.pt", weights_only=True)


def same(a: Path, b: Path) -> bool:
    return all(torch.equal(p, q) for p, q in zip(weights(a).values(), weights(b).values(), strict=True))


def read(folder: Path, name: str = "summary.json") -> dict:
    return json.loads((folder / name).read_text())


def wait_for(condition, seconds: float = 30) -> None:
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "waited too long"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of pong that was trained for a moment, for tests that only read it."""
    folder = tmp_path_factory.mktemp("runs") / "pong"
    run(
        "--env", "pong", "--run-dir", folder, "--total-timesteps", 20_000, "--env-config.max-score", 2, *SMALL
    )
    return folder


# The folder


def test_run_folder(trained):
    config, summary, lines = read(trained, "config.json"), read(trained), metrics(trained)
    assert set(config) == {"args", "versions", "machine"}
    assert config["args"]["num_envs"] == 32 and config["args"]["env_config"]["max_score"] == 2
    assert "auto" not in config["args"].values()
    assert set(summary) == {"status", "score", "perf", "episodes", "cost", "steps", "sps"}
    assert summary["status"] == "ok" and summary["steps"] == lines[-1]["step"] == 20_480
    assert summary["score"] == lines[-1]["score"] and summary["episodes"] >= 100
    assert {
        "step",
        "seconds",
        "sps",
        "score",
        "episodes",
        "perf",
        "learning_rate",
        "learning_rate_now",
    } <= set(lines[0])
    assert lines[0]["learning_rate"] == 0.03 and lines[-1]["learning_rate_now"] < 0.03
    assert [line["step"] for line in lines] == sorted({line["step"] for line in lines})
    assert sum(share for name, share in lines[0].items() if name.startswith("profile/")) == pytest.approx(1)
    assert summary["cost"] > lines[-1]["seconds"] > 0
    assert not list(trained.glob("*.tmp"))


def test_readme_snippet_loads_the_model(trained, tmp_path):
    """The ten lines of the README that load model.pt and act with it run as they stand there."""
    code = re.search(r"```python\n(import torch.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    assert len(code.strip().splitlines()) <= 12
    process = subprocess.run(
        [sys.executable, "-c", code.replace("runs/pong/RUN", str(trained))],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr


def test_output_that_is_no_terminal(tmp_path):
    """What runs and where, the settings, a line an interval, the end, how to watch it, its curves."""
    folder = tmp_path / "run"
    out, _ = run(
        "--env", "bandit", "--total-timesteps", 5000, *SMALL, "--run-dir", folder, "--log-interval", 1000
    )
    sizes, settings, line, end, watch, curves = out.splitlines()
    assert sizes.startswith("bandit on cpu, ") and "32 copies x 1 agents x 1 groups" in sizes
    assert settings.startswith("settings: env bandit, ") and "learning_rate 0.03" in settings
    args = {k: v for k, v in read(folder, "config.json")["args"].items() if v is not None}
    assert all(f"{name} {value}" in settings for name, value in args.items())  # zeros too
    assert line.startswith("step 5,120 (100%)") and "score" in line
    assert end.startswith("ok: score")
    assert watch == f"watch it: python {ROOT}/cleanpuffer.py --watch {folder}"
    assert curves == f"curves:   python report.py {folder}"


def test_stop_score(tmp_path):
    """Ends with success at the first update that reaches it, over at least 100 episodes."""
    run("--env", "bandit", "--stop-score", 0.5, "--run-dir", tmp_path / "run")
    summary = read(tmp_path / "run")
    assert summary["status"] == "ok" and summary["score"] >= 0.5 and summary["episodes"] >= 100
    assert summary["steps"] < 500_000


def test_run_directory_in_use_is_refused(trained, tmp_path):
    assert "holds a run" in fails("--run-dir", trained)
    busy = start("--env", "pong", "--run-dir", tmp_path / "busy", "--total-timesteps", 10**9, *SMALL)
    try:
        wait_for((tmp_path / "busy" / "model.pt").exists)
        assert "another process" in fails("--resume", tmp_path / "busy")
    finally:
        busy.kill()
        busy.communicate()


def test_a_reader_that_goes_away_does_not_stop_a_run(tmp_path):
    process = start("--env", "bandit", "--run-dir", tmp_path / "run", "--total-timesteps", 100_000, *SMALL)
    process.stdout.close()
    assert process.wait(60) == 0
    process.stderr.close()
    assert read(tmp_path / "run")["status"] == "ok"


def test_no_output_at_all(tmp_path):
    """Standard output may be closed, as a service manager does."""
    command = (
        f"{sys.executable} cleanpuffer.py --env bandit --total-timesteps 2048 --run-dir {tmp_path}/run >&-"
    )
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert read(tmp_path / "run")["status"] == "ok"


# Settings


def test_precedence(tmp_path):
    """Dataclass < the environment's train < --config < command line."""
    settings = {
        "learning_rate": 0.5,
        "gamma": 0.5,
        "env_config": {"max_score": 3},
        "run_dir": "x",
        "resume": "x",
        "watch": "x",
    }
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    run(
        "--env", "pong", "--config", tmp_path / "settings.json", "--gamma", 0.7, "--total_timesteps=512",
        "--run_dir", tmp_path / "run", *SMALL,
    )  # fmt: skip
    args = read(tmp_path / "run", "config.json")["args"]
    assert (args["learning_rate"], args["gamma"], args["total_timesteps"]) == (0.5, 0.7, 512)
    assert args["env_config"]["max_score"] == 3 and args["env_config"]["frameskip"] == 8
    run("--config", tmp_path / "run" / "config.json", "--run-dir", tmp_path / "again")
    again = read(tmp_path / "again", "config.json")["args"]
    assert {k: v for k, v in again.items() if args[k] != v} == {
        "run_dir": str(tmp_path / "again"), "config": str(tmp_path / "run" / "config.json")
    }  # fmt: skip
    assert same(tmp_path / "run", tmp_path / "again")


BAD = {
    ("--env", "pnog"): ["pnog", "did you mean pong", "squared"],
    ("--env", "gym:CartPole-v1", "--groups", "2"): ["groups", "in 1 group, not 2"],
    ("--env", "gym:CartPol-v1"): ["did you mean CartPole-v1"],
    ("--env", "gym:CartPole-v1", "--play"): ["--play", "no keys"],
    ("--horizon", "0"): ["--horizon", "0", "between 1"],
    ("--minibatch-size", "100"): ["--minibatch-size", "100", "multiple of --horizon 64"],
    ("--minibatch-size", "32768"): ["--minibatch-size", "16384"],
    ("--num-envs", "0"): ["--num-envs"],
    ("--num-envs", "16777216", "--horizon", "4096"): ["--num-envs", "GB"],
    ("--groups", "3"): ["--groups", "256"],
    ("--env-threads", "3", "--num-threads", "2"): ["--env-threads", "--num-threads"],
    ("--learning-rat", "1"): ["--learning-rat", "--learning-rate"],
    ("--learning-rate", "fast"): ["--learning-rate", "fast"],
    ("--learning-rate", "-1"): ["--learning-rate", "-1"],
    ("--gamma", "nan"): ["--gamma", "nan"],
    ("--schedule", "step"): ["--schedule", "cosine"],
    ("--total-timesteps",): ["--total-timesteps"],
    ("--env-config.frameskip", "0"): ["frameskip", "between 1"],
    ("--env-config.frameskp", "4"): ["frameskp", "frameskip"],
    ("--run-dir", "/dev/null/run"): ["--run-dir", "/dev/null/run"],
    ("--resume", "nowhere"): ["nowhere"],
    ("--watch", "nowhere"): ["nowhere"],
    ("--config", "nowhere.json"): ["nowhere.json"],
    ("--gif", "film.png"): ["--gif", ".gif or .mp4"],
    ("--device", "gpu"): ["--device", "gpu", "cpu"],
    ("--resume", "a", "--watch", "b"): ["--resume", "--watch"],
}


@pytest.mark.parametrize("arguments", BAD, ids=" ".join)
def test_bad_arguments(arguments, tmp_path):
    """One line that names what is wrong, exit code 2, nothing written."""
    before = set(ROOT.glob("runs/*/*"))
    line = fails(*arguments)
    assert all(word in line for word in BAD[arguments]), line
    assert set(ROOT.glob("runs/*/*")) == before


@pytest.mark.parametrize(
    "text", ["{", "[1]", '{"gama": 0.9}', '{"gamma": "high"}', '{"env": "pnog"}', '{"env_config": 3}']
)
def test_bad_config_file(text, tmp_path):
    (tmp_path / "settings.json").write_text(text)
    fails("--config", tmp_path / "settings.json", "--run-dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Interrupts, crashes, resuming

RESUMED = ["--env", "squared", "--total-timesteps", 60_000, "--checkpoint-interval", 7, *SMALL]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(*RESUMED, "--run-dir", folder)
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed(number, uninterrupted, tmp_path):
    """Checkpoint, summary, exit code 130; resumed: the same weights as without, one metrics.jsonl, both
    costs."""
    folder = tmp_path / "run"
    process = start(*RESUMED, "--run-dir", folder)
    wait_for(
        lambda: (folder / "metrics.jsonl").exists() and len((folder / "metrics.jsonl").read_bytes()) > 1000
    )
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130 and not err, err
    assert f"--resume {folder}" in out
    first = read(folder)
    assert first["status"] == "interrupted" and 0 < first["steps"] < 60_000
    run("--resume", folder)
    summary, lines = read(folder), metrics(folder)
    assert same(folder, uninterrupted)
    assert summary["status"] == "ok" and summary["steps"] == lines[-1]["step"] == read(uninterrupted)["steps"]
    assert summary["cost"] > first["cost"] + 0.3
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize("attempt", range(3))
def test_killed_and_resumed(attempt, uninterrupted, tmp_path):
    """SIGKILL at any moment, also twice: the resumed run ends with the same bits."""
    folder = tmp_path / "run"
    process = start(*RESUMED, "--run-dir", folder)
    wait_for((folder / "model.pt").exists)
    time.sleep(0.05 + 0.2 * attempt)
    process.kill()
    process.communicate()
    updates = torch.load(folder / "checkpoint.pt", weights_only=True)["updates"]
    assert updates % 7 == 0 or (folder / "summary.json").exists()  # a fast machine was done already
    again = start("--resume", folder)
    time.sleep(1.2)
    again.kill()
    again.communicate()
    if not (folder / "summary.json").exists():
        run("--resume", folder)
    assert same(folder, uninterrupted)
    steps = [line["step"] for line in metrics(folder)]
    assert steps == sorted(set(steps)) and steps[-1] == read(uninterrupted)["steps"]


def test_resume_further(tmp_path):
    """A finished run goes on when --total-timesteps is raised; what a checkpoint fixes cannot be changed."""
    folder = tmp_path / "run"
    run("--env", "bandit", "--total-timesteps", 2048, *SMALL, "--run-dir", folder)
    assert "raise --total-timesteps" in fails("--resume", folder)
    assert "hidden_size 8" in fails("--resume", folder, "--total-timesteps", 4096, "--hidden-size", 16)
    assert "trained on bandit" in fails("--resume", folder, "--env", "pong")
    assert "in place" in fails("--resume", folder, "--run-dir", tmp_path / "other")
    assert read(folder)["steps"] == 2048
    run("--resume", folder, "--total-timesteps", 4096)
    assert read(folder)["steps"] == 4096 and len(metrics(folder)) >= 2


def copy_run(source: Path, target: Path) -> Path:
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_damaged_checkpoint(trained, tmp_path):
    """Cut short, of another environment, of another size: one line, and the folder as it was."""
    folder = copy_run(trained, tmp_path / "run")
    more = ["--total-timesteps", 40_000]
    whole = (folder / "checkpoint.pt").read_bytes()
    for part in (0, 1000, len(whole) - 1000):
        (folder / "checkpoint.pt").write_bytes(whole[:part])
        assert "checkpoint.pt" in fails("--resume", folder, *more)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    other = tmp_path / "other"
    run("--env", "squared", "--total-timesteps", 512, *SMALL, "--run-dir", other)
    for name in ("checkpoint.pt", "model.pt"):
        (folder / name).write_bytes((other / name).read_bytes())
    assert "env squared" in fails("--resume", folder, *more)
    assert "encoder.weight is [8, 121] there, [8, 8] here" in fails("--eval", folder)
    assert (folder / "metrics.jsonl").read_bytes() == before["metrics.jsonl"]
    (folder / "checkpoint.pt").unlink()
    assert "there is no" in fails("--resume", folder, *more)


def test_full_disk(tmp_path):
    """No room for the checkpoint: exit code 1, one line, status error, and the previous checkpoint intact."""
    folder = tmp_path / "run"
    run("--env", "pong", "--total-timesteps", 2048, *SMALL, "--run-dir", folder)
    before = (folder / "checkpoint.pt").read_bytes()
    line = fails(
        "--resume", folder, "--total-timesteps", 4096, code=1,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )  # fmt: skip
    assert str(folder) in line
    assert (folder / "checkpoint.pt").read_bytes() == before and not list(folder.glob("*.tmp"))
    assert read(folder)["status"] == "error"
    metrics(folder)  # whole lines only
    run("--resume", folder, "--total-timesteps", 4096)


def test_full_disk_from_the_start(tmp_path):
    line = fails("--run-dir", tmp_path / "run", *SMALL, code=1, preexec_fn=lambda: resource.setrlimit(
        resource.RLIMIT_FSIZE, (100, 100)))  # fmt: skip
    assert "File too large" in line


def test_diverged(tmp_path):
    """Not finite: exit code 3, status diverged, the last good checkpoint kept."""
    folder = tmp_path / "run"
    run("--env", "pong", "--total-timesteps", 2048, *SMALL, "--run-dir", folder)
    good = (folder / "checkpoint.pt").read_bytes()
    line = fails("--resume", folder, "--total-timesteps", 40_000, "--learning-rate", 1e25, code=3)
    assert "not finite" in line
    assert read(folder)["status"] == "diverged"
    assert (folder / "checkpoint.pt").read_bytes() == good
    assert all(p.isfinite().all() for p in weights(folder).values())
    metrics(folder)


# Playing


def test_eval(trained):
    out, _ = run("--eval", trained, "--episodes", 150)
    assert re.match(
        r"score -?[\d.]+ ± [\d.]+ \(standard deviation\), -2 to -?\d, over 150 episodes; perf 0\.\d+\n$", out
    ), out
    assert run("--eval", trained, "--episodes", 150)[0] == out  # the seed decides
    assert "--watch" in fails("--eval", trained, "--gif", "film.gif")


def test_watch_without_a_terminal(trained):
    out, _ = run("--watch", trained, "--episodes", 1, env=NO_DISPLAY | {"COLORTERM": "truecolor"})
    assert "▀" in out and "38;2;" in out and "episode 1: score" in out


@pytest.mark.parametrize("suffix, magic", [(".gif", b"GIF89a"), (".mp4", b"ftyp")])
def test_film(trained, tmp_path, suffix, magic):
    path = tmp_path / f"film{suffix}"
    out, _ = run("--watch", trained, "--gif", path)
    assert out.startswith(f"wrote {path}: ") and magic in path.read_bytes()[:12]
    if suffix == ".gif":
        import imageio.v3 as imageio

        frames = imageio.imread(path)
        assert len(frames) == int(out.split(": ")[1].split()[0]) and frames[0].shape == (240, 320, 3)
        assert (frames[0] != frames[-1]).any()


def test_list_and_help():
    *own, others = run("--list")[0].splitlines()
    assert [line.split()[0] for line in own] == envs.names() and others.startswith("gym:ID, ale:GAME")
    out, _ = run("--help")
    assert "--learning-rate FLOAT" in out and "--env-config.frameskip INT" in out


# Other kinds of environments


@pytest.mark.parametrize(
    "env",
    [
        ("pong", "--env-config.continuous", 1),
        ("snake", "--num-envs", 2),
        ("gym:CartPole-v1",),
        ("gym:Pendulum-v1", "--num-envs", 8),
    ],
    ids=lambda env: env[0],
)
def test_every_kind_of_environment_trains_goes_on_and_is_evaluated(env, tmp_path):
    folder = tmp_path / "run"
    small = ["--horizon", 16, "--minibatch-size", 128, "--hidden-size", 8]
    run("--env", *env, *small, "--total-timesteps", 4000, "--run-dir", folder)
    assert read(folder, "summary.json")["status"] == "ok"
    out, _ = run("--resume", folder, "--total-timesteps", 6000)
    assert ("new episodes begin" in out) == env[0].startswith("gym:")
    assert read(folder, "summary.json")["steps"] >= 6000
    out, _ = run("--eval", folder, "--episodes", 5)
    assert re.match(r"score \S+ ± .* over 5 episodes", out)


def test_a_resumed_continuous_run_ends_in_the_same_bits(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = ["--env", "pong", "--env-config.continuous", 1, *SMALL]
    settings += ["--schedule", "constant", "--prio-beta0", 1]  # nothing that depends on the last step
    run(*settings, "--total-timesteps", 20_000, "--run-dir", whole)
    run(*settings, "--total-timesteps", 10_000, "--run-dir", parts)
    run("--resume", parts, "--total-timesteps", 20_000)
    ours, theirs = (torch.load(folder / "model.pt") for folder in (whole, parts))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    "typed, meant",
    [("--lr", "is it --learning-rate?"), ("--num_env", "--num-envs"), ("--xyzzy", "--help lists them all")],
)
def test_a_mistyped_name_has_a_hint(typed, meant):
    _, errors = run("--env", "bandit", typed, 1, code=2)
    assert len(errors.splitlines()) == 1 and meant in errors
