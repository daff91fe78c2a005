"""Runs of a command, as processes that cannot outlive the one that started them.

sweep.py starts a Trial, `supervise` keeps as many going as there are workers, and `Trial.result` reads what
the command has written: summary.json {status, score, cost} in its run folder. `curve` reads its
metrics.jsonl.
"""

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from spaces import is_number

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

    record is the caller's. folder, made anew, will hold output.txt and, given as --run-dir, `run`.
    """

    def __init__(self, record: dict, folder: Path, words: list[str], env: dict, limit: float | None):
        self.record, self.folder, self.limit = record, folder, limit
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        words = [sys.executable, "-S", "-c", GUARD, *words, "--run-dir", str(self.folder / "run")]
        with open(self.folder / "output.txt", "wb") as out:
            self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=out, stderr=out, env=env,
                                            start_new_session=True)
        self.began, self.timed_out = time.monotonic(), False
        self.deadline = self.began + (limit or math.inf)

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
        reasons = {f"not done in {self.limit} s": self.timed_out,
                   "out of memory, or killed": memory or code == -signal.SIGKILL,
                   f"signal {-code}{said}": code < 0,
                   f"exit code {code}{said}": code,
                   f"no summary.json{said}": status is None,
                   f"status {status}{said}": status != "ok",
                   f"score {score}": not is_number(score)}
        reason = next((reason for reason, holds in reasons.items() if holds), None)
        saved = status in ("ok", "interrupted") and is_number(score)
        failed = reason and not (saved and self.timed_out and objective == "time")
        self.usable = self.timed_out or code < 0 or (status is not None and code != 2)
        return {"status": "failed" if failed else "ok", "reason": reason,
                "score": score if is_number(score) else None,
                "cost": cost if is_number(cost) and cost > 0 else self.seconds}


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
