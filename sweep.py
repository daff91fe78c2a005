"""The tuner: finds better hyperparameters of a program, and minds what each try costs.

    python sweep.py --env pong --stop-score 20 --max-seconds 1800   least time to score 20
    python sweep.py --env breakout --budget 3600                    highest score, an hour of training in all
    python sweep.py --status DIR                                    what a sweep has found so far
    python sweep.py --promote DIR, then --baseline DIR              its best, the defaults, on fresh seeds

It knows nothing of a trainer but its command line (`--name value`) and the run folder it writes.
docs/tuner.md has all options, and how to tune a program of your own. The map:

    Space                       parameters to [-1, 1] and back, constraints between them
    SAMPLERS, make_sampler      who suggests the next trial: suggest, observe
    Trial, supervise            runs of the command, as processes that cannot outlive the sweep
    Sweep                       the folder: sweep.json, trials.jsonl, a run folder for each trial
    run, status, promote, main  the commands
"""

import argparse
import ast
import errno
import fcntl
import json
import math
import operator
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np


def require(holds: Any, message: str) -> None:
    """ValueError, which `main` prints as one line, exit code 2."""
    if not holds:
        raise ValueError(message)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and abs(value) < 1e300


# To a line on which steps of one length matter alike, and back; what its numbers must be, and in words.
DISTRIBUTIONS: dict[str, tuple[Callable, Callable, Callable, str]] = {
    "uniform": (float, float, is_number, "finite"),
    "int_uniform": (float, round, lambda x: x == int(x), "a whole number"),
    "uniform_pow2": (math.log2, lambda y: 2**round(y), lambda x: x > 0.5 == math.frexp(x)[0], "a power of 2"),
    "log_normal": (math.log, math.exp, lambda x: x > 0, "above 0"),
    "logit_normal": (lambda x: -math.log1p(-x), lambda y: -math.expm1(-y), lambda x: 0 < x < 1, "in (0, 1)"),
}
OPERATORS: dict[type, Callable] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow, ast.And: all, ast.Or: any,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


def evaluate(node: ast.AST, values: dict[str, float]) -> Any:
    """What an expression comes to; ValueError if it holds more than numbers, names and OPERATORS."""
    match node:
        case ast.Constant(value=int() | float() as number):
            return np.float64(number)  # in which nothing grows without end, and x / 0 is no error
        case ast.Name(id=name):
            return np.float64(values[name])
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](evaluate(left, values), evaluate(right, values))
        case ast.BoolOp(op=op, values=parts):
            return OPERATORS[type(op)]([evaluate(part, values) for part in parts])
        case ast.Compare(left=left, ops=ops, comparators=others) if {*map(type, ops)} <= {*OPERATORS}:
            sides = [evaluate(side, values) for side in (left, *others)]
            return all(OPERATORS[type(op)](*pair) for op, *pair in zip(ops, sides, sides[1:], strict=False))
    raise ValueError(f"'{ast.unparse(node)}' is not numbers, names, + - * / // % **, comparisons, and, or")


def check_parameter(name: str, given: Any) -> dict[str, Any]:
    """A parameter as given, its scale as a number, the ends of its line, and whether it is an integer."""
    keys = ("distribution", "min", "max", "mean")
    require(isinstance(given, dict) and {*keys} <= {*given} <= {*keys, "scale"},
            f"{name}: needs {', '.join(keys)}, may have scale, and was given {given!r}")
    kind, low, high, mean = (given[key] for key in keys)
    require(str(kind) in DISTRIBUTIONS,
            f"{name}: unknown distribution {kind!r}; there are {', '.join(DISTRIBUTIONS)}")
    to_line, _, fits, words = DISTRIBUTIONS[kind]
    for key in keys[1:]:
        require(is_number(given[key]) and fits(given[key]),
                f"{name}: {key} {given[key]!r} is not {words}, as {kind} needs")
    whole = kind in ("int_uniform", "uniform_pow2")
    low, high, mean = (int(x) if whole else x for x in (low, high, mean))
    whole |= kind == "log_normal" and all(isinstance(x, int | np.integer) for x in (low, high, mean))
    require(to_line(low) < to_line(high), f"{name}: min {low} is not below max {high}")
    require(low <= mean <= high, f"{name}: mean {mean}, the centre, is not between min {low} and max {high}")
    scale = given.get("scale", "auto")
    scale = {"auto": 1.0, "time": 1 / max(1, math.log2(high / low)) if low > 0 else 0}.get(str(scale), scale)
    require(is_number(scale) and scale > 0, f"{name}: scale {scale!r} is not auto, time or above 0")
    return {"distribution": kind, "min": low, "max": high, "mean": mean, "scale": scale, "whole": whole,
            "ends": (to_line(low), to_line(high))}


class Space:
    """What is searched: how each parameter maps to [-1, 1], and which combinations are allowed.

    parameters   name: {"distribution", "min", "max", "mean", "scale"}; `mean` is where the search begins;
                 `scale`, the width of search noise in units of [-1, 1], is a number, "auto" (1, also if left
                 out) or "time" (1 / log2(max / min): half a doubling). A log_normal whose numbers are all of
                 Python's type int gives integers.
    constraints  what must hold: "minibatch_size <= num_envs * horizon", of parameters and constants
    constants    values of other names in them. A constraint with a name in neither is `dropped`.
    Raises ValueError, in one line, for anything out of place.
    """

    def __init__(self, parameters: dict, constraints: Iterable[str] = (), constants: dict | None = None):
        require(isinstance(parameters, dict) and parameters, "the space has no parameter to search")
        self.parameters = {name: check_parameter(name, given) for name, given in parameters.items()}
        self.names, self.constants = list(self.parameters), dict(constants or {})
        self.scale = np.array([p["scale"] for p in self.parameters.values()])  # [dimensions]
        self.centre = self.to_unit({name: p["mean"] for name, p in self.parameters.items()})  # [dimensions]
        self.constraints: list[tuple[ast.AST, set[str]]] = []  # and the names in each
        self.dropped: list[str] = []
        for text in constraints:
            try:
                node = ast.parse(text, mode="eval").body
            except (SyntaxError, TypeError, ValueError):
                raise ValueError(f"constraint {text!r} is no expression such as 'a <= b * c'") from None
            names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
            if names <= {*self.names, *self.constants}:
                self.constraints.append((node, names))
            else:
                self.dropped.append(text)
        for node, _ in self.broken(self.rounded(self.centre)):
            raise ValueError(f"constraint '{ast.unparse(node)}' does not hold at the centre")

    def to_unit(self, params: dict[str, Any]) -> np.ndarray:
        """Parameters to [dimensions] in [-1, 1]; a value outside its bounds counts as the bound."""
        unit = []
        for name, p in self.parameters.items():
            require(is_number(value := params.get(name)), f"{name}: {value!r} is not a finite number")
            line = DISTRIBUTIONS[p["distribution"]][0](min(max(value, p["min"]), p["max"]))
            unit.append(2 * (line - p["ends"][0]) / (p["ends"][1] - p["ends"][0]) - 1)
        return np.clip(unit, -1.0, 1.0)

    def from_unit(self, unit: np.ndarray) -> dict[str, Any]:
        """[dimensions] in [-1, 1] to parameters: plain numbers, rounded, in their bounds. Where they break a
        constraint, those it names are moved towards the centre, just until all constraints hold."""
        unit = np.clip(np.asarray(unit, float), -1.0, 1.0)
        params, moves = self.rounded(unit), np.zeros(len(self.names), bool)
        while broken := self.broken(params):  # moving some may break others; at the centre nothing is broken
            moves |= [any(name in names for _, names in broken) for name in self.names]
            params = self.rounded(np.where(moves, self.centre, unit))
        low, high = 0.0, 1.0  # bisection for how far they move; at `high` all hold
        while moves.any() and high - low > 1e-6:
            middle = (low + high) / 2
            nearer = self.rounded(unit + middle * moves * (self.centre - unit))
            low, high, params = (middle, high, params) if self.broken(nearer) else (low, middle, nearer)
        return params

    def rounded(self, unit: np.ndarray) -> dict[str, Any]:
        """As from_unit, whatever the constraints say."""
        params = {}
        for (name, p), x in zip(self.parameters.items(), unit.tolist(), strict=True):
            line = p["ends"][0] + (x + 1) / 2 * (p["ends"][1] - p["ends"][0])
            value = DISTRIBUTIONS[p["distribution"]][1](line)
            value = round(value) if p["whole"] else float(f"{value:.8g}")
            params[name] = min(max(value, p["min"]), p["max"])
        return params

    def broken(self, params: dict[str, Any]) -> list[tuple[ast.AST, set[str]]]:
        """The constraints that do not hold."""
        with np.errstate(all="ignore"):
            return [c for c in self.constraints if not evaluate(c[0], self.constants | params)]


class RandomCentre:
    """First the centre, then normal noise of half a parameter's scale around it."""

    def __init__(self, space: Space, seed: int = 0, **_: Any):
        self.space, self.seed = space, seed
        self.running: list[dict[str, Any]] = []  # suggested and not yet observed
        self.observed = 0

    def suggest(self) -> dict[str, Any]:
        made = self.observed + len(self.running)
        noise = np.random.default_rng((self.seed, made)).standard_normal(len(self.space.names))
        params = self.space.from_unit(self.space.centre + 0.5 * (made > 0) * self.space.scale * noise)
        self.running.append(params)
        return params

    def observe(self, params: dict[str, Any], score: float | None, cost: float, failed: bool = False) -> None:
        self.observed += 1
        if params in self.running:
            self.running.remove(params)


SAMPLERS: dict[str, Callable] = {"random-centre": RandomCentre}  # the default first
RULES: tuple[str, ...] = ()


def make_sampler(
    name: str,
    space: Space | dict,
    seed: int = 0,
    rule: str | None = None,
    goal: str = "maximize",
    max_cost: float | None = None,
    budget: float | None = None,
    max_trials: int | None = None,
) -> Any:
    """A sampler by name. Raises ValueError."""
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}; there are {', '.join(SAMPLERS)}")
    return SAMPLERS[name](space if isinstance(space, Space) else Space(space), seed)


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
    """One run of the command, in a process group of its own."""

    def __init__(self, number: int, slot: int, limit: float | None, folder: Path, words: list, env: dict):
        self.number, self.slot, self.limit, self.folder = number, slot, limit, folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        words = [sys.executable, "-S", "-c", GUARD, *words, "--run-dir", str(folder / "run")]
        with open(folder / "output.txt", "wb") as out:
            self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=out, stderr=out, env=env,
                                            start_new_session=True)
        self.began, self.timed_out = time.monotonic(), False

    def kill(self, number: int = signal.SIGKILL) -> None:
        with suppress(ProcessLookupError, PermissionError):  # all have ended
            os.killpg(self.process.pid, number)

    def ended(self) -> bool:
        """Whether it is over; enforces the time limit, and leaves none of its processes behind."""
        code, self.seconds = self.process.poll(), time.monotonic() - self.began
        if code is not None:
            self.kill()
        elif self.seconds > (self.limit or math.inf) + GRACE * self.timed_out:
            self.kill(signal.SIGKILL if self.timed_out else signal.SIGTERM)
            self.timed_out = True
        return code is not None

    def result(self) -> dict[str, Any]:
        """What came of it: status ok or failed, score, cost in seconds, why it failed. OSError: the disk is
        full. If `usable` is False, and nothing has worked yet, the command is to blame."""
        code, status, score, cost = self.process.returncode, None, None, None
        with suppress(OSError, ValueError, AttributeError):
            summary = json.loads((self.folder / "run" / "summary.json").read_text())
            status, score, cost = (summary.get(name) for name in ("status", "score", "cost"))
        output = (self.folder / "output.txt").read_bytes()[-5000:].decode(errors="replace").strip()
        if code and os.strerror(errno.ENOSPC) in output:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        memory = code and re.search("out of memory|MemoryError", output, re.IGNORECASE)
        reasons = {f"not done in {self.limit} s": self.timed_out,
                   "out of memory, or killed": memory or code == -signal.SIGKILL,
                   f"signal {-code}": code < 0,
                   f"exit code {code}: {output[output.rfind(chr(10)) + 1:]}": code,
                   "no summary.json": status is None,
                   f"status {status}": status != "ok",
                   f"score {score}": not is_number(score)}
        reason = next((reason for reason, holds in reasons.items() if holds), None)
        self.usable = self.timed_out or code < 0 or (status is not None and code != 2)
        return {"status": "failed" if reason else "ok", "score": score if is_number(score) else None,
                "cost": cost if is_number(cost) and cost > 0 else self.seconds, "reason": reason}


def supervise(workers: int, start: Callable, finish: Callable, over: Callable) -> None:
    """Keeps `workers` trials going until over(), or until start(slot) gives no more and all have ended;
    finish(trial) takes each. However this ends, none is left running."""
    running: list[Trial] = []
    try:
        while not over():
            for trial in [trial for trial in running if trial.ended()]:
                running.remove(trial)
                finish(trial)
            for slot in {*range(workers)} - {trial.slot for trial in running}:
                running += [trial] if (trial := start(slot)) else []
            if not running:
                return
            time.sleep(0.02)
    finally:
        deadline = time.monotonic() + GRACE
        for trial in running:
            trial.kill(signal.SIGTERM)
        while time.monotonic() < deadline and not all(trial.ended() for trial in running):
            time.sleep(0.02)
        for trial in running:
            trial.kill()


class Sweep:
    """A sweep's folder: sweep.json, what is searched and how; trials.jsonl, what happened, line by line."""

    def __init__(self, path: Path, config: dict[str, Any]):
        self.path, self.config = path, config
        self.trials: dict[int, dict[str, Any]] = {}  # by number: params, seed, status, score, cost, reason
        self.finished: list[dict[str, Any]] = []  # those with a result, in the order of their ends
        self.before, self.began = 0.0, time.monotonic()  # seconds of earlier processes of this sweep
        self.fixed = {name.replace("-", "_"): parse_value(text) for name, text in config["fixed"]}
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / config["workers"]
        numbers = {name: value for name, value in self.fixed.items() if is_number(value)}
        constants = {"memory": memory} | config["constants"] | numbers
        self.space = Space(config["space"], config["constraints"], constants)
        self.target = self.fixed["stop_score"] if config["objective"] == "time" else math.inf

    def load(self) -> None:
        """Reads what has happened; a last line that was cut short did not."""
        path = self.path / "trials.jsonl"
        for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else []:
            self.apply(json.loads(line))
            self.before = json.loads(line)["elapsed"]

    def apply(self, record: dict[str, Any]) -> None:
        blank = {"score": None, "cost": None, "reason": None}
        trial = self.trials[record["trial"]] = self.trials.get(record["trial"], blank) | record
        self.finished += [trial] if trial["status"] in ("ok", "failed") else []

    def lock(self) -> None:
        """Makes the folder this process's alone, cuts off a line that was not finished, and loads."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.file = os.open(self.path / "trials.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is at work in {self.path}") from None
        os.ftruncate(self.file, (self.path / "trials.jsonl").read_bytes().rfind(b"\n") + 1)
        self.load()

    def write(self, **record: Any) -> None:
        """Adds a line; on return it is on the disk."""
        line = json.dumps(record | {"elapsed": round(self.elapsed(), 2)}).encode() + b"\n"
        end = os.fstat(self.file).st_size
        if os.write(self.file, line) < len(line):
            os.ftruncate(self.file, end)  # no half lines
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self.file)
        self.apply(record)

    def elapsed(self) -> float:
        return self.before + time.monotonic() - self.began

    def spent(self) -> float:
        return sum(trial["cost"] for trial in self.finished)

    def score(self, trial: dict[str, Any]) -> float:
        return min(trial["score"], self.target)  # beyond the target only time counts

    def front(self) -> list[dict[str, Any]]:
        """The Pareto front, from the cheapest trial to the best: no other is both better and cheaper."""
        front: list[dict[str, Any]] = []
        done = [trial for trial in self.finished if trial["status"] == "ok"]
        for trial in sorted(done, key=lambda trial: (trial["cost"], -self.score(trial))):
            front += [trial] if not front or self.score(trial) > self.score(front[-1]) else []
        return front

    def start(self, number: int, slot: int, limit: float | None, at: str, params: dict, seed: int) -> Trial:
        """A trial with its share of the processor's threads and, where there are several, a GPU."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        threads = str(max(1, cores // self.config["workers"]))
        gpus = [str(i) for i, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(gpus)).split(",")
        env = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} | os.environ
        env |= {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if len(gpus) > 1 else {}
        trainer = [sys.executable, str(ROOT / "cleanpuffer.py"), "--num-threads", threads]
        words = list(self.config["command"] or trainer)
        fixed = [(name, text) for name, text in self.config["fixed"] if name.replace("-", "_") not in params]
        for name, value in (*fixed, *params.items(), ("seed", seed)):
            words += [f"--{name}"] if value is None else [f"--{name}", str(value)]
        return Trial(number, slot, limit, self.path.resolve() / at, words, env)


def parse_value(text: str | None) -> Any:
    """A value of the command line as JSON reads it, or as it stands; a flag, which has none, is true."""
    with suppress(ValueError):
        return True if text is None else json.loads(text)
    return text


def outcome(trial: dict[str, Any]) -> str:
    score = "" if trial["score"] is None else f"score {trial['score']:.4g} "
    return f"{score}in {trial['cost']:.4g} s" + (f", failed: {trial['reason']}" if trial["reason"] else "")


def describe(sweep: Sweep) -> list[str]:
    """What a sweep has found, in lines: how far it is, Pareto front, best trial, warnings."""
    def of(used: float, limit: str) -> str:
        return f"{used:.0f}" + (f" of {sweep.config[limit]:g}" if sweep.config[limit] else "")

    done, failed = sweep.finished, sum(t["status"] == "failed" for t in sweep.finished)
    lines = [f"{of(len(done), 'max_trials')} trials, {failed} failed; {of(sweep.spent(), 'budget')} s of "
             f"training; {of(sweep.elapsed(), 'max_seconds')} s"]
    if not (front := sweep.front()):
        return lines
    lines.append("front: " + "; ".join(f"{outcome(t)} (trial {t['trial']})" for t in front))
    best = front[-1]["params"]
    lines.append(f"best: trial {front[-1]['trial']}, " + ", ".join(f"{k} {v:.9g}" for k, v in best.items()))
    for (name, p), x in zip(sweep.space.parameters.items(), sweep.space.to_unit(best), strict=True):
        side = "max" if x > 0 else "min"
        if abs(x) > 0.9 and (side, p[side]) not in (("min", 0), ("max", 1)):  # which are ends by nature
            below = ", below 1" if p["distribution"] == "logit_normal" else ""
            lines.append(f"warning: best {name} at the edge of its range, {side} {p[side]}: widen it{below}")
    return lines


def show(sweep: Sweep, last: int) -> tuple[Any, Any]:
    """A rich console and what to print there: the last trials, and what was found."""
    from rich.console import Console, Group
    from rich.table import Table

    width, shown = shutil.get_terminal_size((160, 24)).columns, Table(box=None)
    for title in ("trial", "score", "cost, s", "status", "settings"):
        shown.add_column(title)
    for t in list(sweep.trials.values())[-last:]:
        score, cost = ("" if x is None else f"{x:.4g}" for x in (t["score"], t["cost"]))
        params = ", ".join(f"{name} {value:.4g}" for name, value in t["params"].items())
        shown.add_row(str(t["trial"]), score, cost, t["reason"] or t["status"], params[: max(width - 48, 20)])
    return Console(markup=False, highlight=False, width=width), Group(shown, *describe(sweep))


def run(sweep: Sweep) -> None:
    """Suggest, run, observe, until a limit is reached."""
    from rich.live import Live

    path, config, terminal = sweep.path, sweep.config, sys.stdout.isatty()
    most = {name: config[name] or math.inf for name in LIMITS}
    known = {"max_cost": config["trial_cost"], "budget": config["budget"], "max_trials": config["max_trials"]}
    sampler = make_sampler(config["sampler"], sweep.space, config["seed"], config["rule"], **known)
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    sweep.lock()
    (path / "sweep.json.new").write_text(json.dumps(config, indent=1) + "\n")
    (path / "sweep.json.new").replace(path / "sweep.json")

    def observe(t: dict[str, Any]) -> None:
        failed = t["status"] == "failed"
        sampler.observe(t["params"], None if failed else sweep.score(t), t["cost"], failed)

    def start(slot: int) -> Trial | None:
        if len(sweep.trials) - len(waiting) >= most["max_trials"] or sweep.spent() >= most["budget"]:
            return None
        t = waiting.pop(0) if waiting else {"trial": len(sweep.trials) + 1, "params": sampler.suggest()}
        number, params = t["trial"], t["params"]
        seed = int(np.random.SeedSequence((config["seed"], 0, number)).generate_state(1)[0])
        sweep.write(trial=number, status="running", params=params, seed=seed)
        return sweep.start(number, slot, config["trial_seconds"], f"trials/{number:04}", params, seed)

    def finish(trial: Trial) -> None:
        result = trial.result()
        require(sweep.finished or trial.usable, f"the first trial failed: {result['reason']}")
        sweep.write(trial=trial.number, **result)
        observe(sweep.finished[-1])
        say(*[] if terminal else [f"trial {trial.number}: {outcome(result)}"])

    for t in sweep.finished:
        observe(t)
    waiting = [t for t in sweep.trials.values() if t["status"] not in ("ok", "failed")]  # they run again
    sampler.running += [t["params"] for t in waiting]
    say(f"{path}: {len(sweep.space.names)} parameters, {config['sampler']}, seed {config['seed']}")
    if sweep.space.dropped:
        say(f"without constraints on what is neither searched nor fixed: {'; '.join(sweep.space.dropped)}")
    live = Live(console=show(sweep, 0)[0], get_renderable=lambda: show(sweep, 15)[1])
    try:
        with live if terminal else nullcontext():
            supervise(config["workers"], start, finish, lambda: sweep.elapsed() > most["max_seconds"])
    except ValueError:
        if made and not sweep.finished:
            shutil.rmtree(made[-1])
        raise
    finally:
        for number in [number for number, t in sweep.trials.items() if t["status"] == "running"]:
            sweep.write(trial=number, status="interrupted")
    say(*[] if terminal else describe(sweep))
    say(*[f"its best on fresh seeds: python sweep.py --promote {path}"] if sweep.front() else [])


def measure(sweep: Sweep, label: str, params: dict[str, Any], runs: int, limit: float | None) -> None:
    """Runs settings on fresh seeds, the same for all labels, and compares all that were measured."""
    folder, results = sweep.path / "promoted", []
    seeds = np.random.SeedSequence((sweep.config["seed"], 1)).generate_state(runs).tolist()
    waiting = list(range(runs))

    def start(slot: int) -> Trial | None:
        i = waiting.pop(0) if waiting else None
        return None if i is None else sweep.start(i, slot, limit, f"promoted/{label}/{i}", params, seeds[i])

    def finish(trial: Trial) -> None:
        results.append(trial.result())
        say(f"{label}, seed {seeds[trial.number]}: {outcome(results[-1])}")

    supervise(sweep.config["workers"], start, finish, lambda: False)
    (folder / f"{label}.json").write_text(json.dumps(results) + "\n")
    for file in sorted(folder.glob("*.json")):
        worked, line = [r for r in json.loads(file.read_text()) if r["status"] == "ok"], ""
        for name in ("score", "cost") if worked else ():
            values = [r[name] for r in worked]
            line += f", {name} {statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"
        say(f"{file.stem}: {len(worked)} of {len(json.loads(file.read_text()))} worked{line}")


def promoted(sweep: Sweep, number: int | None, steps: float | None) -> tuple[str, dict[str, Any]]:
    """Name and settings of the best trial, or of one by number; writes them for the trainer's --config."""
    number = number or (sweep.front() or [{"trial": 0}])[-1]["trial"]
    require(number in sweep.trials, f"--promote: {sweep.path} has no trial {number or 'that worked'}")
    params = dict(sweep.trials[number]["params"])
    if total := (sweep.fixed | params).get("total_timesteps"):
        steps = steps or (1 if sweep.config["objective"] == "time" else 1.25)
        params["total_timesteps"] = round(total * steps)
    (sweep.path / "promoted.json").write_text(json.dumps(sweep.fixed | params, indent=1) + "\n")
    say(f"{sweep.path / 'promoted.json'}: settings of trial {number}, for the trainer's --config")
    return f"trial-{number}", params


def say(*lines: str) -> None:
    print(*(f"{line}\n" for line in lines), sep="", end="", flush=True)


COMMANDS = ("resume", "status", "promote", "baseline")
SETTINGS = ("env", "command", "space", "sampler", "rule", "objective", "seed", "only", "fix", "range")
LIMITS = ("max_trials", "workers", "budget", "trial_cost", "trial_seconds", "max_seconds")  # may be changed
OPTIONS = dict.fromkeys((*COMMANDS, *SETTINGS, "sweep_dir"), str) | dict.fromkeys((*LIMITS, "steps"), float)
OPTIONS |= dict.fromkeys(("max_trials", "workers", "seed", "trial", "seeds"), int)


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[tuple[str, str | None]]]:
    """The options of the sweep, and the arguments of the trainer that are fixed. Raises ValueError."""
    parser = argparse.ArgumentParser("sweep.py", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = lambda message: require(False, message)
    for name, kind in OPTIONS.items():
        how = {"action": "append", "default": []} if name in ("only", "fix", "range") else {}
        how = {"nargs": "?", "const": ""} if name in COMMANDS else how
        parser.add_argument(*{f"--{name.replace('_', '-')}": 0, f"--{name}": 0}, dest=name, type=kind, **how)
    args, rest = parser.parse_known_args(argv)
    for name in (*LIMITS, "steps", "trial", "seeds"):
        require(getattr(args, name) is None or getattr(args, name) > 0, f"--{name}: it must be above 0")
    require(all("=" in text for text in args.fix), f"--fix: {args.fix} must be name=value")
    fixed = [("env", args.env)] * bool(args.env) + [text.partition("=")[::2] for text in args.fix]
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        require(name.startswith("--"), f"{name!r} is no argument; they are --name value")
        alone = not rest or rest[0].startswith("--")
        fixed.append((name[2:], value if equals else None if alone else rest.pop(0)))
    return args, fixed


def configure(args: argparse.Namespace, fixed: list[tuple[str, str | None]]) -> dict[str, Any]:
    """What sweep.json holds, from the command line and the space files."""
    require(args.env or args.command, "--env NAME: which environment?")
    require(args.space or not args.command, "--command needs --space FILE, made like spaces/default.toml")
    command = shlex.split(args.command or "")
    require(not command or shutil.which(command[0]), f"--command: there is no program {command[:1]}")
    content: dict[str, Any] = {"constraints": [], "constants": {}}
    own = ROOT / "spaces" / f"{args.env}.toml"
    for file in [Path(args.space)] if args.space else [own.with_name("default.toml"), *[own] * own.exists()]:
        require(file.is_file(), f"--space: there is no file {file}")
        try:
            for name, given in tomllib.loads(file.read_text()).items():
                content[name] = (content.get(name) or {}) | given if isinstance(given, dict) else given
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
    constraints, constants, space = content.pop("constraints"), content.pop("constants"), content
    require(isinstance(constraints, list) and all(map(is_number, dict(constants).values())),
            f"--space: constraints must be a list, constants numbers; they are {constraints}, {constants}")
    fixed_names = {name.replace("-", "_") for name, _ in fixed}
    only = ",".join(args.only).split(",") if args.only else list(space)
    for name in (*only, *(text.split("=")[0] for text in args.range)):
        require(name in space, f"--only, --range: {name!r} is not in the space: {', '.join(space)}")
    for name, _, text in (text.partition("=") for text in args.range):
        values = [parse_value(value) for value in text.split(":")]
        if isinstance(space[name].get("min"), int):  # 1e6 is an integer where integers stand
            values = [int(x) if is_number(x) and x == int(x) else x for x in values]
        keys = {1: ("mean",), 2: ("min", "max"), 3: ("min", "mean", "max")}.get(len(values))
        require(keys, f"--range {name}={text}: it is min:max, min:centre:max or centre")
        space[name] = space[name] | dict(zip(keys, values, strict=True))
    objective = args.objective or ("time" if "stop_score" in fixed_names else "score")
    require(objective in ("score", "time"), f"--objective: {objective!r} is not score or time")
    require(objective == "score" or "stop_score" in fixed_names, "--objective time needs --stop-score")
    return {"command": command, "fixed": fixed, "constraints": constraints, "constants": constants,
            "space": {name: space[name] for name in only if name not in fixed_names}, "objective": objective,
            "sampler": args.sampler or next(iter(SAMPLERS)), "rule": args.rule, "seed": args.seed}


def main(argv: list[str]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    path = Path("DIR")
    try:
        args, fixed = parse(argv)
        command = next((name for name in COMMANDS if getattr(args, name) is not None), "run")
        stamp = f"{args.env or 'command'}/{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}"
        path = Path(getattr(args, command, None) or args.sweep_dir or f"sweeps/{stamp.replace(':', '-')}")
        saved = json.loads((path / "sweep.json").read_text()) if (path / "sweep.json").exists() else {}
        require(saved or command == "run", f"there is no sweep in {path}")
        new = fixed or any(getattr(args, name) for name in SETTINGS)
        require(command == "run" or not new, f"{path} has its settings; only limits can be changed")
        config = json.loads(json.dumps(configure(args, fixed))) if command == "run" else saved.copy()
        for name in saved and config:
            same = saved[name] == config[name] or (name == "seed" and args.seed is None)
            require(same, f"{path} was made with another {name}: {saved[name]}, now {config[name]}")
        seeds = saved.get("seed"), args.seed, int.from_bytes(os.urandom(4))
        config["seed"] = next(seed for seed in seeds if seed is not None)
        config |= {name: getattr(args, name) or saved.get(name) for name in LIMITS}
        config["workers"] = config["workers"] or 1
        if not (config["max_trials"] or config["max_seconds"] or config["budget"]):
            config["max_trials"] = 100
        sweep = Sweep(path, config)
        if command in ("run", "resume"):
            run(sweep)
        elif command == "status":
            sweep.load()
            console, found = show(sweep, len(sweep.trials))
            console.print(found)
        else:
            sweep.lock()
            chosen = promoted(sweep, args.trial, args.steps) if command == "promote" else ("defaults", {})
            measure(sweep, *chosen, args.seeds or 5, args.trial_seconds)
        return 0
    except KeyboardInterrupt:
        print(f"interrupted; go on with: python sweep.py --resume {path}", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"sweep.py: error: {error}", file=sys.stderr)
        return 1 if isinstance(error, OSError) else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
