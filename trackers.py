"""What is written of a run, and shown: its folder, the score, a record of metrics, the dashboard.

    python trackers.py RUN dashboard.svg        the dashboard of a run as a picture

A tracker is made with the run's settings, gets every record of metrics.jsonl, and is closed at the end. Those
of --track are processes, each of which runs send.py.
"""

import dataclasses
import fcntl
import importlib.util
import io
import json
import math
import os
import pickle
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

import send

# Which of how many processes this one is, where torchrun has started several: see ranks.py.
WORLD = int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1
RANK = int(os.environ["RANK"]) if WORLD > 1 else 0
BLUE, GREEN, ORANGE = "color(31)", "color(34)", "color(166)"  # that can be read on black and on white
LOSSES = ("policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac", "grad_norm")


class UsageError(Exception):
    """What the user can mend: printed as one line, exit code 2."""


class Diverged(Exception):
    """A loss, gradient or weight is not finite: exit code 3."""


class Profile:
    """Seconds by phase: `with profile("rollout forward"): …`, never nested; one a thread, added up."""

    PHASES = tuple("rollout " + phase for phase in ("forward", "environment", "copy", "other")) + tuple(
        "update " + phase for phase in ("forward", "backward", "optimizer", "copy", "other")
    )

    spans: list | None = None  # while a Trace records: (name, thread, start, end), of all instances

    def __init__(self):
        self.seconds, self.lock = dict.fromkeys(self.PHASES, 0.0), threading.Lock()

    def __call__(self, phase: str) -> "Profile":
        self.phase = phase
        return self

    def __enter__(self):
        self.start = time.perf_counter()

    def __exit__(self, *_):
        end = time.perf_counter()
        self.seconds[self.phase] += end - self.start
        if Profile.spans is not None:
            Profile.spans.append((self.phase, threading.get_native_id(), self.start, end))

    def add(self, other: "Profile") -> None:
        with self.lock:
            self.seconds = {phase: total + other.seconds[phase] for phase, total in self.seconds.items()}

    def shares(self) -> dict[str, float]:
        """Each phase's share of the time, over all threads, since the last call."""
        seconds, self.seconds = self.seconds, dict.fromkeys(self.PHASES, 0.0)
        total = sum(seconds.values()) or 1.0
        return {phase: part / total for phase, part in seconds.items()}


class Trace:
    """--profile: ten updates as a trace: phases by thread, in the last two torch's operations and what a GPU
    does, too. These slow what they record; the phases alone do not."""

    FIRST, TORCH, LAST = 5, 13, 15  # updates: the first ones are no measure

    def __init__(self, args: Any):
        self.path, self.wanted = Path(args.run_dir) / "profile.json", args.profile
        self.updates, self.torch = 0, None

    def update(self) -> None:
        """Is told of the end of every update."""
        if not self.wanted:
            return
        self.updates += 1
        if Profile.spans is not None:
            span = self.began, time.perf_counter()
            Profile.spans.append((f"update {self.updates}", threading.get_native_id(), *span))
        if self.updates == self.FIRST:
            Profile.spans = []
        elif self.updates == self.TORCH:
            from torch._C._profiler import _ExperimentalConfig

            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it prints
            config = _ExperimentalConfig(profile_all_threads=True, trace_only=True)
            self.torch = torch.profiler.profile(experimental_config=config)
            self.torch.start()
        elif self.updates == self.LAST:
            self.close()
        self.began = time.perf_counter()

    def close(self) -> None:
        """Writes what was recorded, unless that is done. However a run ends, it must come here: a process
        that ends while torch records crashes."""
        if not self.wanted:
            return
        self.wanted, spans, Profile.spans = False, Profile.spans, None
        if self.torch:
            self.torch.stop()
        if not spans:
            return say(f"profile: nothing recorded, as the run has ended after {self.updates} updates")
        try:
            self.write(spans)
        except (OSError, ValueError) as error:  # the disk is full, of which torch says nothing
            return say(f"profile: {self.path} could not be written: {error}")
        say(
            f"profile: {self.path}, updates {self.FIRST + 1} to {self.updates}; open it in https://ui.perfetto.dev"
        )

    def write(self, spans: list) -> None:
        trace = {"traceEvents": [], "baseTimeNanoseconds": 0}
        if self.torch:
            self.torch.export_chrome_trace(str(self.path))
            trace = json.loads(self.path.read_text())
        pid, offset = os.getpid(), time.time() - time.perf_counter() - trace["baseTimeNanoseconds"] / 1e9
        for name, thread, start, end in spans:
            times = {"ts": 1e6 * (start + offset), "dur": 1e6 * (end - start)}
            event = {"ph": "X", "cat": "phase", "name": name, "pid": pid, "tid": thread}
            trace["traceEvents"].append(event | times)
        for thread in threading.enumerate():
            named = {"ph": "M", "name": "thread_name", "pid": pid, "tid": thread.native_id}
            trace["traceEvents"].append(named | {"args": {"name": thread.name}})
        write_atomic(self.path, json.dumps(trace).encode())


class Scores:
    """The score: mean over the episodes finished since the last line of metrics.jsonl, extended back by whole
    reports of the environment to at least 100 episodes."""

    ENOUGH = 100

    def __init__(self):
        self.reports: list[dict[str, float]] = []  # what VecEnv.log gave, newest last
        self.since_line = 0  # how many of them came after the last line

    def add(self, report: dict[str, float]) -> None:
        if report["n"]:
            self.reports.append(report)
            self.since_line += 1

    def means(self) -> dict[str, Any]:
        """`score` (None before the first episode), `episodes`, and what else the environment reports."""
        first, episodes = len(self.reports), 0
        while first > 0 and (first > len(self.reports) - self.since_line or episodes < self.ENOUGH):
            first -= 1
            episodes += self.reports[first]["n"]
        self.reports = self.reports[first:]  # no later window reaches further back
        fields = [field for field in self.reports[0] if field != "n"] if self.reports else []
        means = {k: sum(report[k] * report["n"] for report in self.reports) / episodes for k in fields}
        return {"score": means.get("score"), "episodes": int(episodes)} | means


def metrics_record(trainer: Any, means: dict, seconds: float, sps: float, cpu: float) -> dict[str, Any]:
    """A line of metrics.jsonl. `cpu` is seconds of processor time a second."""
    args, usual = trainer.args, ("score", "episodes", "perf", "episode_return", "episode_length")
    record = {"update": trainer.updates, "step": trainer.steps, "seconds": seconds, "sps": sps}
    record["time_left"] = max(0, args.total_timesteps - trainer.steps) / sps
    record |= {name if name in usual else f"env/{name}": value for name, value in means.items()}
    record |= dict(zip(LOSSES, trainer.losses.tolist(), strict=True))
    record["learning_rate"] = args.learning_rate
    record["learning_rate_now"] = trainer.optimizer.param_groups[0]["lr"].item()
    record |= {f"profile/{name.replace(' ', '_')}": share for name, share in trainer.profile.shares().items()}
    record["cpu_percent"] = 100 * cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    record["memory_mb"] = peak / (2**20 if sys.platform == "darwin" else 2**10)
    if trainer.device.type == "cuda":
        record["gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return record


def to_json(record: dict[str, Any]) -> bytes:
    """A line of JSON, with null for what is not finite."""
    record = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(record, allow_nan=False).encode() + b"\n"


def write_atomic(path: Path, data: bytes) -> None:
    """Writes the file whole or not at all: a crash or a full disk leaves the old one."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


class Terminal:
    """The dashboard where the output is a terminal of some width, else a line for every record."""

    def __init__(self, args: Any):
        self.args, self.live = args, None
        self.scores: list[float | None] = []
        wide = shutil.get_terminal_size().columns >= 72
        if is_terminal() and wide and os.environ.get("TERM") != "dumb":
            from rich.live import Live

            self.live = Live(auto_refresh=False)
            self.live.start()

    def show(self, record: dict[str, Any]) -> None:
        if self.live:
            self.scores.append(record["score"])
            width = min(88, shutil.get_terminal_size().columns)
            self.live.update(dashboard(self.args, record, self.scores, width), refresh=True)
        else:
            say(fold(describe_record(self.args, record)))

    def close(self) -> None:
        if self.live:
            self.live.stop()


class Senders:
    """Neptune, wandb, TensorBoard: for each a process that runs send.py. Nothing waits for it but the end of
    the run, and that not for long."""

    def __init__(self, args: Any):
        self.folder, self.processes = args.run_dir, {}
        script = Path(__file__).with_name("send.py")
        for name in args.track.split(",") if args.track else ():
            command = [sys.executable, "-P", str(script), args.run_dir, name, "--live"]
            # A process begins with this mask: until it ignores these signals, none of them ends it.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, send.SIGNALS)
            try:
                pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
                process = subprocess.Popen(command, **pipes)
            except OSError as error:
                self.warn(name, error.strerror)
                continue
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for pipe in (process.stdout, process.stderr):
                os.set_blocking(pipe.fileno(), False)
            self.processes[name] = process

    def show(self, record: dict[str, Any] | None = None) -> None:
        """Says what they have to say, once: where the run can be seen, or what is wrong."""
        for name, process in list(self.processes.items()):
            code = process.poll()  # before the last words are read
            for line in (process.stdout.read() or b"").decode(errors="replace").splitlines():
                say(line)
            problem = (process.stderr.read() or b"").decode(errors="replace").splitlines()
            if code or problem:
                self.warn(name, problem[-1] if problem else f"ended with exit code {code}")
                process.kill()
                process.wait()  # or it would stay in the table of processes as long as the run
            if code is not None or problem:
                del self.processes[name]

    def warn(self, name: str, problem: str) -> None:
        again = f"python send.py {shlex.quote(self.folder)} {name}"
        line = f"--track {name}: {problem}; the run is not affected, and {again} sends it later"
        with suppress(OSError):  # nobody reads it
            print(f"cleanpuffer.py: warning: {line}", file=sys.stderr, flush=True)

    def close(self) -> None:
        began, said = time.monotonic(), False
        for process in self.processes.values():
            with suppress(OSError):  # it has ended already
                process.stdin.write(b"over")
                process.stdin.close()
        while self.processes:
            self.show()
            time.sleep(0.02)
            waited = time.monotonic() - began
            if waited > 2 and self.processes and not said:
                said = True
                say(f"waiting for {', '.join(self.processes)}, at most {send.LIMIT:.0f} s")
            for process in self.processes.values() if waited > send.LIMIT + 2 else ():
                process.kill()


def is_terminal() -> bool:
    """Whether someone watches; standard output is None where it was closed."""
    return sys.stdout is not None and sys.stdout.isatty()


def fold(line: str) -> str:
    """Lines no longer than a terminal; the one line where the output is none."""
    return textwrap.fill(line, shutil.get_terminal_size().columns) if is_terminal() else line


def say(line: str) -> None:
    """Prints a line; a reader that has gone away (`| head`) does not stop a run."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def complain(problem: object) -> None:
    """Prints in one line what went wrong. Of several processes the first does so for all, and the others
    give it the time: torchrun ends all as soon as one has failed."""
    if RANK:
        time.sleep(1)
    else:
        print(f"cleanpuffer.py: error: {problem}", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"


def describe_record(args: Any, record: dict[str, Any]) -> str:
    """A record in one line, for output that is no terminal."""
    score = "none yet" if record["score"] is None else f"{record['score']:.4g}"
    done = min(1, record["step"] / args.total_timesteps)
    return (
        f"step {record['step']:,} ({done:.0%})  {record['seconds']:.1f} s, {clock(record['time_left'])} left"
        f"  {record['sps']:,.0f} steps/s  score {score} ({record['episodes']} episodes)"
    )


def dashboard(args: Any, record: dict[str, Any], scores: list[float | None], width: int) -> Any:
    """A record of metrics.jsonl, and all scores so far, as a panel for the terminal (rich)."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    def show(value: Any) -> str | Text:
        if value is None or isinstance(value, str | Text):
            return value or "-"
        if isinstance(value, int):
            if value < 1e7:
                return f"{value:,}"
            return f"{value / 1e6:.1f} M" if value < 1e9 else f"{value / 1e9:.2f} G"
        if abs(value) >= 1000:
            return f"{value:,.0f}"
        digits = 2 + (abs(value) >= 0.01) + (abs(value) >= 0.1)
        return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.{digits}g}"

    def size(megabytes: float) -> str:
        return f"{megabytes:,.0f} MB" if megabytes < 1e4 else f"{megabytes / 1024:.1f} GB"

    def table(*sections: tuple[str, dict[str, Any]]) -> Table:
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(justify="right", no_wrap=True)
        for title, rows in sections:
            grid.add_row(Text(title, style=f"bold {BLUE} not dim"))
            for name, value in rows.items():
                grid.add_row(name.removeprefix("episode_").replace("_", " "), show(value))
            grid.add_row()
        return grid

    def phases(part: str) -> tuple[str, dict[str, Any]]:
        shares = {k.split(part + "_")[1]: v for k, v in record.items() if k.startswith(f"profile/{part}")}
        return f"{part} {sum(shares.values()):.0%}", {k: f"{v:.0%}" for k, v in shares.items()}

    fields = ("episodes", "perf", "episode_return", "episode_length")
    environment = {k: record.get(k) for k in fields}
    environment |= {k.removeprefix("env/"): v for k, v in record.items() if k.startswith("env/")}
    run = {
        "steps": record["step"],
        "updates": record["update"],
        "learning rate": record["learning_rate_now"],
        "CPU": f"{record['cpu_percent']:.0f}%",
        "memory": size(record["memory_mb"]),
    }
    if "gpu_memory_mb" in record:
        run["GPU memory"] = size(record["gpu_memory_mb"])
    goal = "" if args.stop_score is None else f" of {args.stop_score:g}"
    score = "-" if record["score"] is None else f"{record['score']:.2f}"
    head, body = Table.grid(expand=True), Table.grid(padding=(0, 3), expand=True)
    for justify in ("left", "center", "right"):
        head.add_column(justify=justify, ratio=1)
        body.add_column(ratio=1)
    head.add_row(
        Text.assemble("score ", (score, f"bold {GREEN}"), goal),
        Text.assemble((f"{record['sps']:,.0f}", f"bold {ORANGE}"), " steps/s"),
        Text.assemble((clock(record["seconds"]), "bold"), f", {clock(record['time_left'])} left"),
    )
    losses = ("losses", {k: record[k] for k in LOSSES})
    body.add_row(table(("environment", environment)), table(losses), table(("run", run)))
    known = [score for score in scores if score is not None]
    span = f"score {min(known):.4g} to {max(known):.4g}" if known else ""
    curve = Text.assemble((span, f"bold {BLUE}"), "\n", ("\n".join(score_curve(known, 22, 5)), GREEN))
    body.add_row(table(phases("rollout")), table(phases("update")), curve)
    done = min(record["step"], args.total_timesteps)
    bar = ProgressBar(args.total_timesteps, done, style="dim", complete_style=BLUE, finished_style=BLUE)
    title, folder = f"[bold]CleanPuffer[/] [{BLUE}]{args.env}[/]", f"[default]{args.run_dir}[/]"
    content = Group(head, bar, "", body)
    return Panel(content, title=title, subtitle=folder, border_style=BLUE, padding=(0, 2), width=width)


def describe_start(args: Any, trainer: Any) -> str:
    """What is about to run, where, and all settings: two lines, folded to the width of a terminal."""
    unused_gpu = torch.cuda.is_available() and trainer.device.type == "cpu"
    idle = " (a GPU is idle: --device cuda)" if unused_gpu else ""
    env, batch = trainer.env, trainer.batch * trainer.world
    copies = f"{env.copies // args.groups} copies x {env.agents} agents x {args.groups} groups"
    copies += f" x {trainer.world} processes" if trainer.world > 1 else ""
    anew = (
        "; new episodes begin, as these environments cannot be saved"
        if args.resume and ":" in args.env
        else ""
    )
    line = (
        f"{args.env} on {args.device}{idle}, at most {args.num_threads} threads: {copies}, "
        f"batch {batch:,} in segments of {args.horizon}, minibatch {args.minibatch_size:,}, "
        f"{sum(p.numel() for p in trainer.parameters):,} weights, "
        f"{trainer.segments.nbytes() / 2**20:.1f} MB of experience{anew}"
    )
    settings = [f"{name} {value}" for name, value in vars(args).items() if value is not None]
    lines = [line, "settings: " + ", ".join(settings)]
    return "\n".join(map(fold, lines))


def describe_end(args: Any, summary: dict[str, Any]) -> str:
    score = f"score {summary['score']:.2f}" if summary["episodes"] else "no score yet"
    line = f"{summary['status']}: {score} over {summary['episodes']} episodes; {summary['steps']:,} steps "
    lines = [fold(line + f"in {summary['cost']:.1f} s, {summary['sps']:,.0f} steps/s")]
    script, folder = f"python {shlex.quote(sys.argv[0] or 'cleanpuffer.py')}", shlex.quote(args.run_dir)
    if summary["status"] == "interrupted":
        lines.append(f"go on:    {script} --resume {folder}")
    report = f"python {shlex.quote(os.path.relpath(Path(__file__).with_name('report.py')))}"
    return "\n".join([*lines, f"watch it: {script} --watch {folder}", f"curves:   {report} {folder}"])


def score_curve(scores: list[float], columns: int, lines: int) -> list[str]:
    """The scores over time as bars of eighths of a character, from the lowest score to the highest."""
    if len(scores) < 2:
        return []
    low, high = min(scores), max(scores)
    bars = []
    for i in range(columns):  # each the mean of its part of the scores
        first = i * len(scores) // columns
        part = scores[first : max((i + 1) * len(scores) // columns, first + 1)]
        height = (sum(part) / len(part) - low) / (high - low) if high > low else 0.5
        bars.append(1 + round(height * (8 * lines - 1)))
    rows = [[min(8, max(0, bar - 8 * line)) for bar in bars] for line in reversed(range(lines))]
    return ["".join(" ▁▂▃▄▅▆▇█"[eighths] for eighths in row) for row in rows]


def draw_dashboard(run: str, picture: str) -> None:
    """Draws what the terminal showed at the end of a run as an SVG that takes no fonts from the network."""
    from rich.console import Console

    args = SimpleNamespace(**json.loads((Path(run) / "config.json").read_text())["args"])
    records = [json.loads(line) for line in (Path(run) / "metrics.jsonl").open()]
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=88, file=nowhere, force_terminal=True, color_system="truecolor")
        console.print(dashboard(args, records[-1], [record["score"] for record in records], 88))
    svg = console.export_svg(title=f"python cleanpuffer.py --env {args.env}")
    Path(picture).write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL))


def load_tensors(path: Path) -> Any:
    """What torch.save wrote; UsageError if the file is missing, cut short or something else."""
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
        if isinstance(saved, dict):
            return saved
        raise ValueError
    except FileNotFoundError:
        raise UsageError(f"there is no {path}") from None
    except (RuntimeError, ValueError, EOFError, KeyError, OSError, pickle.UnpicklingError):
        raise UsageError(f"{path} cannot be read: it is cut short or no file of this program") from None


def load_class(name: str, origin: str) -> type:
    """The policy that file.py:Class names; the file may be of the checkout. UsageError if there is none."""
    path, _, kind = name.rpartition(":")
    ours = Path(__file__).parent / path
    path = str(ours) if ours.is_file() and not Path(path).is_file() else path
    if not Path(path).is_file():
        raise UsageError(f"{origin}: {name} must be file.py:Class, and there is no file {path or name}")
    main = sys.modules["__main__"]
    if Path(getattr(main, "__file__", None) or "").name == "cleanpuffer.py":
        sys.modules.setdefault("cleanpuffer", main)  # what the file imports as such
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not isinstance(found := getattr(module, kind, None), type):
        raise UsageError(f"{origin}: there is no class {kind} in {path}")
    if missing := [
        name for name in ("initial_state", "step", "play", "logprobs") if not hasattr(found, name)
    ]:
        raise UsageError(f"{origin}: {kind} is no policy, it has no {missing[0]}; see docs/policies.md")
    return found


def load_policy(policy: torch.nn.Module, weights: dict[str, torch.Tensor], origin: str) -> None:
    """Puts saved weights into the policy; UsageError names the first that does not fit."""
    own = policy.state_dict()
    for name in own | weights:
        there, here = (list(d[name].shape) if name in d else "absent" for d in (weights, own))
        if there != here:
            raise UsageError(f"{origin} holds another policy: {name} is {there} there, {here} here")
    policy.load_state_dict(weights)


class Run:
    """A run folder: config.json, metrics.jsonl, checkpoint.pt, model.pt and, at the end, summary.json."""

    def __init__(self, args: Any, trainer: Any, scores: Scores, started: float):
        self.path, self.trainer, self.scores = Path(args.run_dir), trainer, scores
        self.started = started  # when the process did, by time.time()
        if not args.resume and (self.path / "checkpoint.pt").exists():
            raise UsageError(f"--run-dir: {self.path} holds a run; --resume {self.path} goes on with it")
        self.cost_before = 0.0  # seconds of the processes that this one goes on from
        saved = self.read_checkpoint() if args.resume else {"metrics_bytes": 0}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.metrics = open(self.path / "metrics.jsonl", "ab", buffering=0)  # noqa: SIM115
            fcntl.flock(self.metrics, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"--run-dir: another process is training in {self.path}") from None
        except OSError as error:
            raise UsageError(f"--run-dir: cannot write to {self.path}: {error.strerror}") from None
        self.metrics.truncate(min(saved["metrics_bytes"], self.metrics.tell()))
        self.began, self.first_step, self.means = time.time(), trainer.steps, scores.means()
        self.trace = Trace(trainer.args)
        versions = {"python": sys.version.split()[0], "torch": torch.__version__, "numpy": np.__version__}
        machine = {"system": " ".join(os.uname()), "cores": os.cpu_count(), "device": args.device}
        config = {"args": dataclasses.asdict(args), "versions": versions, "machine": machine}
        write_atomic(self.path / "config.json", json.dumps(config, indent=2).encode() + b"\n")
        (self.path / "summary.json").unlink(missing_ok=True)
        if not args.resume:
            self.checkpoint()  # from here on the run can be resumed

    def cost(self) -> float:
        """Seconds of wall time from process start, over all processes of the run."""
        return self.cost_before + time.time() - self.started

    def log(self, record: dict[str, Any]) -> None:
        line, end = to_json(record), self.metrics.tell()
        if self.metrics.write(line) < len(line):  # the disk is full: no half lines
            self.metrics.truncate(end)
            raise OSError("no space left for a line of metrics")

    def checkpoint(self) -> None:
        os.fsync(self.metrics.fileno())
        rest = {"scores": vars(self.scores), "metrics_bytes": self.metrics.tell(), "cost": self.cost()}
        files = {"checkpoint.pt": self.trainer.save() | rest, "model.pt": self.trainer.policy.state_dict()}
        for name, state in files.items():
            buffer = io.BytesIO()  # torch.save itself hides that a disk is full
            torch.save(state, buffer)
            write_atomic(self.path / name, buffer.getvalue())

    def read_checkpoint(self) -> dict[str, Any]:
        """Goes back to the checkpoint: trainer, scores and cost."""
        path, trainer = self.path / "checkpoint.pt", self.trainer
        saved = load_tensors(path)
        try:
            trainer.load(saved)
            vars(self.scores).update(saved["scores"])
            self.cost_before, _ = saved["cost"], saved["metrics_bytes"]
        except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            raise UsageError(f"{path} does not fit this program: {error!r}") from None
        if trainer.steps >= trainer.args.total_timesteps:
            raise UsageError(f"--resume: {trainer.steps:,} steps are done; raise --total-timesteps to go on")
        return saved

    def summary(self, status: str) -> dict[str, Any]:
        """Writes summary.json, the last thing a run does, and returns it."""
        means, steps = self.means, self.trainer.steps
        sps = (steps - self.first_step) / (time.time() - self.began)
        summary = {
            "status": status,
            "score": means["score"],
            "perf": means.get("perf"),
            "episodes": means["episodes"],
            "cost": self.cost(),
            "steps": steps,
            "sps": sps,
        }
        write_atomic(self.path / "summary.json", to_json(summary))
        return summary


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python trackers.py RUN dashboard.svg")
    try:
        draw_dashboard(*sys.argv[1:])
    except (OSError, IndexError, ValueError) as error:
        sys.exit(f"trackers.py: error: {error}")
