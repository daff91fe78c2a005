"""The tuner: finds better hyperparameters of a program, and minds what each try costs.

    python sweep.py --env pong --stop-score 20 --max-seconds 1800   least time to score 20
    python sweep.py --env breakout --budget 3600                    highest score, an hour of training in all
    python sweep.py --status DIR                                    what a sweep has found so far
    python sweep.py --promote DIR, then --baseline DIR              its best, the defaults, on fresh seeds
    python sweep.py --help                                          all options, from docs/tuner.md

It knows nothing of a trainer but its command line (`--name value`) and the run folder it writes. The map:

    spaces/__init__.py          Space: parameters to [-1, 1] and back, constraints between them; space files
    SAMPLERS, make_sampler      who suggests the next trial: suggest, observe
    Sweep                       the folder: sweep.json, trials.jsonl, a run folder for each trial
    Trial, supervise            runs of the command, as processes that cannot outlive the sweep
    run, promote, describe      suggest, run, observe; the best and the defaults on fresh seeds; what is shown
    parse, configure, main      the command line
"""

import errno
import fcntl
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

import spaces
from spaces import Space, is_number, parse_value, require

COMMANDS = ("resume", "status", "promote", "baseline")
SETTINGS = ("env", "command", "space", "only", "range", "fix", "objective", "sampler", "rule", "seed")
LIMITS = ("max_trials", "workers", "budget", "trial_cost", "trial_seconds", "max_seconds")  # may be changed
OPTIONS = (*COMMANDS, *SETTINGS, *LIMITS, "sweep_dir", "trial", "seeds", "steps")
WHOLE = ("max_trials", "workers", "seed", "trial", "seeds")  # numbers, as are the other limits and steps
ROOT = Path(__file__).resolve().parent


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


class Sweep:
    """A sweep's folder: sweep.json, what is searched and how; trials.jsonl, what happened, line by line."""

    def __init__(self, path: Path, config: dict[str, Any]):
        self.path, self.config = path, config
        self.trials: dict[int, dict[str, Any]] = {}  # by number: params, seed, status, score, cost, reason
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
        needs = {"running": (), "interrupted": (), "failed": ("cost",), "ok": ("cost", "score")}
        before = self.trials.get(record["trial"], {"score": None, "cost": None, "reason": None})
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

    def score(self, trial: dict[str, Any]) -> float:
        return min(trial["score"], self.target)  # beyond the target only time counts

    def front(self) -> list[dict[str, Any]]:
        """The Pareto front, from the cheapest trial to the best: no other is both better and cheaper."""
        front: list[dict[str, Any]] = []
        for trial in sorted(self.having("ok"), key=lambda trial: (trial["cost"], -self.score(trial))):
            front += [trial] if not front or self.score(trial) > self.score(front[-1]) else []
        return front

    def command_line(self, record: dict, worker: int) -> tuple[list[str], dict[str, str]]:
        """What starts a trial, and its environment: a share of the threads and, of several GPUs, one."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        threads = str(max(1, cores // self.config["workers"]))
        gpus = [str(i) for i, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(gpus)).split(",")
        env = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} | os.environ
        env |= {"CUDA_VISIBLE_DEVICES": gpus[worker % len(gpus)]} if len(gpus) > 1 else {}
        trainer = [sys.executable, str(ROOT / "cleanpuffer.py"), "--num-threads", threads]
        words, params = list(self.config["command"] or trainer), record["params"]
        fixed = [(name, text) for name, text in self.config["fixed"] if name.replace("-", "_") not in params]
        for name, value in (*fixed, *params.items(), ("seed", record["seed"])):
            words += [f"--{name}"] if value is None else [f"--{name}", str(value)]
        return words, env


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

    def __init__(self, sweep: Sweep, record: dict, worker: int, folder: str, limit: float | None):
        self.record, self.limit = record, limit
        self.folder = sweep.path.resolve() / folder / f"{record['trial']:04}"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        words, env = sweep.command_line(record, worker)
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


def supervise(sweep: Sweep, folder: str, limit: float | None, start: Callable, finish: Callable,
              over: Callable = lambda: False) -> None:
    """Keeps a trial going for every worker until over(), or until start() gives no record of one more and all
    have ended; finish(trial) takes each. However this ends, none is left running."""
    running: dict[int, Trial] = {}  # by worker
    try:
        while not over():
            for worker in [worker for worker, trial in running.items() if trial.ended()]:
                finish(running.pop(worker))
            for worker in {*range(sweep.config["workers"])} - {*running}:
                if record := start():
                    running[worker] = Trial(sweep, record, worker, folder, limit)
            if not running:
                return
            time.sleep(0.02)
    finally:
        for trial in running.values():
            trial.deadline = 0
        while running:
            running = {worker: trial for worker, trial in running.items() if not trial.ended()}
            time.sleep(0.02)


def run(sweep: Sweep) -> None:
    """Suggest, run, observe, until a limit is reached."""
    from rich.live import Live
    from rich.text import Text

    path, config = sweep.path, sweep.config
    most = {name: config[name] or math.inf for name in LIMITS}
    known = {"max_cost": config["trial_cost"], "budget": config["budget"], "max_trials": config["max_trials"]}
    sampler = make_sampler(config["sampler"], sweep.space, config["seed"], config["rule"], **known)
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    sweep.open()
    (path / "sweep.json.new").write_text(json.dumps(config, indent=1) + "\n")
    (path / "sweep.json.new").replace(path / "sweep.json")
    waiting = sweep.having("lost, runs again", "interrupted")

    def observe(trial: dict[str, Any]) -> None:
        failed = trial["status"] == "failed"
        sampler.observe(trial["params"], None if failed else sweep.score(trial), trial["cost"], failed)

    def start() -> dict[str, Any] | None:
        if len(sweep.trials) - len(waiting) >= most["max_trials"] or sweep.spent() >= most["budget"]:
            return None
        number = waiting[0]["trial"] if waiting else len(sweep.trials) + 1
        params = waiting.pop(0)["params"] if waiting else sampler.suggest()
        seed = np.random.SeedSequence((config["seed"], 0, number)).generate_state(1)[0]
        sweep.write(trial=number, status="running", params=params, seed=int(seed))
        return sweep.trials[number]

    def finish(trial: Trial) -> None:
        result = trial.result(config["objective"])
        require(sweep.finished or trial.usable, f"the first trial failed: {result['reason']}")
        sweep.write(trial=trial.record["trial"], **result)
        observe(sweep.finished[-1])
        print(row(sweep.finished[-1]))

    for trial in sweep.finished:
        observe(trial)
    sampler.running += [trial["params"] for trial in waiting]
    print(f"{path}: {len(sweep.space.names)} parameters, {config['sampler']}, seed {config['seed']}")
    try:  # in a terminal, what is running and was found stands below the lines of trials that have ended
        with Live(transient=True, get_renderable=lambda: Text("\n".join(describe(sweep)))):
            supervise(sweep, "trials", config["trial_seconds"], start, finish,
                      lambda: sweep.elapsed() > most["max_seconds"])
    except ValueError:
        if made and not sweep.finished:
            shutil.rmtree(made[-1])
        raise
    finally:
        for trial in sweep.having("running"):
            sweep.write(trial=trial["trial"], status="interrupted")
    print(*describe(sweep), sep="\n")


def promote(sweep: Sweep, label: str, options: dict[str, Any]) -> None:
    """Runs the best settings, those of a trial, or the trainer's "defaults" on fresh seeds, the same for all,
    and compares all that were run so. The settings of a trial are written for the trainer's --config, too."""
    params, folder, results = {}, sweep.path / "promoted", []
    if label != "defaults":
        number = options["trial"] or (sweep.front() or [{"trial": 0}])[-1]["trial"]
        require(number in sweep.trials, f"--promote: {sweep.path} has no trial {number or 'that worked'}")
        label, params = f"trial-{number}", dict(sweep.trials[number]["params"])
        if total := (sweep.fixed | params).get("total_timesteps"):
            more = options["steps"] or (1 if sweep.config["objective"] == "time" else 1.25)
            params["total_timesteps"] = round(total * more)
        (sweep.path / "promoted.json").write_text(json.dumps(sweep.fixed | params, indent=1) + "\n")
        print(f"{sweep.path / 'promoted.json'}: settings of trial {number}, for the trainer's --config")
    seeds = np.random.SeedSequence((sweep.config["seed"], 1)).generate_state(options["seeds"] or 5).tolist()
    waiting = iter([{"trial": i, "params": params, "seed": seed} for i, seed in enumerate(seeds, 1)])

    def finish(trial: Trial) -> None:
        results.append(trial.result(sweep.config["objective"]))
        print(f"{label}, seed {trial.record['seed']}: {outcome(results[-1])}")

    supervise(sweep, f"promoted/{label}", options["trial_seconds"], lambda: next(waiting, None), finish)
    (folder / f"{label}.json").write_text(json.dumps(results) + "\n")
    for file in sorted(folder.glob("*.json")):
        measured = json.loads(file.read_text())
        worked = [result for result in measured if result["status"] == "ok"]
        line = f"{file.stem}: {len(worked)} of {len(measured)} worked"
        for name in ("score", "cost") if worked else ():
            values = [result[name] for result in worked]
            line += f", {name} {np.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"
        print(line)


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


def describe(sweep: Sweep) -> list[str]:
    """What runs, how far a sweep is, and what it has found, in lines: Pareto front, best trial, warnings."""
    used = {"max_trials": len(sweep.finished), "budget": sweep.spent(), "max_seconds": sweep.elapsed()}
    of = [f"{used[name]:.0f}" + (f" of {limit:g}" if (limit := sweep.config[name]) else "") for name in used]
    lines = [row(trial) for trial in sweep.having("running")]
    lines += [f"{of[0]} trials, {len(sweep.having('failed'))} failed; {of[1]} s of training; {of[2]} s"]
    lines += [f"constraint left out, it names what is not known: {text}" for text in sweep.space.dropped]
    if not (front := sweep.front()):
        return lines
    lines.append("front: " + "; ".join(f"{outcome(trial)} (trial {trial['trial']})" for trial in front))
    best = front[-1]["params"]
    lines.append(f"best: trial {front[-1]['trial']}, " + ", ".join(f"{k} {v:.9g}" for k, v in best.items()))
    lines += [f"warning: best {edge}" for edge in sweep.space.edges(best)]
    return [*lines, f"the best on fresh seeds: python sweep.py --promote {sweep.path}"]


def parse(argv: list[str]) -> tuple[dict[str, Any], list[tuple[str, str | None]]]:
    """The options of the sweep, and the trainer's arguments; a flag's value is None. Raises ValueError."""
    options: dict[str, Any] = dict.fromkeys(OPTIONS)
    words, fixed = list(argv), []
    while words:
        word, equals, value = words.pop(0).partition("=")
        name = word[2:].replace("-", "_")
        require(word.startswith("--"), f"{word!r} is no argument; they are --name value")
        if not equals:
            value = words.pop(0) if words and not words[0].startswith("--") else None
        require(value is not None or name in COMMANDS or name not in OPTIONS, f"{word} needs a value")
        if name not in OPTIONS:
            fixed.append((word[2:], value))
        elif name == "fix":
            require("=" in value, f"--fix: {value!r} must be name=value")
            fixed.append(value.partition("=")[::2])
        elif name in (*WHOLE, *LIMITS, "steps"):
            number, least = parse_value(value), 0 if name == "seed" else 1e-9
            right = is_number(number) and number >= least and not (name in WHOLE and number % 1)
            require(right, f"{word}: {value!r} is no {'whole ' * (name in WHOLE)}number above 0")
            options[name] = int(number) if name in WHOLE else number
        else:
            joined = name in ("only", "range") and options[name]
            options[name] = f"{options[name]},{value}" if joined else value or ""
    return options, [("env", options["env"])] * bool(options["env"]) + fixed


def configure(options: dict[str, Any], fixed: list) -> dict[str, Any]:
    """The settings of a new sweep, as sweep.json holds them. Raises ValueError."""
    command = shlex.split(options["command"] or "")
    require(not command or shutil.which(command[0]), f"--command: there is no program {command[:1]}")
    values = {name.replace("-", "_"): parse_value(text) for name, text in fixed}
    objective = options["objective"] or ("time" if "stop_score" in values else "score")
    require(objective in ("score", "time"), f"--objective: {objective!r} is not score or time")
    target = values.get("stop_score")
    require(objective == "score" or is_number(target), f"--objective time needs --stop-score, not {target!r}")
    space = spaces.read(options["env"], options["space"], options["only"], options["range"], values)
    config = {"command": command, "fixed": fixed, **space, "objective": objective, "rule": options["rule"],
              "sampler": options["sampler"] or next(iter(SAMPLERS))}
    config |= {"seed": options["seed"]} if options["seed"] is not None else {}
    return json.loads(json.dumps(config, default=str))  # as it will be read back


def main(argv: list[str]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    path = Path("DIR")
    try:
        sys.stdout.reconfigure(line_buffering=True)
        if {"-h", "--help"} & {*argv}:
            print((ROOT / "docs/tuner.md").read_text().partition("## Options")[2].split("```")[1].strip())
            return 0
        options, fixed = parse(argv)
        command = next((name for name in COMMANDS if options[name] is not None), "run")
        name = f"{options['env'] or 'command'}/{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}"
        path = Path(options.get(command) or options["sweep_dir"] or f"sweeps/{name.replace(':', '-')}")
        saved = json.loads((path / "sweep.json").read_text()) if (path / "sweep.json").exists() else {}
        require(saved or command == "run", f"there is no sweep in {path}")
        settings = configure(options, fixed) if command == "run" else {}
        changes = fixed or any(options[name] is not None for name in SETTINGS)
        require(settings or not changes, f"{path} has its settings; only limits can be changed")
        others = [name for name in settings if saved and saved[name] != settings[name]]
        require(not others, f"{path} was made with another {', '.join(others)}; see sweep.json there")
        config = {"workers": 1, "seed": int.from_bytes(os.urandom(4))} | saved | settings
        config |= {name: options[name] or config.get(name) for name in LIMITS}
        if not (config["max_trials"] or config["max_seconds"] or config["budget"]):
            config["max_trials"] = 100
        sweep = Sweep(path, config)
        if command in ("run", "resume"):
            run(sweep)
        elif command == "status":
            sweep.open(alone=False)
            ended = [trial for trial in sweep.trials.values() if trial["status"] != "running"]
            print(*map(row, ended), *describe(sweep), sep="\n")
        else:
            sweep.open()
            promote(sweep, "best" if command == "promote" else "defaults", options)
        return 0
    except KeyboardInterrupt:
        print(f"interrupted; go on with: python sweep.py --resume {path}", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        where = f"{path}: " * isinstance(error, json.JSONDecodeError)
        print(f"sweep.py: error: {where}{error}", file=sys.stderr)
        return 1 if isinstance(error, OSError) else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
