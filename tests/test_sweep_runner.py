"""The tuner as a program: trials of small scripts, folders, kills, commands, exit codes."""

import fcntl
import json
import os
import pty
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sweep

ROOT = Path(__file__).resolve().parent.parent
SPACE = """
x = { distribution = "uniform", min = 0, mean = 2, max = 10 }
n = { distribution = "uniform_pow2", min = 1, mean = 4, max = 64 }
constraints = ["x <= n * 4"]
"""
TRAINER = """
import json, os, pathlib, signal, subprocess, sys, time
args = dict(zip((word.lstrip("-") for word in sys.argv[1::2]), sys.argv[2::2]))
known = {"x", "n", "seed", "run-dir", "stop-score", "mode", "total_timesteps"}
if unknown := set(args) - known:
    sys.exit(print(f"trainer: error: unknown argument {min(unknown)}", file=sys.stderr) or 2)
run, x, mode = pathlib.Path(args["run-dir"]), float(args.get("x", 1)), args.get("mode", "")
run.mkdir(parents=True)
summary = {"status": "ok", "score": x, "cost": 1 + x}
shared = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
(run / "environment.json").write_text(json.dumps({name: os.environ.get(name) for name in shared}))
(run / "config.json").write_text(json.dumps(args))
if mode == "child":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", str(run)])
if mode == "capped":
    summary["cost"], mode = 0.3, "slow" if x != 2 else ""
if mode in ("slow", "child", "stubborn", "saves", "diverges"):
    def asked(*_):
        (run / "asked").touch()
        if mode in ("saves", "diverges"):
            status = "interrupted" if mode == "saves" else "diverged"
            (run / "summary.json").write_text(json.dumps(summary | {"status": status, "cost": 60}))
        sys.exit(130)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "stubborn" else asked)
    (run / "ready").touch()
    time.sleep(30)
if mode == "centre" and args["x"] != "2.0":
    sys.exit(2)
if mode == "centre":
    time.sleep(1)
if mode == "late":
    summary["cost"] = 0.1
    time.sleep(0.5)
if mode == "brief":
    time.sleep(0.1)
if x != 2 or mode == "all":  # the centre works
    kind = os.environ.get("FAIL", "")
    if kind == "exit":
        raise SystemExit(3)
    if kind == "box":  # as tyro and rich print errors
        print("╭─ Error ───╮", "│ no way    │", "╰───────────╯", sep="\\n", file=sys.stderr)
        raise SystemExit(1)
    if kind == "says":
        print("first words\\n\\nlast words\\n")
        sys.exit()
    if kind == "signal":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "memory":
        raise MemoryError
    if kind == "nan":
        summary["score"] = float("nan")
    if kind == "status":
        summary["status"] = "diverged"
    if kind == "broken":
        (run / "summary.json").write_text('{"status": "o')
    if kind == "refused":
        sys.exit(2)
    if kind == "disk":
        raise OSError(28, "No space left on device")
    if kind in ("none", "broken"):
        sys.exit()
(run / "summary.json").write_text(json.dumps(summary))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder with a space and a trainer that costs 1 + x and scores x."""
    (tmp_path / "space.toml").write_text(SPACE)
    (tmp_path / "trainer.py").write_text(TRAINER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "sweep.py"), *map(str, arguments)]


def tuned(*arguments: object) -> list[str]:
    return command(
        "--command",
        f"{sys.executable} trainer.py",
        "--space=space.toml",
        "--sweep-dir=s",
        "--sampler=random-centre",
        *arguments,
    )


def done(words: list[str], code: int = 0) -> str:
    """Runs to the end; checks the exit code and that there is no traceback. Returns all that was printed."""
    result = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    if code in (1, 2):
        assert result.stderr.startswith("sweep.py: error: ") and result.stderr.count("\n") == 1, result.stderr
    return result.stdout + result.stderr


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "s" / "trials.jsonl").read_text().splitlines()]


def ends(folder: Path) -> list[dict]:
    return [record for record in records(folder) if record["status"] in ("ok", "failed")]


def starts(folder: Path) -> list[dict]:
    return [record for record in records(folder) if record["status"] == "running"]


def alive(folder: Path) -> list[str]:
    """Command lines of the processes that name the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if str(folder) in line and "State:\tZ" not in (path / "status").read_text():
                found.append(line)
        except OSError:
            continue
    return found


def wait_for(condition, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_a_sweep_end_to_end(here):
    out = done(tuned("--max-trials=6", "--seed=7", "--workers=2"))
    assert [record["status"] for record in ends(here)] == ["ok"] * 6
    assert starts(here)[0]["params"] == {"x": 2.0, "n": 4}
    best = max(ends(here), key=lambda record: record["score"])
    assert all(record["cost"] == 1 + record["score"] for record in ends(here))
    assert f"best: trial {best['trial']}, " in out and "6 of 6 trials, 0 failed" in out
    assert "front: " in out and f"--promote {'s'}" in out
    seeds = {record["seed"] for record in starts(here)}
    assert len(seeds) == 6 and all(0 <= seed < 2**32 for seed in seeds)
    for number, record in enumerate(sorted(starts(here), key=lambda record: record["trial"]), 1):
        args = json.loads((here / "s" / "trials" / f"{number:04}" / "run" / "config.json").read_text())
        assert float(args["x"]) == record["params"]["x"] and int(args["seed"]) == record["seed"]


def test_seeds(here):
    """Two sweeps started in the same second differ; a seeded one repeats its suggestions."""
    drawn = []
    for name, options in (("a", ()), ("b", ()), ("c", ("--seed=0",)), ("d", ("--seed=0",))):
        done(tuned("--max-trials=4", f"--sweep-dir={name}", *options))
        lines = (here / name / "trials.jsonl").read_text().splitlines()
        drawn.append([(r["params"], r["seed"]) for r in map(json.loads, lines) if r["status"] == "running"])
    assert drawn[0][1:] != drawn[1][1:] and drawn[0][0][1] != drawn[1][0][1]
    assert drawn[2] == drawn[3]


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("exit", "exit code 3"),
        ("signal", "signal 11"),
        ("kill", "out of memory, or killed"),
        ("memory", "out of memory, or killed"),
        ("nan", "score nan"),
        ("status", "status diverged"),
        ("broken", "no summary.json"),
        ("none", "no summary.json"),
        ("refused", "exit code 2"),
    ],
)
def test_failures_are_observations(here, monkeypatch, kind, reason):
    monkeypatch.setenv("FAIL", kind)
    out = done(tuned("--max-trials=3"))
    assert [record["status"] for record in ends(here)] == ["ok", "failed", "failed"]
    assert all(record["reason"].startswith(reason) and record["cost"] > 0 for record in ends(here)[1:])
    assert "3 of 3 trials, 2 failed" in out
    assert "NaN" not in (here / "s" / "trials.jsonl").read_text()


@pytest.mark.parametrize("mode", ["child", "stubborn"])
def test_a_trial_over_its_time_is_a_failure(here, mode):
    began = time.monotonic()
    out = done(tuned("--max-trials=1", "--trial-seconds=0.5", f"--mode={mode}"), code=1)
    assert "s: no trial has worked" in out and time.monotonic() - began < 12
    assert ends(here)[0]["status"] == "failed" and ends(here)[0]["reason"] == "not done in 0.5 s"
    assert 0.5 <= ends(here)[0]["cost"] < 9
    assert (here / "s/trials/0001/run/asked").exists() == (mode == "child")  # it may save what it has
    assert wait_for(lambda: not alive(here))  # nor its child


def test_no_trial_takes_longer_than_twice_the_least_time(here):
    done(tuned("--max-trials=2", "--trial-seconds=20", "--stop-score=2", "--mode=capped"))
    assert [record["reason"] for record in ends(here)] == [None, "not done in 0.6 s"]
    done(tuned("--max-trials=2", "--stop-score=2", "--mode=late", "--sweep-dir=t", "--seed=1"))
    summaries = [path.read_text() for path in here.glob("t/trials/*/run/summary.json")]
    assert len(summaries) == 2  # its start of half a second is not in its cost of 0.1 s


@pytest.mark.parametrize("mode, status", [("saves", "ok"), ("diverges", "failed"), ("slow", "failed")])
def test_a_trial_that_misses_the_score_in_its_time_is_no_failure(here, mode, status):
    """It saved its score, which counts with its full cost; where the score is the objective, it failed."""
    options = ("--max-trials=1", "--trial-seconds=0.5", "--stop-score=9", f"--mode={mode}")
    out = done(tuned(*options), code=0 if status == "ok" else 1)
    (record,) = ends(here)
    assert record["status"] == status and record["reason"] == "not done in 0.5 s"
    if status == "ok":
        assert (record["score"], record["cost"]) == (2, 60)
        assert "1 of 1 trials, 0 failed" in out and "best: trial 1," in out
    done(tuned(*options, "--objective=score", "--sweep-dir=t"), code=1)
    (here / "s").rename(here / "other")
    (here / "t").rename(here / "s")
    assert ends(here)[0]["status"] == "failed"


def test_threads_and_gpus_are_shared_out(here, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    done(tuned("--max-trials=4", "--workers=2", "--mode=brief"))
    runs = (here / "s" / "trials").glob("*/run/environment.json")
    environments = [json.loads(path.read_text()) for path in runs]
    assert {environment["CUDA_VISIBLE_DEVICES"] for environment in environments} == {"3", "5"}
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert {environment["OMP_NUM_THREADS"] for environment in environments} == {str(threads)}


@pytest.mark.parametrize(
    "words, message",
    [
        (["--env=pong", "--max-trials=0"], "--max-trials: '0' is no whole number above 0"),
        (["--env=pong", "--workers=x"], "--workers: 'x' is no whole number"),
        (["--env=pong", "--workers=1.5"], "--workers: '1.5' is no whole number"),
        (["--env=pong", "--budget=nan"], "--budget: 'nan' is no number above 0"),
        (["--env=pong", "--seed", "-1"], "--seed: '-1' is no whole number from 0"),
        (["--env=pong", "--seed"], "--seed needs a value"),
        (["--env=pong", "--sampler=magic"], "unknown sampler 'magic'"),
        (["--env=pong", "--objective=fame"], "'fame' is not score or time"),
        (["--env=pong", "--objective=time"], "--stop-score"),
        (["--env=pong", "--stop-score=high"], "--stop-score"),
        (["--env=pong", "--only=lerning_rate"], "'lerning_rate' is not in the space"),
        (["--env=pong", "--range=lr=0.1:0.2"], "'lr' is not in the space"),
        (["--env=pong", "--range=gamma=0.9:0.99,lr=0.1:0.2"], "'lr' is not in the space"),
        (["--env=pong", "--range=gamma=0.5:0.6"], "gamma: mean 0.99"),
        (["--env=pong", "--range=gamma=high"], "gamma: mean 'high'"),
        (["--env=pong", "--range=gamma=1:2:3:4"], "--range gamma"),
        (["--env=pong", "--fix", "horizon=512", "--only=horizon"], "no parameter"),
        (["--env=pong", "--fix", "horizon=4096"], "does not hold at the centre"),
        (["--env=pong", "--space=none.toml"], "there is no file none.toml"),
        (["--env=pong", "--space=bad.toml"], "bad.toml: "),
        (["--env=pong", "--space=odd.toml"], "constraints must be a list"),
        (["--env=pong", "--fix=gamma"], "must be name=value"),
        (["pong"], "'pong' is no argument"),
        ([], "--env NAME"),
        (["--command=python trainer.py"], "--space"),
        (["--env=pong", "--space=dates.toml"], "x: needs distribution"),
        (["--env=pong", "--space=lists.toml"], "constants must be numbers by name"),
        (["--env=pong", "--space=words.toml"], "constants must be numbers by name"),
        (["--command=no-such-program --x", "--space=space.toml"], "there is no program"),
        (["--status=nowhere"], "there is no sweep in nowhere"),
        (["--resume=nowhere"], "there is no sweep in nowhere"),
        (["--env=pong", "--steps", "1000"], "--steps: there is one command"),
        (["--status=nowhere", "--resume=nowhere"], "--status: there is one command at a time"),
        (["--status=nowhere", "--seeds=3"], "--seeds: there is one command at a time"),
        (["--promote=nowhere", "--steps=2", "--trial=3"], "there is no sweep in nowhere"),
        (["--promote=nowhere"], "there is no sweep in nowhere"),
        (["--promote"], "--promote needs the folder of a sweep"),
        (["--status=nowhere", "--sweep-dir=other"], "--status needs the folder of a sweep, once"),
        (["--baseline=nowhere", "--steps=2"], "--steps: there is one command at a time"),
        (["--status=other"], "sweep.json is damaged"),
        (["--env=pong", "--sweep-dir=other"], "sweep.json is damaged"),
        (["--env=pong", "--only=gamma", "--range=horizon=8:64"], "--range: horizon is not searched"),
        (["--env=pong", "--gamma=0.9", "--range=gamma=0.8:0.9"], "--range: gamma is not searched"),
        (["--env=pong", "--stop-score=2", "--rule=growth,warp=quantile"], "not for a target score"),
    ],
)
def test_bad_arguments_are_one_line_and_change_nothing(here, words, message):
    (here / "bad.toml").write_text("x = [")
    (here / "other").mkdir()
    (here / "other" / "sweep.json").write_text('{"command": []}')
    (here / "odd.toml").write_text("constraints = { x = 3 }")
    (here / "dates.toml").write_text("x = 2020-01-01")
    (here / "lists.toml").write_text(SPACE + "constants = [3]")
    (here / "words.toml").write_text(SPACE + "constants = { agents = 'two' }")
    before = sorted(here.rglob("*"))
    assert message in done(command(*words), code=2)
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    "kind, words",
    [
        ("refused", "exit code 2"),
        ("none", "no summary.json"),
        ("exit", "exit code 3"),
        ("box", "exit code 1: Error / no way"),
        ("says", "no summary.json: first words / last words"),
    ],
)
def test_a_command_that_cannot_work_stops_the_sweep(here, monkeypatch, kind, words):
    """The first trial shows it; the last lines of the trainer are passed on, and no folder is left."""
    monkeypatch.setenv("FAIL", kind)
    before = sorted(here.rglob("*"))
    assert f"the first trial failed: {words}\n" in done(tuned("--mode=all", "--workers=2"), code=2)
    assert sorted(here.rglob("*")) == before


def test_failed_trials_stay_whatever_goes_wrong_later(here, monkeypatch):
    suggest = sweep.Sampler.suggest

    def twice(self: sweep.Sampler) -> dict:
        if len(self.costs) == 2:
            raise ValueError("nothing to suggest")
        return suggest(self)

    monkeypatch.setenv("FAIL", "status")
    monkeypatch.setattr(sweep.Sampler, "suggest", twice)
    assert sweep.main(tuned("--mode=all")[2:]) == 2
    assert [record["status"] for record in ends(here)] == ["failed", "failed"]


def test_a_sweep_that_cannot_work_takes_nothing_of_others_with_it(here):
    """Another sweep begins meanwhile in a folder that this one made; a folder that was there stays, empty."""
    (here / "late.py").write_text("import os; os.makedirs('sweeps/other', exist_ok=True); exit(2)")
    (here / "empty").mkdir()
    for folder in ("sweeps/mine", "empty"):
        words = ("--command", f"{sys.executable} late.py", "--space=space.toml", f"--sweep-dir={folder}")
        assert "the first trial failed" in done(command(*words, "--seed=1"), code=2)
    assert [path.name for path in (here / "sweeps").iterdir()] == ["other"]
    assert not [*(here / "empty").iterdir()]


def test_only_the_first_trial_stops_the_sweep(here):
    """The second is refused before the first, the centre, has ended well: it is a result like any other."""
    done(tuned("--max-trials=2", "--workers=2", "--mode=centre", "--seed=1"))
    assert [(end["trial"], end["status"]) for end in ends(here)] == [(2, "failed"), (1, "ok")]


def test_a_misspelt_argument_is_refused_by_the_trainer(here):
    out = done(tuned("--stop-scor", "20", "--sweep-dir=deep/er/s"), code=2)
    assert "trainer: error: unknown argument stop-scor" in out
    assert not (here / "deep").exists()


def test_a_sweep_goes_on(here):
    """The same command goes on, --resume too with higher limits, and both suggest as if undisturbed."""
    done(tuned("--seed=5", "--max-trials=2"))
    done(tuned("--seed=5", "--max-trials=4"))
    done(command("--resume=s", "--max-trials=6"))
    assert [record["trial"] for record in ends(here)] == [1, 2, 3, 4, 5, 6]
    done(tuned("--seed=5", "--max-trials=6", "--sweep-dir=whole"))
    whole = [json.loads(line) for line in (here / "whole" / "trials.jsonl").read_text().splitlines()]
    params = [record["params"] for record in whole if record["status"] == "running"]
    assert [record["params"] for record in starts(here)] == params
    settings = json.loads((here / "s" / "sweep.json").read_text())
    assert settings["max_trials"] == 6 and settings["seed"] == 5


def test_a_sweep_goes_on_from_another_folder(here, monkeypatch):
    """Trials start where the sweep was begun: its command may name files from there."""
    done(tuned("--max-trials=1"))
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    done(command("--resume=../s", "--max-trials=2"))
    assert [record["status"] for record in ends(here)] == ["ok", "ok"]


@pytest.mark.parametrize(
    "words, name",
    [
        (["--only=x"], "space"),
        (["--range=x=0:20"], "space"),
        (["--mode=brief"], "fixed"),
        (["--seed=6"], "seed"),
    ],
)
def test_a_folder_of_another_sweep_is_refused(here, words, name):
    done(tuned("--seed=5", "--max-trials=1"))
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert f"s was made with another {name}" in done(tuned("--max-trials=1", "--seed=5", *words), code=2)
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_settings_cannot_be_given_to_a_sweep_that_goes_on(here):
    done(tuned("--max-trials=1"))
    for words in (["--only=x"], ["--mode=brief"], ["--seed=3"], ["--sampler=random-centre"]):
        assert "only limits can be changed" in done(command("--resume=s", *words), code=2)


def test_two_sweeps_do_not_share_a_folder(here):
    done(tuned("--max-trials=1"))
    with open(here / "s" / "trials.jsonl") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for words in (
            tuned("--max-trials=2"),
            command("--resume=s", "--max-trials=2"),
            command("--promote=s"),
        ):
            assert "another process is at work in s" in done(words, code=2)
        assert "1 of 1 trials" in done(command("--status=s"))  # which only reads


def test_a_torn_last_line_is_cut(here):
    done(tuned("--max-trials=2", "--seed=1"))
    path = here / "s" / "trials.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert "1 of 2 trials" in done(command("--status=s")) and path.read_bytes() == whole[:-9]
    done(command("--resume=s"))
    assert [record["trial"] for record in ends(here)] == [1, 2]


def test_trials_that_died_with_the_sweep_are_shown_as_lost(here):
    process = subprocess.Popen(tuned("--mode=slow", "--workers=2"), stdout=subprocess.DEVNULL)
    assert wait_for(lambda: len(list(here.glob("s/trials/*/run/ready"))) == 2)
    out = done(command("--status=s"))
    assert "0 of 100 trials" in out  # no limit was given
    assert out.count("  running  ") == 2 - out.count("lost") == 2
    process.kill()
    process.wait()
    out = done(command("--status=s"))
    assert out.count("  lost, runs again  ") == 2 and "running" not in out


@pytest.mark.parametrize(
    "number, change",
    [
        (2, lambda line: line[:30]),
        (2, lambda line: "3"),
        (2, lambda line: "[]"),
        (2, lambda line: ""),
        (1, lambda line: line.replace('"params"', '"parms"')),
        (1, lambda line: line.replace('"x"', '"y"')),
        (1, lambda line: line.replace('"seed"', '"sed"')),
        (1, lambda line: line.replace('"trial"', '"tral"')),
        (1, lambda line: line.replace('"trial": 1', '"trial": 7')),
        (2, lambda line: line.replace('"cost"', '"cots"')),
        (2, lambda line: line.replace('"status": "ok"', '"status": "okay"')),
        (2, lambda line: line.replace('"score": 2.0', '"score": null')),
        (3, lambda line: line.replace('"elapsed": ', '"elapsed": "soon", "e": ')),
    ],
)
def test_a_damaged_line_is_named(here, number, change):
    done(tuned("--max-trials=2", "--seed=1"))
    path = here / "s" / "trials.jsonl"
    lines = path.read_text().splitlines()
    damaged = change(lines[number - 1])
    assert damaged != lines[number - 1]
    path.write_text("\n".join([*lines[: number - 1], damaged, *lines[number:], ""]))
    before = path.read_bytes()
    for words in (tuned("--max-trials=3"), command("--status=s"), command("--promote=s")):
        assert f"trials.jsonl, line {number} is damaged: {damaged[:20]}" in done(words, code=2)
    assert path.read_bytes() == before


def test_a_result_that_stands_twice_does_not_count_twice(here):
    done(tuned("--max-trials=2"))
    path = here / "s" / "trials.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")
    assert "line 5 is damaged" in done(command("--status=s"), code=2)


def test_damaged_settings_are_named(here):
    done(tuned("--max-trials=1"))
    text = (here / "s" / "sweep.json").read_text()
    for damaged in ("{", "[1]", text.replace('"workers": 1', '"workers": "two"')):
        (here / "s" / "sweep.json").write_text(damaged)
        assert "error: s" in done(command("--status=s"), code=2)


def test_what_is_printed_may_be_cut(here):
    done(tuned("--max-trials=1"))
    shown = subprocess.run(
        f"{' '.join(command('--status=s'))} | true", shell=True, capture_output=True, text=True
    )
    assert shown.stderr == ""


def test_steps_need_a_number_of_steps(here):
    done(tuned("--max-trials=1"))
    assert "no total_timesteps to multiply" in done(command("--promote=s", "--steps=2"), code=2)


def test_help_has_a_line_for_each_option(here):
    out = done(command("--help"))
    for name in sweep.OPTIONS:
        assert len(re.findall(rf"^  --{name.replace('_', '-')} ", out, re.MULTILINE)) == 1, name
    assert len(out.splitlines()) < 45 and max(map(len, out.splitlines())) < 110
    shown = re.findall(r"^  --(\S+)", out, re.MULTILINE)
    assert {name.replace("-", "_") for name in shown} == {*sweep.OPTIONS}


def test_limits_end_a_sweep(here):
    done(tuned("--budget=4", "--seed=2"))  # 1 + x seconds a trial, said to cost
    assert json.loads((here / "s" / "sweep.json").read_text())["max_trials"] is None
    costs = [record["cost"] for record in ends(here)]
    assert sum(costs) >= 4 and sum(costs[:-1]) < 4
    began = time.monotonic()
    done(tuned("--max-seconds=1", "--mode=slow", "--sweep-dir=t"))
    assert time.monotonic() - began < 9 and wait_for(lambda: not alive(here))


def test_an_interrupt_stops_cleanly(here):
    """SIGINT and SIGTERM: code 130, a hint, no process left; the trial runs again, as it was."""
    ready = here / "s/trials/0001/run/ready"
    for number in (signal.SIGINT, signal.SIGTERM):
        words = tuned("--mode=child", "--max-trials=1") if number == signal.SIGINT else command("--resume=s")
        ready.unlink(missing_ok=True)
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert wait_for(ready.exists)
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 130 and err.endswith("python sweep.py --resume s\n"), err
        assert wait_for(lambda: not alive(here / "s"))
        assert (here / "s/trials/0001/run/asked").exists()  # it may save what it has
    assert [record["status"] for record in records(here)] == ["running", "interrupted"] * 2
    assert starts(here)[0]["params"] == starts(here)[1]["params"]
    assert starts(here)[0]["seed"] == starts(here)[1]["seed"]
    process = subprocess.Popen(
        command("--resume=s", "--workers=2", "--max-trials=2"), stdout=subprocess.DEVNULL
    )
    assert wait_for(lambda: len(starts(here)) == 4)
    process.kill()
    again, other = (record["params"] for record in starts(here)[2:])
    assert again == starts(here)[0]["params"] and again != other  # it counts as running for what is suggested


@pytest.mark.parametrize("mode", ["child", "stubborn"])
def test_no_trial_outlives_a_killed_sweep(here, mode):
    """Not even its children, or one that does not listen to signals."""
    process = subprocess.Popen(tuned(f"--mode={mode}", "--workers=2"), stdout=subprocess.DEVNULL)
    assert wait_for(lambda: len(list(here.glob("s/trials/*/run/ready"))) == 2)
    time.sleep(0.2)
    assert len(alive(here / "s")) > (4 if mode == "child" else 2)
    process.kill()
    assert wait_for(lambda: not alive(here / "s"))


def test_twenty_kills_lose_nothing(here):
    """SIGKILL at random moments, of the sweep or of a trial; started again each time."""
    generator, killed = random.Random(4), 0
    options = ("--mode=brief", "--max-trials=40", "--workers=2", "--seed=9")
    for round in range(20):
        process = subprocess.Popen(tuned(*options), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        time.sleep(generator.uniform(0.1, 0.5))
        if round % 2:
            for path in Path("/proc").glob("[0-9]*"):
                with_name = b"trainer.py" in (path / "cmdline").read_bytes() if path.exists() else False
                if with_name and b"sweep.py" not in (path / "cmdline").read_bytes():
                    os.kill(int(path.name), signal.SIGKILL)
                    killed += 1
                    break
            time.sleep(0.1)
        process.kill()
        assert b"error" not in process.communicate()[1]
    done(tuned(*options))
    assert sorted(record["trial"] for record in ends(here)) == list(range(1, 41))
    params: dict[int, dict] = {}
    for record in starts(here):  # what runs again is the same
        assert params.setdefault(record["trial"], record["params"]) == record["params"]
    failed = [record for record in ends(here) if record["status"] == "failed"]
    assert len(failed) <= killed
    assert wait_for(lambda: not alive(here / "s"))


def test_a_full_disk_stops_the_sweep(here, monkeypatch):
    """Of the sweep itself, and of a trial: exit code 1, one line; then it goes on."""

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1200, 1200))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    result = subprocess.run(tuned("--max-trials=50"), capture_output=True, text=True, preexec_fn=small)
    assert result.returncode == 1 and result.stderr.count("\n") == 1, result.stderr
    before = ends(here)
    assert before and (here / "s" / "trials.jsonl").read_bytes().endswith(b"\n")
    monkeypatch.setenv("FAIL", "disk")
    assert "No space left on device" in done(command("--resume=s"), code=1)
    assert ends(here) == before  # no failure of the settings
    monkeypatch.delenv("FAIL")
    done(command("--resume=s", f"--max-trials={len(before) + 2}"))
    assert len(ends(here)) == len(before) + 2


def test_least_time_to_a_score(here):
    """Above the score only the cost counts: of those that reach it, the cheapest is best."""
    done(tuned("--stop-score=3", "--max-trials=12", "--seed=1"))
    assert json.loads((here / "s" / "sweep.json").read_text())["objective"] == "time"
    reached = [record for record in ends(here) if record["score"] >= 3]
    best = min(reached, key=lambda record: record["cost"])
    assert f"best: trial {best['trial']}," in done(command("--status=s"))
    assert best["score"] < max(record["score"] for record in ends(here))
    done(tuned("--stop-score=3", "--objective=score", "--max-trials=12", "--seed=1", "--sweep-dir=t"))
    best = max(ends(here), key=lambda record: record["score"])
    assert f"best: trial {best['trial']}," in done(command("--status=t"))


def test_a_best_value_at_the_edge_is_pointed_out(here):
    out = done(tuned("--max-trials=12", "--only=x", "--range=x=1:2.5", "--seed=1"))
    assert "warning: best x at the edge of its range, max 2.5" in out
    out = done(tuned("--max-trials=12", "--only=x", "--range=x=0:0.5:1", "--seed=1", "--sweep-dir=t"))
    assert "warning" not in out  # shares end at 1


def test_promote_and_baseline(here):
    done(tuned("--max-trials=4", "--seed=1", "--fix=total_timesteps=1000"))
    best = max(ends(here), key=lambda record: record["score"])
    out = done(command("--promote=s", "--seeds=3"))
    assert out.count(f"trial-{best['trial']}, seed ") == 2 + 3  # in the race, and then
    assert f"trial-{best['trial']}: 3 of 3 worked, score {best['score']:.4g} (" in out
    promoted = json.loads((here / "s" / "promoted.json").read_text())
    params = {r["trial"]: r["params"] for r in starts(here)}[best["trial"]]
    assert promoted == params | {"total_timesteps": 1250}
    args = json.loads((here / f"s/promoted/trial-{best['trial']}/0001/run/config.json").read_text())
    assert int(args["total_timesteps"]) == 1250
    out = done(command("--baseline", "--sweep-dir=s", "--seeds=3"))
    assert "defaults: 3 of 3 worked, score 1 (1 to 1), cost 2 (2 to 2)" in out and "trial-" in out
    files = [*here.glob(f"s/promoted/trial-{best['trial']}/*/run/config.json")]
    files = [*sorted(files), *sorted(here.glob("s/promoted/defaults/*/run/config.json"))]
    seeds = [json.loads(path.read_text())["seed"] for path in files]
    assert seeds[:3] == seeds[3:] and not {*map(int, seeds)} & {r["seed"] for r in starts(here)}
    assert "trial-1: 1 of 1" in done(command("--promote=s", "--trial=1", "--seeds=1"))
    assert "no trial 77" in done(command("--promote=s", "--trial=77"), code=2)


def test_the_luckiest_trial_is_not_the_best(here):
    """One whose score was luck falls behind when a few run again on other seeds."""
    done(tuned("--max-trials=6", "--seed=1"))
    lines = [json.loads(line) for line in (here / "s/trials.jsonl").read_text().splitlines()]
    results = sorted((line for line in lines if line["status"] == "ok"), key=lambda line: line["score"])
    results[0]["score"] = 99.0
    (here / "s/trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = done(command("--promote=s", "--seeds=1"))
    assert f"trial-{results[0]['trial']}, seed " in out
    assert f"settings of trial-{results[-1]['trial']}," in out


def test_seeds_that_miss_the_score_do_not_count(here):
    done(tuned("--stop-score=3", "--max-trials=12", "--seed=1"))
    assert "3 of 3 reached 3, score " in done(command("--promote=s", "--seeds=3"))
    assert "trial-1: 0 of 2 reached 3\n" in done(command("--promote=s", "--trial=1", "--seeds=2"))


def test_failures_of_a_promotion_are_shown(here, monkeypatch):
    done(tuned("--max-trials=2", "--seed=1"))
    monkeypatch.setenv("FAIL", "status")
    assert "0 of 2 worked" in done(command("--promote=s", "--trial=2", "--seeds=2"))


def test_a_live_table_in_a_terminal(here):
    main, other = pty.openpty()
    process = subprocess.Popen(tuned("--max-trials=3", "--mode=brief"), stdout=other, stderr=other)
    os.close(other)
    shown = b""
    while True:
        try:
            shown += os.read(main, 4096)
        except OSError:
            break
    assert process.wait() == 0
    assert b"  running  " in shown and b"3 of 3 trials" in shown and b"Traceback" not in shown
    out = done(command("--resume=s", "--max-trials=4"))
    assert "\x1b" not in out and re.search(r"^trial 4 +score \S+ in \S+ s  +x ", out, re.MULTILINE)


def test_without_a_folder_one_is_made(here):
    done([word for word in tuned("--max-trials=1") if word != "--sweep-dir=s"])
    (folder,) = (here / "sweeps" / "command").iterdir()
    assert (folder / "trials.jsonl").exists()


def test_the_trainer_itself(here):
    """Two short trials of Pong; what is promoted is what the trainer takes."""
    options = [
        "--fix",
        "total_timesteps=100000",
        "--only=learning_rate",
        "--max-trials=2",
        "--log-interval=0.1",
    ]
    done(command("--env=pong", *options, "--sweep-dir=s"))
    assert [record["status"] for record in ends(here)] == ["ok", "ok"]
    done(command("--promote=s", "--seeds=1", "--steps=1"))
    words = [sys.executable, str(ROOT / "cleanpuffer.py"), "--config=s/promoted.json", "--run-dir=r"]
    assert subprocess.run(words, capture_output=True).returncode == 0
    args = json.loads((here / "r" / "config.json").read_text())["args"]
    promoted = json.loads((here / "s" / "promoted.json").read_text())
    assert args["env"] == "pong" and args["learning_rate"] == promoted["learning_rate"]
