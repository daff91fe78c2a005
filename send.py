"""Sends a run to a tracker: its settings and metrics, at the end its summary and weights.

    python send.py RUN wandb        a run that is over, or was begun without --track

`--track wandb` starts this beside the trainer. It is a process of its own, which follows the files of the
run's folder: a client that is slow, hangs, prints or dies is none of the run's business, and needs no queue,
as metrics.jsonl is one. docs/tracking.md says what the clients read from the environment. A tracker is made
from the run, gets every record of metrics.jsonl with its time, and is closed at the end.
"""

import fcntl
import json
import os
import re
import select
import shlex
import signal
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

LIMIT = 10.0  # seconds for what is left to send once a run is over
PATIENCE = 120.0  # seconds in which a client must begin
EVERY = 0.5  # seconds between looks at metrics.jsonl
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # are for the trainer, which then says that it ends
SECRETS = ("KEY", "TOKEN", "SECRET", "PASSWORD")  # in names of environment variables that nobody may see


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def flat(settings: dict[str, Any], separator: str, prefix: str = "") -> dict[str, Any]:
    """Settings of settings, such as env_config, under joined names; what is None is left out."""
    found = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found |= flat(value, separator, f"{prefix}{name}{separator}")
        elif value is not None:
            found[prefix + name] = value
    return found


class Source:
    """A run as a tracker has it."""

    def __init__(self, folder: Path, tracker: str, wait: bool):
        self.folder = folder
        self.config = json.loads((folder / "config.json").read_text())
        self.args = self.config["args"]
        self.state = os.open(folder / f"sent-{tracker}.json", os.O_RDWR | os.O_CREAT, 0o644)
        try:  # one at a time: the tracker of a run that was lost may not be done when that goes on
            fcntl.flock(self.state, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise RuntimeError("another process is sending this run there") from None
        # Under this id a resumed run goes on as the same one. `step`: up to there all has been sent.
        saved = json.loads(os.pread(self.state, 1000, 0) or "{}")
        self.sent = {"id": uuid.uuid4().hex[:12], "step": -1} | saved
        self.name = os.path.relpath(folder)
        sweep = os.environ.get("SWEEP_DIR")  # where sweep.py has started the run
        self.group = Path(sweep).name if sweep else None
        tags = [*(self.args.get("tag") or "").split(","), self.group]
        self.tags = list(dict.fromkeys(tag for tag in tags if tag))
        self.save()

    def save(self) -> None:
        text = f"{json.dumps(self.sent)}\n".encode()
        os.pwrite(self.state, text, 0)  # over the old one, as the lock is of this very file
        os.ftruncate(self.state, len(text))

    def model(self) -> Path | None:
        return model if (model := self.folder / "model.pt").exists() else None


class Neptune:
    def __init__(self, source: Source):
        import neptune
        from neptune.utils import stringify_unsupported

        # Offline data lands in the current folder, which is the run's. Only what is listed here is sent.
        nothing = dict.fromkeys(("capture_stdout", "capture_stderr", "capture_hardware_metrics"), False)
        self.run = neptune.init_run(
            custom_run_id=source.sent["id"], name=source.name, tags=source.tags, source_files=[],
            git_ref=False, capture_traceback=False, **nothing,
        )  # fmt: skip
        if source.group:
            self.run["sys/group_tags"].add([source.group])
        self.run["config"] = stringify_unsupported(flat(source.config, "/"))
        offline = os.environ.get("NEPTUNE_MODE") == "offline"
        later = f"offline; neptune sync --path {shlex.quote(source.name)} sends it"
        self.where = later if offline else self.run.get_url()

    def log(self, record: dict[str, float], when: float) -> None:
        for name, value in record.items():
            self.run[f"metrics/{name}"].append(value, step=record["step"], timestamp=when)

    def close(self, summary: dict[str, Any], model: Path | None) -> None:
        self.run["summary"] = flat(summary, "/")
        if model:
            self.run["model"].upload(str(model))
        self.run.stop()


class Wandb:
    def __init__(self, source: Source):
        import wandb

        # No packages, no commit or address of the repository that the folder happens to lie in, no code.
        nothing = {"console": "off", "disable_git": True, "save_code": False, "x_save_requirements": False}
        settings = wandb.Settings(silent=True, x_stats_pid=os.getppid(), **nothing)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "cleanpuffer"), id=source.sent["id"], resume="allow",
            name=source.name[-100:], group=source.group, tags=source.tags, dir=source.folder,
            config=source.args | {name: source.config[name] for name in ("versions", "machine")},
            settings=settings,
        )  # fmt: skip
        later = f"offline; wandb sync {shlex.quote(source.name)}/wandb/offline-run-* sends it"
        self.where = later if self.run.settings._offline else (self.run.url or "").partition("?")[0]

    def log(self, record: dict[str, float], when: float) -> None:
        self.run.log(record, step=record["step"])

    def close(self, summary: dict[str, Any], model: Path | None) -> None:
        self.run.summary.update(summary)
        if model:
            self.run.save(str(model), base_path=str(model.parent), policy="now")
        self.run.finish(exit_code=0 if summary.get("status") == "ok" else 1)


class TensorBoard:
    """Its files lie in the run's folder, beside the weights."""

    def __init__(self, source: Source):
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.event, self.summary = Event, Summary
        self.writer = EventFileWriter(str(source.folder), flush_secs=2)
        settings = flat(source.args, ".") | {"tags": ",".join(source.tags)}
        self.writer.add_event(Event(summary=hparams_pb(settings), wall_time=time.time()))
        self.where = f"tensorboard --logdir {shlex.quote(os.path.dirname(source.name) or '.')}"

    def log(self, record: dict[str, float], when: float) -> None:
        summary = self.summary(value=[{"tag": name, "simple_value": x} for name, x in record.items()])
        self.writer.add_event(self.event(summary=summary, step=record["step"], wall_time=when))

    def close(self, summary: dict[str, Any], model: Path | None) -> None:
        self.writer.close()


TRACKERS = {"neptune": Neptune, "wandb": Wandb, "tensorboard": TensorBoard}


def send(source: Source, tracker: Any, over: threading.Event) -> None:
    """Sends the records that metrics.jsonl has and, until `over`, gets; then the end."""
    path, last = source.folder / "metrics.jsonl", source.sent["step"]
    with open(path, "rb") as file:
        while True:
            done, at = over.is_set(), file.tell()
            *lines, _ = file.read().split(b"\n")
            file.seek(at + sum(len(line) + 1 for line in lines))
            newest = json.loads(lines[-1])["seconds"] if lines else 0  # which was written just now
            began = path.stat().st_mtime - newest
            for record in map(json.loads, lines):
                # A resumed run goes through some steps again: from its checkpoint to where it was lost.
                if record["step"] > last:
                    numbers = {k: v for k, v in record.items() if isinstance(v, int | float)}
                    tracker.log(numbers, began + record["seconds"])
                    last = record["step"]
            if done and not lines:
                break
            if not lines:
                over.wait(EVERY)
    tracker.close(read(source.folder / "summary.json") or {"status": "lost"}, source.model())
    source.sent["step"] = last
    source.save()


def public(text: str) -> str:
    """Without whatever is secret."""
    text = re.sub(r"//[^/\s]+@", "//", text)
    for name, value in os.environ.items():
        if len(value) > 3 and any(word in name.upper() for word in SECRETS):
            text = text.replace(value, f"${name}")
    return text


def line(error: BaseException) -> str:
    """What an error says, in a line without colours, boxes and whatever is secret."""
    text = re.sub(r"\x1b\[[0-9;]*m|[-=]{4,}", "", public(str(error)))
    return f"{type(error).__name__}: {' '.join(text.split())[:160]}"


def follow(over: threading.Event, made: threading.Event, err: Any) -> None:
    """Waits until the trainer says that the run is over, or is gone; then leaves the rest LIMIT seconds. One
    that could not begin in twice that time, however long the run took, gets a second."""
    parent, began = os.getppid(), time.monotonic()
    while os.getppid() == parent and not select.select([sys.stdin], [], [], EVERY)[0]:
        if time.monotonic() - began > PATIENCE and not made.is_set():
            break
    over.set()
    end = time.monotonic() + LIMIT
    if not made.wait(min(LIMIT, max(1, began + 2 * LIMIT - time.monotonic()))):
        print(f"no answer in {time.monotonic() - began:.0f} s", file=err)
        os._exit(1)
    time.sleep(max(0, end - time.monotonic()))
    print(f"not done {LIMIT:.0f} s after the end of the run", file=err)
    os._exit(1)


def main(folder: str, name: str, live: bool) -> int:
    out, err = os.fdopen(os.dup(1), "w", 1), os.fdopen(os.dup(2), "w", 1)
    for stream in (1, 2):  # what the clients print
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    over, made = threading.Event(), threading.Event()
    if live:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.nice(5)  # not more: on a busy machine it could not even begin before a short run is over
        threading.Thread(target=follow, args=(over, made, err), daemon=True).start()
    else:
        over.set()
    try:
        source = Source(Path(folder).resolve(), name, wait=live)
        os.chdir(source.folder)
        tracker = TRACKERS[name](source)
        made.set()
        print(f"{name}: {public(tracker.where)}", file=out)
        send(source, tracker, over)
        return 0
    except ModuleNotFoundError as error:
        problem = f"{error.name} is not installed: pip install -e '.[{name}]'"
    except BaseException as error:  # whatever a client raises
        problem = line(error)
    print(problem if live else f"send.py: error: {name}: {problem}", file=err)
    return 1


if __name__ == "__main__":
    run, name, *live = [*sys.argv[1:], "", ""][: max(2, len(sys.argv) - 1)]
    if name not in TRACKERS or live not in ([], ["--live"]):
        sys.exit(f"usage: python send.py RUN {'|'.join(TRACKERS)}")
    sys.exit(main(run, name, bool(live)))
