"""--track, with the real clients offline, and what becomes of bad ones; --profile; the dashboard's widths."""

import base64
import fcntl
import io
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_runs import ROOT, SMALL, metrics, read, run, start, wait_for

import cleanpuffer
import send
import settings
import trackers

KEY = "0123456789abcdef0123456789abcdef01234567"
ENV = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "NEPTUNE", "SWEEP"))}
TINY = ["--env", "bandit", *SMALL]


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard reads: of every metric, values by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    series = {name: found.Scalars(name) for name in found.Tags()["scalars"]}
    assert all(len({point.step for point in points}) == len(points) for points in series.values())
    return {name: {point.step: point.value for point in points} for name, points in series.items()}


def wandb_records(path: Path) -> list:
    """What the client would upload: records of protobuf in blocks of 32 kB, some in parts."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole, records = path.read_bytes(), 7, b"", []
    while at < len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole, at = whole + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # whole, or a last part
            records.append(Record.FromString(whole))
            whole = b""
    return records


def same_curve(points: dict[int, float], lines: list[dict], name: str = "score") -> bool:
    known = {line["step"]: line[name] for line in lines if line[name] is not None}
    return points == {step: pytest.approx(value, rel=1e-6) for step, value in known.items()}


def test_all_three_have_settings_metrics_and_weights(tmp_path):
    """Real clients, offline. No key of theirs lands in any file, and the output has a line of each."""
    # The first time, Python compiles the clients, which takes longer than a tracker has at a run's end.
    subprocess.run([sys.executable, "-c", "import neptune, tensorboard, wandb"], check=True)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)  # whose address is nobody's business
    subprocess.run(["git", "-C", tmp_path, "remote", "add", "origin", "https://example.org/x"], check=True)
    folder, modes = tmp_path / "run", {"WANDB_MODE": "offline", "NEPTUNE_MODE": "offline"}
    keys = {"WANDB_API_KEY": KEY, "NEPTUNE_API_TOKEN": KEY, "SWEEP_DIR": "/somewhere/my-sweep"}
    out, err = run(
        *TINY, "--total-timesteps", 9000, "--run-dir", folder, "--track", "wandb,tensorboard",
        "--track", "neptune", "--tag=first", "--tag=second", env=ENV | modes | keys,
    )  # fmt: skip
    lines, args = metrics(folder), read(folder, "config.json")["args"]
    assert not err and (args["track"], args["tag"]) == ("wandb,tensorboard,neptune", "first,second")
    said = [line.split(": ")[0] for line in out.splitlines()]
    assert sorted(name for name in said if name in send.TRACKERS) == sorted(send.TRACKERS)
    for file in folder.rglob("*"):
        assert file.is_dir() or KEY.encode() not in file.read_bytes(), file
    assert KEY not in out

    found = scalars(folder)
    assert same_curve(found["score"], lines) and same_curve(found["value_loss"], lines, "value_loss")

    records = wandb_records(next(folder.glob("wandb/offline-run-*/*.wandb")))
    history = [{x.key or x.nested_key[0]: json.loads(x.value_json) for x in r.history.item}
               for r in records if r.HasField("history")]  # fmt: skip
    assert same_curve({h["step"]: h["score"] for h in history if "score" in h}, lines)
    [entry] = [r.run for r in records if r.HasField("run")]
    config = {x.key: json.loads(x.value_json) for x in entry.config.update}
    assert config["learning_rate"] == 0.03 and config["env_config"] == args["env_config"]
    assert set(entry.tags) == {"first", "second", "my-sweep"} and entry.run_group == "my-sweep"
    assert [r.exit.exit_code for r in records if r.HasField("exit")] == [0]
    assert {f.path for r in records if r.HasField("files") for f in r.files.files} == {"model.pt"}
    assert not entry.HasField("git") and not any(r.environment.HasField("git") for r in records)

    text = next(folder.glob(".neptune/offline/*/data-1.log")).read_text()
    entries, decoder, at = [], json.JSONDecoder(), 0
    while at < len(text.rstrip()):
        item, at = decoder.raw_decode(text, at)
        entries.append(item["obj"])
        at += len(text[at:]) - len(text[at:].lstrip())
    points = {
        x["step"]: x["value"] for e in entries if e["path"] == ["metrics", "score"] for x in e["values"]
    }
    assert same_curve(points, lines)
    values = {"/".join(e["path"]): e.get("value", e.get("file_path", e.get("values"))) for e in entries}
    assert values["config/args/learning_rate"] == 0.03 and values["summary/status"] == "ok"
    assert set(values["sys/tags"]) == {"first", "second", "my-sweep"}
    assert values["model"] == str(folder / "model.pt")


def test_killed_and_interrupted_runs_go_on_as_the_same(tmp_path):
    """What a killed run has sent is not sent again when the run that goes on comes by there once more. Ctrl-C
    reaches the trackers' processes, too: they end after the run."""
    folder = tmp_path / "run"
    more = ["--run-dir", folder, "--total-timesteps", 10**9, "--checkpoint-interval", 10**6]
    first = start(*TINY, *more, "--track", "tensorboard", env=ENV)
    wait_for(lambda: [file for file in folder.glob("events*") if file.stat().st_size > 5000])
    first.kill()
    first.communicate()
    wait_for(lambda: read(folder, "sent-tensorboard.json")["step"] > 0)  # its tracker ends in good order
    sent, lines = read(folder, "sent-tensorboard.json"), metrics(folder)
    assert sent["step"] == lines[-1]["step"] and same_curve(scalars(folder)["score"], lines)

    again = start("--resume", folder, env=ENV, start_new_session=True)
    wait_for(lambda: len(list(folder.glob("events*"))) == 2 and metrics(folder)[-1]["step"] > sent["step"])
    os.killpg(again.pid, signal.SIGINT)
    out, err = again.communicate(timeout=60)
    assert again.returncode == 130 and not err and "tensorboard: tensorboard --logdir" in out
    after = [line for line in metrics(folder) if line["step"] > sent["step"]]
    assert metrics(folder)[0]["step"] < sent["step"] and after
    assert same_curve(scalars(folder)["score"], lines + after)
    assert read(folder, "sent-tensorboard.json") == {"id": sent["id"], "step": after[-1]["step"]}


def test_ctrl_c_at_the_very_start(tmp_path):
    """Reaches a tracker's process before that can ignore it."""
    more = ["--run-dir", tmp_path / "run", "--total-timesteps", 10**9, "--track", "tensorboard"]
    process = start(*TINY, *more, env=ENV, start_new_session=True)
    while not process.stdout.readline().startswith("settings: "):  # just before the tracker begins
        assert process.poll() is None
    time.sleep(0.03)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and not err and "tensorboard: tensorboard --logdir" in out


def test_trackers_of_one_run_take_turns(tmp_path):
    """The one of a run that was killed may still be closing when that goes on: nothing is sent twice. To send
    a run that is being sent is refused."""
    (tmp_path / "neptune").mkdir()
    (tmp_path / "neptune" / "__init__.py").write_text(
        "import os, time\n"
        "def send(step): print(step, flush=True, file=open(os.environ['SENT'], 'a'))\n"
        "class Field:\n"
        "    def __init__(self, name): self.name = name\n"
        "    def append(self, value, step, timestamp): self.name == 'metrics/step' and send(step)\n"
        "    def upload(self, path): pass\n"
        "class Run:\n"
        "    def __getitem__(self, name): return Field(name)\n"
        "    def __setitem__(self, name, value): pass\n"
        "    def get_url(self): return 'https://example.org'\n"
        "    def stop(self): time.sleep(5)\n"
        "def init_run(**_): return Run()\n"
    )
    (tmp_path / "neptune" / "utils.py").write_text("stringify_unsupported = dict")
    folder, sent = tmp_path / "run", tmp_path / "sent"
    env = ENV | {"PYTHONPATH": str(tmp_path), "SENT": str(sent)}
    more = ["--run-dir", folder, "--total-timesteps", 10**9, "--checkpoint-interval", 20]
    first = start(*TINY, *more, "--track", "neptune", env=env)
    wait_for(lambda: sent.exists() and len(sent.read_text().split()) > 3)
    command = [sys.executable, "send.py", folder, "neptune"]
    other = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert other.returncode == 1 and "another process is sending this run" in other.stderr
    first.kill()
    first.communicate()
    again = start("--resume", folder, env=env)
    before = len(sent.read_text().split())
    wait_for(lambda: len(sent.read_text().split()) > before + 3)
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=60)
    steps = sent.read_text().split()
    assert len(set(steps)) == len(steps) > before


def test_missing_and_raising_clients(tmp_path):
    """One line each, no credentials in it, and a run as without; it can be sent later."""
    (tmp_path / "wandb.py").write_text("raise ModuleNotFoundError(name='wandb')")
    (tmp_path / "neptune").mkdir()
    (tmp_path / "neptune" / "__init__.py").write_text(
        "import os, sys\nprint('chatter'); print('more', file=sys.stderr); os.write(1, b'noise')\n"
        "def init_run(**_): raise SystemExit(f'no\\nway to http://me:p@w@host with '\n"
        "                                    + os.environ['NEPTUNE_API_TOKEN'])\n"
    )
    (tmp_path / "neptune" / "utils.py").write_text("stringify_unsupported = dict")
    env = ENV | {"PYTHONPATH": str(tmp_path), "NEPTUNE_API_TOKEN": KEY}
    folder = tmp_path / "run"
    out, err = run(
        *TINY, "--total-timesteps", 2048, "--run-dir", folder, "--track=wandb,neptune", "--profile", env=env
    )
    first, second = sorted(err.splitlines())
    assert first.startswith("cleanpuffer.py: warning: --track neptune: SystemExit: no way to http://host ")
    assert "$NEPTUNE_API_TOKEN" in first and f"python send.py {folder} neptune" in first
    assert "--track wandb: wandb is not installed: pip install -e '.[wandb]'" in second
    assert not re.search("chatter|noise|more", out + err) and KEY not in out + err
    assert read(folder)["status"] == "ok" and "profile: nothing recorded, as the run has ended" in out
    command = [sys.executable, "send.py", folder]
    sent = subprocess.run([*command, "wandb"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert sent.returncode == 1 and sent.stderr.startswith("send.py: error: wandb: wandb is not installed")
    sent = subprocess.run([*command, "tensorboard"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert sent.returncode == 0 and not sent.stderr, sent.stderr
    assert same_curve(scalars(folder)["score"], metrics(folder))


def test_a_tracker_that_fails_leaves_no_process(tmp_path, capsys):
    """Also where it has said what is wrong before it has ended."""
    senders = trackers.Senders(SimpleNamespace(track="tensorboard", run_dir=str(tmp_path / "nowhere")))
    [process] = senders.processes.values()
    wait_for(lambda: senders.show() or not senders.processes)
    assert process.returncode is not None and "FileNotFoundError" in capsys.readouterr().err


def test_servers_that_never_answer(tmp_path):
    """Real clients, against one that accepts: the run is done and written long before they give up, which
    they do within the limit."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        token = json.dumps({"api_address": address, "api_url": address, "api_key": KEY}).encode()
        keys = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": address, "NEPTUNE_PROJECT": "a/b"}
        keys |= {"NEPTUNE_API_TOKEN": base64.b64encode(token).decode()}
        folder, began = tmp_path / "run", time.time()
        more = ["--run-dir", folder, "--total-timesteps", 4096, "--track", "wandb,neptune"]
        out, err = run(*TINY, *more, env=ENV | keys)
    assert time.time() - began < send.LIMIT + 10 and read(folder)["cost"] < send.LIMIT
    assert sorted(re.findall(r"warning: --track (\w+): no answer in", err)) == ["neptune", "wandb"], err
    assert err.count("\n") == 2 and "waiting for wandb, neptune, at most" in out


def test_records_of_long_runs_have_their_times(tmp_path):
    """Of a metrics.jsonl of 20 MB, the last line of which was written at second 10,000."""
    lines = [{"step": i, "seconds": 0.5 * i, "long": "x" * 500_000} for i in range(40)]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.utime(path, (10_000, 10_000))
    times, over = [], threading.Event()
    over.set()
    tracker = SimpleNamespace(log=lambda record, when: times.append(when), close=lambda *_: None)
    nothing = {"save": lambda: None, "model": lambda: None}
    send.send(SimpleNamespace(folder=tmp_path, sent={"step": -1}, **nothing), tracker, over)
    assert times == pytest.approx([9980.5 + 0.5 * i for i in range(40)], rel=0, abs=1e-6)


def test_lines_come_sooner_at_first(monkeypatch):
    """What is learned in half a second has a score of its own; an interval of minutes stays one."""
    clock = [0.0]
    monkeypatch.setattr(cleanpuffer, "time", SimpleNamespace(time=lambda: clock[0], process_time=lambda: 0.0))
    monkeypatch.setattr(trackers, "metrics_record", lambda *_: clock[0])

    class Trainer(SimpleNamespace):
        def update(self):
            clock[0] += 0.0625
            self.steps += 1

    for interval, wanted in ((0.5, 17), (100.0, 1), (0.0625, 80)):
        clock[0], lines = 0.0, []
        args = SimpleNamespace(
            log_interval=interval, stop_score=None, total_timesteps=80, checkpoint_interval=1
        )
        trainer = Trainer(args=args, steps=0, updates=0, collect=lambda: None, log=lambda: {"n": 0})
        run = SimpleNamespace(
            trainer=trainer,
            scores=trackers.Scores(),
            trace=SimpleNamespace(update=lambda: None),
            cost=lambda: clock[0],
            log=lines.append,
            checkpoint=lambda: None,
        )
        assert cleanpuffer.train_loop(run, (), threading.Event()) == "ok"
        assert lines[-1] == 5.0 and len(lines) == wanted, lines
        gaps = [b - a for a, b in zip([0.0, *lines], lines, strict=False)]
        assert gaps[0] <= max(interval / 4, 0.0625) or interval > 5
        assert all(gap <= interval for gap in gaps) and sorted(gaps[:-1]) == gaps[:-1]


def test_names_of_trackers(tmp_path):
    """By commas or given again; the command line's replace a file's, None is none of them."""

    def track(*words: str) -> str | None:
        return settings.parse_arguments([*words], cleanpuffer.Args).track

    assert track("--track", "wandb,neptune", "--track=wandb") == "wandb,neptune"
    config = tmp_path / "config.json"  # of somebody else's run
    config.write_text('{"args": {"seed": 3, "track": "wandb", "tag": "theirs"}}')
    assert track("--config", str(config)) is None
    config.write_text('{"seed": 3, "track": "wandb"}')  # one's own
    assert track("--config", str(config)) == "wandb"
    assert track() is track("--track", "None") is track("--track", "") is None
    with pytest.raises(trackers.UsageError, match="--track: wanbd is none of neptune, wandb, tensorboard"):
        track("--track", "wandb,wanbd")


def test_a_sweep_marks_its_trials(tmp_path):
    """By its folder's name. Programs that know nothing of it get no argument that was not given."""
    command = [
        sys.executable,
        "sweep.py",
        "--env",
        "bandit",
        "--total-timesteps",
        "2048",
        "--max-trials",
        "1",
    ]
    command += ["--sweep-dir", tmp_path / "mine", "--track", "tensorboard", "--tag", "own"]
    done = subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    page, promote = done.stdout.splitlines()[-2:]
    assert page.endswith(f"python report.py {tmp_path / 'mine'}") and "--promote" in promote
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(tmp_path / "mine" / "trials" / "0001" / "run"))
    found.Reload()
    assert b"own,mine" in found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content


def test_profile(tmp_path):
    """Ten updates: phases of two threads, which fill them; torch's operations within phases of the last."""
    folder = tmp_path / "run"
    more = ["--groups", 4, "--num-threads", 2, "--total-timesteps", 9000, "--run-dir", folder, "--profile"]
    out, _ = run("--env", "pong", *SMALL, *more)
    assert f"profile: {folder}/profile.json, updates 6 to 15; open it in https://ui.perfetto.dev\n" in out
    events = json.loads((folder / "profile.json").read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert all(span["dur"] >= 0 and {"name", "pid", "tid", "ts"} <= span.keys() for span in spans)
    updates = [span for span in spans if re.fullmatch(r"update \d+", span["name"])]
    assert [span["name"] for span in updates] == [f"update {i}" for i in range(6, 16)]
    phases = [span for span in spans if span["name"] in trackers.Profile.PHASES]
    assert {span["name"] for span in phases} >= {"rollout forward", "rollout environment", "update backward"}
    named = {event["tid"] for event in events if event["name"] == "thread_name"}
    assert (
        len({span["tid"] for span in phases}) == 2
        and {span["tid"] for span in spans if span in phases} <= named
    )

    def within(span: dict, outer: dict) -> bool:
        slack = 200  # microseconds between two clocks
        ends = span["ts"] + span["dur"], outer["ts"] + outer["dur"]
        return outer["ts"] - slack <= span["ts"] and ends[0] <= ends[1] + slack

    assert all(any(within(span, update) for update in updates) for span in phases)
    main = [span["dur"] for span in phases if span["tid"] == updates[0]["tid"]]
    assert 0.5 < sum(main) / sum(update["dur"] for update in updates) <= 1
    drawn = [span for span in spans if span["name"] == "aten::multinomial"]
    assert drawn and all(any(within(span, update) for update in updates[8:]) for span in drawn)
    other = [span for span in phases if span["name"] == "update other"]
    assert all(any(within(span, phase) for phase in other) for span in drawn)


def test_a_profile_of_a_run_that_diverges(tmp_path):
    """While torch records: what there is gets written, and the exit code says that it has diverged."""
    script, folder = tmp_path / "diverges.py", tmp_path / "run"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nimport cleanpuffer, trackers\n"
        "class Trainer(cleanpuffer.Trainer):\n"
        "    def update(self):\n"
        "        super().update()\n"
        "        if self.updates == 14: raise trackers.Diverged\n"
        "sys.exit(cleanpuffer.main(sys.argv[1:], cleanpuffer.Args, Trainer))\n"
    )
    command = [sys.executable, script, *TINY, "--run-dir", folder, "--profile"]
    done = subprocess.run(list(map(str, command)), env=ENV, capture_output=True, text=True)
    assert done.returncode == 3 and read(folder)["status"] == "diverged", done.stderr
    assert "profile.json, updates 6 to 13;" in done.stdout
    assert json.loads((folder / "profile.json").read_text())["traceEvents"]


def plain(screen: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen)


def test_dashboard_in_a_terminal_of_80_columns(tmp_path):
    """No line is longer, the table is not torn; at the end stand what to look at and the commands for it."""
    folder, (master, slave) = tmp_path / "run", pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "cleanpuffer.py", "--total-timesteps", "30000", "--run-dir", folder, *SMALL]
    env = {k: v for k, v in ENV.items() if k not in ("COLUMNS", "LINES")} | {"TERM": "xterm-256color"}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    screen = b""
    while True:
        try:
            screen += os.read(master, 65536)
        except OSError:  # closed at the other end
            break
    assert process.wait() == 0
    lines = plain(screen.decode()).replace("\r", "\n").split("\n")
    assert max(len(line) for line in lines if str(folder) not in line) <= 80
    rows = [line for line in lines if line[:1] in "╭│╰" and line]
    assert (
        len(rows) > 30 and all(len(row) == 80 and row[-1] in "╮│╯" for row in rows) and "…" not in str(rows)
    )
    ended = [line for line in lines if line][-3:]
    assert [line.split(":")[0] for line in ended] == ["ok", "watch it", "curves"]


@pytest.mark.parametrize("columns", [72, 80, 88, 200])
def test_dashboard_is_not_torn(columns):
    """Of long names, small and large numbers, and no score."""
    from rich.console import Console

    record = dict.fromkeys(trackers.LOSSES, -0.0012345) | {"score": None, "episodes": 12_345, "perf": 0.98765}
    record |= {"episode_return": -12.3456, "episode_length": 4999.9, "env/paddle_hits": 1e-5, "step": 10**10}
    record |= {"update": 123_456, "sps": 1.2345e8, "seconds": 1e5, "time_left": 1e6, "cpu_percent": 1600.0}
    record |= {"memory_mb": 123_456.0, "learning_rate_now": 0.012345, "gpu_memory_mb": 70_000.0}
    record |= {f"profile/{name.replace(' ', '_')}": 0.11 for name in trackers.Profile.PHASES}
    args = SimpleNamespace(
        env="gym:LunarLander-v3", run_dir="/long" * 30, stop_score=200.0, total_timesteps=10**10
    )
    out = io.StringIO()
    width = min(88, columns)
    Console(file=out, width=columns, force_terminal=True, color_system="256").print(
        trackers.dashboard(args, record, [None, -1.0, 3.0], width)
    )
    rows = plain(out.getvalue()).splitlines()
    assert all(len(row) == width and row[0] in "╭│╰" and row[-1] in "╮│╯" for row in rows), "\n".join(rows)
    assert "…" not in "".join(rows[:-1]), "\n".join(rows)
    assert len(rows) <= 24


def test_the_colours_can_be_read_on_black_and_on_white():
    from rich.color import Color

    def light(name: str) -> float:  # relative luminance, WCAG 2.1
        triplet = Color.parse(name).get_truecolor()
        parts = [x / 255 for x in triplet]
        r, g, b = (x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    for name in (trackers.BLUE, trackers.GREEN, trackers.ORANGE):
        assert min(1.05 / (light(name) + 0.05), (light(name) + 0.05) / 0.05) > 2.9, name
