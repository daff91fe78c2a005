"""What has been tried, and runs of a command as processes that cannot outlive the one that started them.

Sweep is a sweep's folder. Sweep.trial starts a Trial, `supervise` keeps as many going as there are workers,
and Trial.result reads what the command has written: summary.json {status, score, cost} in its run folder.
`curve` reads its metrics.jsonl.
"""

import errno
import fcntl
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from spaces import Space, is_number, parse_value, require

ROOT = Path(__file__).resolve().parent
GRACE = 5.0  # seconds between asking a trial to end and ending it
# What becomes a trial. On Linux it dies with the sweep (1 is PR_SET_PDEATHSIG), and it leaves a process that
# ends its whole group, children too, when the pipe from the sweep closes: no trial outlives the sweep.
GUARD = """
import ctypes, os, signal, sys
if sys.platform == "linux": ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if not os.fork():
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)
    if not os.fork(): os.read(0, 1), os.killpg(0, signal.SIGKILL)
    os._exit(0)
os.wait()
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Trial:
    """One run of a command, in a process group of its own, for at most `limit` seconds.

    record is the caller's. folder, made anew, will hold output.txt and, given as --run-dir, `run`. cwd is
    where the command starts.
    """

    def __init__(
        self, record: dict, folder: Path, words: list[str], env: dict, limit: float | None, cwd: str
    ):
        self.record, self.folder, self.limit = record, folder, limit or math.inf
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        words = [sys.executable, "-S", "-c", GUARD, *words, "--run-dir", str(self.folder / "run")]
        with open(self.folder / "output.txt", "wb") as out:
            self.process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=out, stderr=out, env=env, cwd=cwd, start_new_session=True
            )
        self.began, self.timed_out = time.monotonic(), False
        self.deadline = self.began + self.limit

    def ended(self) -> bool:
        """Whether it is over, with all its processes. Past its deadline it is asked to end, then killed."""
        code, now = self.process.poll(), time.monotonic()
        self.seconds = now - self.began
        if code is not None or now > self.deadline:
            with suppress(ProcessLookupError, PermissionError):  # all have ended
                asked = code is not None or self.timed_out
                os.killpg(self.process.pid, signal.SIGKILL if asked else signal.SIGTERM)
            self.timed_out, self.deadline = self.timed_out or code is None, now + GRACE
        return code is not None

    def result(self, objective: str) -> dict[str, Any]:
        """What came of it: status ok or failed, score, cost in seconds, what was wrong. If time is the
        objective, one that was stopped and saved its score is ok: it missed. If not `usable`, and nothing has
        worked yet, the command is to blame. OSError: the disk is full."""
        code, status, score, cost = self.process.returncode, None, None, None
        with suppress(OSError, ValueError, AttributeError):
            summary = json.loads((self.folder / "run" / "summary.json").read_text())
            status, score, cost = (summary.get(name) for name in ("status", "score", "cost"))
        output = (self.folder / "output.txt").read_bytes()[-5000:].decode(errors="replace")
        if code and os.strerror(errno.ENOSPC) in output:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        lines = [text for line in output.splitlines() if (text := line.strip(" │╭╮╰╯─"))]  # without a box
        said = f": {' / '.join(lines[-3:])}" if lines else ""
        memory = code and ("out of memory" in output.lower() or "MemoryError" in output)
        reasons = {
            f"not done in {self.limit:.4g} s": self.timed_out,
            "out of memory, or killed": memory or code == -signal.SIGKILL,
            f"signal {-code}{said}": code < 0,
            f"exit code {code}{said}": code,
            f"no summary.json{said}": status is None,
            f"status {status}{said}": status != "ok",
            f"score {score!r} in summary.json is no finite number": not is_number(score),
        }
        reason = next((reason for reason, holds in reasons.items() if holds), None)
        saved = status in ("ok", "interrupted") and is_number(score)
        reason = None if self.timed_out and status == "ok" and saved else reason  # it was done after all
        failed = reason and not (saved and self.timed_out and objective == "time")
        self.usable = self.timed_out or code < 0 or (status is not None and code != 2)
        return {
            "status": "failed" if failed else "ok",
            "reason": reason,
            "score": score if is_number(score) else None,
            "cost": cost if is_number(cost) and cost > 0 else self.seconds,
            "seconds": round(self.seconds, 2),
        }


def share(worker: int, workers: int) -> tuple[str, dict[str, str]]:
    """How many threads each of `workers` trials has, and a trial's environment: with them, and, of several
    GPUs, one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = str(max(1, cores // workers))
    gpus = [str(i) for i, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(gpus)).split(",")
    env = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} | os.environ
    return threads, env | ({"CUDA_VISIBLE_DEVICES": gpus[worker % len(gpus)]} if len(gpus) > 1 else {})


def curve(folder: Path, count: int, least: float, most: float) -> list[tuple[float, float, float]]:
    """Steps, score and seconds of shorter runs that a trial has been on its way: of lines of its
    metrics.jsonl {step or steps, score, seconds} with `least` steps or more, below `most`, `count` that are
    evenly apart."""
    points = []
    with suppress(OSError, ValueError, AttributeError):  # it need not write any
        for line in map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines()):
            point = line.get("step", line.get("steps")), line.get("score"), line.get("seconds")
            if all(map(is_number, point)) and least <= point[0] < most and point[2] > 0:
                points.append(point)
    chosen = {len(points) * i // (count + 1) for i in range(1, count + 1)}
    return [points[i] for i in sorted(chosen)] if points else []


def supervise(workers: int, start: Callable, finish: Callable, over: Callable = lambda: False) -> None:
    """Keeps a trial going for every worker until over(), or until start(worker) gives no more and all have
    ended; finish(trial) takes each. However this ends, none is left running."""
    running: dict[int, Trial] = {}  # by worker
    try:
        while not over():
            for worker in [worker for worker, trial in running.items() if trial.ended()]:
                finish(running.pop(worker))
            for worker in {*range(workers)} - {*running}:
                if trial := start(worker):
                    running[worker] = trial
            if not running:
                return
            time.sleep(0.02)
    finally:
        for trial in running.values():
            trial.deadline = 0
        while running:
            running = {worker: trial for worker, trial in running.items() if not trial.ended()}
            time.sleep(0.02)


class Sweep:
    """A sweep's folder: sweep.json, what is searched and how; trials.jsonl, what happened, line by line."""

    def __init__(self, path: Path, config: dict[str, Any]):
        self.path, self.config = path, config
        self.trials: dict[int, dict[str, Any]] = {}  # by number: what its lines in trials.jsonl say
        self.finished: list[dict[str, Any]] = []  # those with a result, in the order of their ends
        self.before, self.began = 0.0, time.monotonic()  # seconds up to the last line, and when that was
        self.fixed = {name.replace("-", "_"): parse_value(text) for name, text in config["fixed"]}
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / config["workers"]
        self.space = Space(config["space"], config["constraints"], {"memory": memory} | config["constants"])
        self.target = self.fixed["stop_score"] if config["objective"] == "time" else math.inf

    def open(self, alone: bool = True) -> None:
        """Reads what has happened. `alone` makes the folder this process's, and cuts off a line that was not
        finished. Raises ValueError if the folder is another process's, or a line is damaged."""
        path, died = self.path / "trials.jsonl", True
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND if alone else os.O_RDONLY)
        try:
            fcntl.flock(self.file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            require(not alone, f"another process is at work in {self.path}")
            died = False
        *lines, rest = path.read_bytes().split(b"\n")
        if alone:
            os.ftruncate(self.file, os.fstat(self.file).st_size - len(rest))
        else:
            os.close(self.file)
        for number, line in enumerate(lines, 1):
            try:
                self.apply(json.loads(line))
            except (AttributeError, KeyError, TypeError, ValueError):
                shown = line[:60].decode(errors="replace")
                raise ValueError(f"{path}, line {number} is damaged: {shown}") from None
        for trial in self.having("running") if died else ():
            trial["status"] = "lost, runs again"

    def apply(self, record: dict[str, Any]) -> None:
        """Takes in a line of trials.jsonl, and raises one error or another where it cannot be one."""
        needs = {"running": (), "interrupted": (), "failed": ("cost",), "ok": ("cost", "score", "seconds")}
        before = self.trials.get(record["trial"], {"score": None, "cost": None, "seconds": 0, "reason": None})
        trial = before | record
        in_turn = trial["trial"] in range(1, len(self.trials) + 2) and before not in self.finished
        whole = all(is_number(trial[name]) for name in ("seed", "elapsed", *needs[trial["status"]]))
        require(in_turn and whole, "trials begin one after another, end once, and have numbers")
        self.space.to_unit(trial["params"])  # and their parameters are those of the space
        self.trials[trial["trial"]], self.before, self.began = trial, trial["elapsed"], time.monotonic()
        self.finished += [trial] if needs[trial["status"]] else []

    def write(self, **record: Any) -> None:
        """Adds a line; on return it is on the disk."""
        line = json.dumps(record | {"elapsed": round(self.elapsed(), 2)})
        end = os.fstat(self.file).st_size
        if os.write(self.file, f"{line}\n".encode()) <= len(line):
            os.ftruncate(self.file, end)  # no half lines
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self.file)
        self.apply(json.loads(line))

    def having(self, *statuses: str) -> list[dict[str, Any]]:
        return [trial for trial in list(self.trials.values()) if trial["status"] in statuses]

    def elapsed(self) -> float:
        return self.before + time.monotonic() - self.began

    def spent(self) -> float:
        return sum(trial["cost"] for trial in self.finished)

    def times(self) -> list[float]:
        """Seconds that trials took to the target, with what a program does not count as cost: its start."""
        reached = self.reached(self.finished) if self.target < math.inf else []
        return [max(trial["cost"], trial["seconds"]) for trial in reached]

    def score(self, trial: dict[str, Any]) -> float:
        return min(trial["score"], self.target)  # beyond the target only time counts

    def front(self) -> list[dict[str, Any]]:
        """The Pareto front, from the cheapest trial to the best: no other is both better and cheaper."""
        front: list[dict[str, Any]] = []
        for trial in sorted(self.having("ok"), key=lambda trial: (trial["cost"], -self.score(trial))):
            front += [trial] if not front or self.score(trial) > self.score(front[-1]) else []
        return front

    def best(self, count: int) -> list[int]:
        """Numbers of the best trials, the best first: by score or, where they reach the target, by cost."""
        ranked = sorted(self.having("ok"), key=lambda trial: (-self.score(trial), trial["cost"]))
        return [trial["trial"] for trial in ranked[:count]]

    def reached(self, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those that worked and, if there is a target, reached it."""
        good = [result for result in results if result["status"] == "ok"]
        return [result for result in good if self.target == math.inf or result["score"] >= self.target]

    def merit(self, results: list[dict[str, Any]]) -> tuple[int, float]:
        """How good settings are that gave these: how many worked or reached it, then their score or time."""
        values = [r["score"] if self.target == math.inf else -r["cost"] for r in self.reached(results)]
        return len(values), statistics.median(values) if values else -math.inf

    def words(self, record: dict, threads: str) -> list[str]:
        """The command that runs the settings of a trial, all but its --run-dir."""
        trainer = [sys.executable, str(ROOT / "cleanpuffer.py"), "--num-threads", threads]
        words, params = list(self.config["command"] or trainer), record["params"]
        fixed = [(name, text) for name, text in self.config["fixed"] if name.replace("-", "_") not in params]
        for name, value in (*fixed, *params.items(), ("seed", record["seed"])):
            words += [f"--{name}"] if value is None else [f"--{name}", str(value)]
        return words

    def trial(self, record: dict, worker: int, folder: str, limit: float | None) -> Trial:
        """Starts a trial, with a worker's share of the threads and, of several GPUs, one."""
        threads, env = share(worker, self.config["workers"])
        env["SWEEP_DIR"] = str(self.path.resolve())  # whose name trackers mark a trial with
        folder = self.path.resolve() / folder / f"{record['trial']:04}"
        return Trial(record, folder, self.words(record, threads), env, limit, self.config["cwd"])


def outcome(trial: dict[str, Any]) -> str:
    if trial["cost"] is None:
        return trial["status"]
    words = "failed" if trial["status"] == "failed" else f"score {trial['score']:.4g}"
    return f"{words} in {trial['cost']:.4g} s" + (f": {trial['reason']}" if trial["reason"] else "")


def row(trial: dict[str, Any]) -> str:
    """A trial in a line as wide as the terminal."""
    settings = ", ".join(f"{name} {value:.4g}" for name, value in trial["params"].items())
    line = f"trial {trial['trial']:<4} {outcome(trial):28.60}  {settings}"
    return line[: shutil.get_terminal_size((999, 24)).columns]
