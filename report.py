"""The report: runs and sweeps as one HTML page that needs no network and no server.

    python report.py RUN                        its learning curves
    python report.py runs/pong                  those of all runs in a folder; seeds of one setting are a band
    python report.py SWEEP --watch              a sweep, rewritten every few seconds while it goes on
    python report.py SWEEP SWEEP --out both.html    two sweeps, each in a colour

This file reads folders, and collects what the page shows: `read_run` and `group` the curves, `read_sweep` the
trials, `beliefs` what the tuner's own processes make of them. report_page.html is the page, and draws it.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import math
import os
import shlex
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from spaces import is_number, require
from trials import Sweep, share

EVERY = 3.0, 30.0  # seconds between pages of --watch, least and most; twenty times what making one takes
POINTS = 300  # of a learning curve, at most
ENOUGH = 8  # trials that must have worked before the tuner's processes are asked
SHUFFLES = 20  # of a parameter's values among the trials, for its importance
TIMES = ("update", "step", "steps", "seconds", "time_left")  # what is no metric
ANYWHERE = (
    "seed",
    "run_dir",
    "resume",
    "config",
    "gif",
    "track",
    "tag",
    "profile",
)  # settings that make no difference to learning


def read_json(path: Path) -> dict[str, Any]:
    """An object; {} where there is no file. Raises ValueError."""
    with suppress(FileNotFoundError):
        try:
            found = json.loads(path.read_text(), parse_constant=lambda _: None)
        except ValueError:
            raise ValueError(f"{path} is damaged") from None
        require(isinstance(found, dict), f"{path} holds no object")
        return found
    return {}


def is_locked(path: Path) -> bool:
    """Whether another process is writing it: runs and sweeps lock their records."""
    with suppress(FileNotFoundError), open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def link(folder: Path, page: Path) -> str:
    """From the page to a folder."""
    return quote(os.path.relpath(folder.resolve(), page.resolve().parent)) + "/"


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings of settings, such as env_config, under names with a dot."""
    found = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def read_run(folder: Path, page: Path) -> dict[str, Any]:
    """A run as the page has it: settings, what came of it, curves by metric. Raises ValueError."""
    config, summary = read_json(folder / "config.json"), read_json(folder / "summary.json")
    args = config.get("args", config)
    require(isinstance(args, dict), f"{folder / 'config.json'}: args are no object")
    path, records, damaged = folder / "metrics.jsonl", [], 0
    going = is_locked(path)
    *lines, rest = path.read_bytes().split(b"\n") if path.exists() else [b""]
    for line in [*lines, b"" if going else rest]:  # the last one may be half written
        with suppress(ValueError):
            record = json.loads(line or b"0", parse_constant=lambda _: None)
            records += [record] if isinstance(record, dict) else []
            continue
        damaged += 1
    kept = np.unique(np.linspace(0, len(records) - 1, POINTS).astype(int)) if records else []
    records = [records[i] for i in kept]
    names = sorted({name for record in records for name in record})
    curves = {}
    for name in names:
        values = [record.get(name) for record in records]
        if any(map(is_number, values)):
            curves[name] = [float(f"{value:.5g}") if is_number(value) else None for value in values]
    curves["step"] = curves.get("step") or curves.pop("steps", None) or list(range(len(records)))
    ended = summary.get("status", "stopped without a summary")
    last = records[-1] if records else {}
    words = [sys.executable, str(Path(__file__).resolve().parent / "cleanpuffer.py")]
    return {
        "name": str(folder),
        "link": link(folder, page),
        "settings": {name: value for name, value in flat(args).items() if name not in ANYWHERE},
        "seed": args.get("seed"),
        "status": "going on" if going else ended,
        "going": going,
        "score": summary.get("score", last.get("score")),
        "cost": summary.get("cost", last.get("seconds")),
        "steps": summary.get("steps", last.get("step")),
        "command": shlex.join([*words, "--config", str((folder / "config.json").resolve())]),
        "notes": [f"{path}: {damaged} damaged line(s) left out"] * bool(damaged),
        "curves": curves,
    }


def group(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs that differ in the seed alone, named by the settings in which the groups differ."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        settings = run["settings"] or {"run": run["name"]}
        groups.setdefault(json.dumps(settings, sort_keys=True), []).append(run)
    all_settings = [json.loads(key) for key in groups]
    names = dict.fromkeys(name for settings in all_settings for name in settings)
    differ = [n for n in names if len({json.dumps(s.get(n, "")) for s in all_settings}) > 1]
    bare, found = ("env", "run", "folder"), []  # values that speak for themselves
    for settings, members in zip(all_settings, groups.values(), strict=True):
        shown = {n: f"{v:.4g}" if isinstance(v, float) else v for n, v in settings.items() if n in differ}
        words = [f"{'' if name in bare else name + ' '}{value}" for name, value in shown.items()]
        label = ", ".join(words) or str(settings.get("env") or members[0]["name"])
        found.append({"label": label, "runs": members})
    return found


def read_sweep(folder: Path, page: Path, known: dict) -> dict[str, Any]:
    """A sweep as the page has it. `known` keeps what takes long from page to page. Raises ValueError."""
    config = read_json(folder / "sweep.json")
    try:
        sweep = Sweep(folder, {"workers": 1, "cwd": os.getcwd()} | config)
    except (AttributeError, KeyError, TypeError):
        raise ValueError(f"{folder / 'sweep.json'} is damaged") from None
    path, notes = folder / "trials.jsonl", []
    going = is_locked(path)
    *lines, rest = path.read_bytes().split(b"\n") if path.exists() else [b""]
    lines += [rest] if rest and not going else []
    for number, line in enumerate(lines, 1):
        try:
            sweep.apply(json.loads(line))
        except (AttributeError, KeyError, TypeError, ValueError):
            require(number == len(lines), f"{path}, line {number} is damaged")
            notes.append("the last line of trials.jsonl is damaged and left out")
    notes += [f"constraint left out, it names what is not known: {text}" for text in sweep.space.dropped]
    for trial in sweep.having("running") if not going else ():
        trial["status"] = "lost"
    if (folder, len(sweep.finished)) not in known:
        known[folder, len(sweep.finished)] = beliefs(sweep)
    believed = known[folder, len(sweep.finished)]
    order = {trial["trial"]: number for number, trial in enumerate(sweep.finished, 1)}
    trials = []
    for number, trial in sweep.trials.items():
        words = sweep.words(trial, share(0, sweep.config["workers"])[0])
        words += ["--run-dir", f"rerun-{number:04}"] if sweep.config["command"] else []
        ok, run = trial["status"] == "ok", folder / f"trials/{number:04}/run"
        trials.append(
            {name: trial[name] for name in ("trial", "status", "reason", "params", "seed", "score", "cost")}
            | {"order": order.get(number), "counted": sweep.score(trial) if ok else None}
            | {"edges": sweep.space.edges(trial["params"]) if ok else []}
            | {"command": f"cd {shlex.quote(sweep.config['cwd'])} && {shlex.join(words)}"}
            | {"run": str(run), "link": link(run if run.exists() else folder, page)}
            | {"predicted": believed["predicted"].get(number)}
        )
    keys = ("distribution", "min", "max", "mean")
    return {
        "label": folder.name if folder.name not in ("", ".") else folder.resolve().name,
        "name": str(folder),
        "going": going,
        "target": sweep.target if sweep.target < math.inf else None,
        "space": {name: {key: p[key] for key in keys} for name, p in sweep.space.parameters.items()},
        "trials": trials,
        "notes": notes,
        "promoted": [
            {"label": file.stem, "results": json.loads(file.read_text(), parse_constant=lambda _: None)}
            for file in sorted(folder.glob("promoted/*.json"))
        ],
    } | {name: believed[name] for name in ("importance", "note", "explained")}


def beliefs(sweep: Sweep) -> dict[str, Any]:
    """What the tuner's processes make of the trials: score and cost of each, left out, by number, and how
    much each parameter matters to the score. A note says why where they cannot be asked.

    Left out: z_i - [K^-1 z]_i / [K^-1]_ii, with hyperparameters of all (Rasmussen and Williams, 5.12).
    Importance: E[(f(x) - f(x'))^2] / 2 Var f, with x' as x but for one parameter, another trial's.
    """
    found: dict[str, Any] = {"predicted": {}, "importance": {}, "note": None, "explained": None}
    worked = [trial for trial in sweep.finished if trial["status"] == "ok"]
    if len(worked) < ENOUGH:
        return found | {"note": f"predictions need {ENOUGH} trials that worked; there are {len(worked)}"}
    try:
        import torch

        import sweep as tuner  # which takes a second

        target = sweep.target if sweep.target < math.inf else None
        sampler = tuner.make_sampler("bayesian", sweep.space, target=target)
        for trial in sweep.finished:
            sampler.observe(trial["params"], trial["score"], trial["cost"], trial["status"] == "failed")
        threads = torch.get_num_threads()
        points, scores, costs = sampler.successes()
        try:
            torch.set_num_threads(1)  # more would wait for each other: the matrices are small
            sampler.learn(points, scores, costs)
        finally:
            torch.set_num_threads(threads)

        def left_out(process: Any) -> np.ndarray:
            z = process.cholesky @ (process.cholesky.T @ process.weights)
            return (z - process.weights / torch.cholesky_inverse(process.cholesky).diagonal()).numpy()

        score, cost = sampler.score, sampler.cost
        warp = score.h["warp"].item()
        predicted = np.sinh(left_out(score)) * warp * score.unit + score.shift
        seconds = np.exp(left_out(cost) * cost.unit + cost.shift)
    except (ImportError, RuntimeError) as error:
        return found | {"note": f"no predictions: {error}"}
    rng, mean = np.random.default_rng(0), score.predict(points)[0]
    for axis, name in enumerate(sweep.space.names):
        moved = np.repeat(points[None], SHUFFLES, 0)  # [shuffles, trials, dimensions]
        moved[..., axis] = [rng.permutation(points[:, axis]) for _ in range(SHUFFLES)]
        change = score.predict(moved.reshape(-1, points.shape[1]))[0].reshape(SHUFFLES, -1) - mean
        found["importance"][name] = float((change**2).mean() / (2 * mean.var() + 1e-12))
    found["explained"] = score.explained
    for trial, *values in zip(worked, predicted.tolist(), seconds.tolist(), strict=True):
        found["predicted"][trial["trial"]] = values
    return found


def collect(paths: list[str], page: Path, known: dict) -> dict[str, Any]:
    """All that the page shows. Raises ValueError, OSError."""
    title = " and ".join(paths) if len(paths) <= 3 else f"{len(paths)} folders"
    inside = {path: sorted(str(file.parent) for file in Path(path).glob("*/sweep.json")) for path in paths}
    paths = [one for path in paths for one in inside[path] or [path]]  # a folder of sweeps stands for them
    runs, sweeps = [], []
    records = ("config.json", "metrics.jsonl", "summary.json")
    folders = [path for path in paths if not any((Path(path) / name).exists() for name in records)]
    for text in paths:
        path = Path(text)
        require(path.is_dir(), f"there is no folder {path}")
        if (path / "sweep.json").exists():
            sweeps.append(read_sweep(path, page, known))
            continue
        if text not in folders:
            runs.append(read_run(path, page))
            continue
        found = sorted({file.parent for name in records for file in path.rglob(name)})
        require(found, f"{path} holds no run and no sweep")
        runs += (more := [read_run(folder, page) for folder in found])
        if len(paths) > 1:
            for run in more:
                run["settings"] |= {"folder": text}
    labels = [one["label"] for one in sweeps]
    for one in sweeps:  # two may have the same last name
        one["label"] = one["name"] if labels.count(one["label"]) > 1 else one["label"]
    return {
        "title": title,
        "made": time.time(),
        "going": any(one["going"] for one in (*runs, *sweeps)),
        "groups": group(runs),
        "metrics": sorted({name for run in runs for name in run["curves"]} - {*TIMES}, key=rank),
        "sweeps": sweeps,
    }


def rank(metric: str) -> tuple[bool, bool, str]:
    return metric != "score", "/" in metric, metric


def write(paths: list[str], page: Path, known: dict, every: float = 0) -> bool:
    """Writes the page, and says whether anything on it goes on: then it loads itself anew, if `every` so many
    seconds another is written."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise ValueError("reports need the [report] extra: pip install -e '.[report]'") from None
    data = collect(paths, page, known) | {"every": every}
    text = json.dumps(data, default=str, allow_nan=False).replace("<", "\\u003c")
    head, rest = Path(__file__).with_name("report_page.html").read_text().split("/* PLOTLY */")
    body, tail = rest.split('"DATA"')
    new = page.with_name(page.name + ".new")  # no half page is ever loaded
    new.write_text(head + get_plotlyjs() + body + text + tail)
    new.replace(page)
    return data["going"]


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise ValueError(message)


def main(argv: list[str]) -> int:
    parser = Parser(prog="report.py", description="Runs and sweeps as one HTML page.")
    parser.add_argument("paths", nargs="+", metavar="RUN_OR_SWEEP", help="folders; or one with runs in it")
    parser.add_argument("--out", metavar="FILE", help="the page; else report.html in the folder, or here")
    parser.add_argument("--watch", action="store_true", help="rewrite the page while any of them goes on")
    known: dict = {}
    try:
        args = parser.parse_args(argv)
        page = Path(args.out or (Path(args.paths[0]) if len(args.paths) == 1 else Path()) / "report.html")
        require(args.out is None or page.parent.is_dir(), f"--out: there is no folder {page.parent}")
        require(not page.is_dir(), f"--out: {page} is a folder, not a file")
        every = EVERY[0] if args.watch else 0
        going = write(args.paths, page, known, every)
        print(f"{page}{', rewritten while it goes on' * (args.watch and going)}", flush=True)
        try:
            while args.watch and going:
                time.sleep(every)
                began = time.monotonic()
                going = write(args.paths, page, known, every)
                every = min(max(EVERY[0], 20 * (time.monotonic() - began)), EVERY[1])
        except KeyboardInterrupt:
            write(args.paths, page, known)
            return 130
        return 0
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError) as error:
        print(f"report.py: error: {error}", file=sys.stderr)
        return 1 if isinstance(error, OSError) else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
