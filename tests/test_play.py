"""Watching and playing by hand: keys, the cursor on a board, the terminal (a pty), the window (Xvfb)."""

import codecs
import contextlib
import fcntl
import math
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium.spaces import Box, MultiDiscrete
from PIL import Image, ImageGrab
from test_runs import NO_DISPLAY, ROOT, SMALL, fails, run

import envs
from envs import render, screens
from settings import read_settings

WHITE, BLACK = (255, 255, 255), (0, 0, 0)


class Emulator:
    """What a terminal shows: `cells` [lines][columns] of character, its colour, its background."""

    CODE = re.compile(r"\x1b\[(\??)([\d;]*)([A-Za-z])|(.)", re.DOTALL)

    def __init__(self, columns: int, lines: int):
        self.columns, self.lines, self.unread = columns, lines, ""
        self.row = self.column = 0
        self.colors = [WHITE, BLACK]
        self.modes: dict[str, bool] = {}
        self.clear()

    def clear(self) -> None:
        self.cells = [[(" ", WHITE, BLACK)] * self.columns for _ in range(self.lines)]

    def feed(self, text: str) -> None:
        text = self.unread + text
        end = text.rfind("\x1b")
        whole = end < 0 or re.match(r"\x1b\[\??[\d;]*[A-Za-z]", text[end:])
        text, self.unread = (text, "") if whole else (text[:end], text[end:])
        for private, values, code, character in self.CODE.findall(text):
            numbers = [int(value or 0) for value in values.split(";")]
            if character == "\n":
                self.row, self.column = self.row + 1, 0
            elif character == "\r":
                self.column = 0
            elif character and self.row < self.lines and self.column < self.columns:
                self.cells[self.row][self.column] = (character, *self.colors)
                self.column += 1
            elif private:
                self.modes[values] = code == "h"
            elif code == "H":
                self.row, self.column = max(numbers[0], 1) - 1, 0
            elif code == "J":
                self.clear()
            elif code == "K":
                rest = self.columns - self.column
                self.cells[self.row][self.column :] = [(" ", *self.colors)] * rest
            elif code == "m":
                self.set_colors(numbers)

    def set_colors(self, numbers: list[int]) -> None:
        while numbers:
            first = numbers.pop(0)
            if first == 0:
                self.colors = [WHITE, BLACK]
                continue
            assert first in (38, 48)
            if numbers.pop(0) == 2:
                color = tuple(numbers.pop(0) for _ in range(3))
            else:
                color = xterm_color(numbers.pop(0))
            self.colors[first == 48] = color

    def frame(self) -> np.ndarray:
        """The pixels of all lines but the last."""
        frame = np.zeros((2 * self.lines - 2, self.columns, 3), np.uint8)
        for i, line in enumerate(self.cells[:-1]):
            assert {character for character, _, _ in line} <= {" ", "▀"}
            frame[2 * i] = [color if character == "▀" else back for character, color, back in line]
            frame[2 * i + 1] = [back for _, _, back in line]
        return frame

    def caption(self) -> str:
        return "".join(character for character, _, _ in self.cells[-1]).rstrip()


def xterm_color(number: int) -> tuple[int, int, int]:
    if number >= 232:
        return (8 + 10 * (number - 232),) * 3
    levels, number = (0, 95, 135, 175, 215, 255), number - 16
    return levels[number // 36], levels[number // 6 % 6], levels[number % 6]


class Session:
    """A process in a terminal of its own."""

    def __init__(self, *arguments: object, columns: int = 80, lines: int = 24, **environment: str):
        self.screen = Emulator(columns, lines)
        self.decode = codecs.getincrementaldecoder("utf-8")().decode
        self.output = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            variables = NO_DISPLAY | {"TERM": "xterm-256color", "COLORTERM": "truecolor"} | environment
            for name in ("COLUMNS", "LINES"):
                variables.pop(name, None)
            os.chdir(ROOT)
            os.execvpe(sys.executable, [sys.executable, *map(str, arguments)], variables)
        self.resize(columns, lines)
        self.modes = termios.tcgetattr(self.fd)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self, seconds: float) -> bool:
        """Takes in output; False once there is no more."""
        if not select.select([self.fd], [], [], seconds)[0]:
            return True
        try:
            text = self.decode(os.read(self.fd, 65536))
        except OSError:  # how a pty says that its other side has closed
            return False
        self.output += text
        self.screen.feed(text)
        return bool(text)

    def until(self, condition, seconds: float = 60) -> None:
        end = time.time() + seconds
        while not condition():
            assert time.time() < end and self.read(0.05), (self.screen.caption(), self.output[-500:])

    def type(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def end(self) -> int:
        """The exit code; checks that the terminal is as it was."""
        end = time.time() + 60
        while self.read(1):
            assert time.time() < end, self.screen.caption()
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        assert self.screen.modes == {"1049": False, "25": True, "7": True, "2026": False}
        assert termios.tcgetattr(self.fd) == self.modes
        os.close(self.fd)
        return code

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "memory"
    run(
        "--env", "memory", "--run-dir", folder, "--total-timesteps", 2000, "--env-config.length", 6, *SMALL
    )  # fmt: skip
    return folder


# Keys, colours, the cursor


@pytest.mark.parametrize(
    "typed, keys, unread",
    [
        ("\x1b[A\x1b[B\x1b[C\x1b[D", ["up", "down", "right", "left"], ""),
        ("\x1bOA\x1bOD\x1b[1;5C", ["up", "left", "right"], ""),
        ("wW \r\n1", ["w", "w", "space", "enter", "enter", "1"], ""),
        ("a\x1b", ["a"], "\x1b"),
        ("a\x1b[1;", ["a"], "\x1b[1;"),
        ("\x1b\x1b[A", ["escape", "up"], ""),
        ("\x1b[3~\x1b[15~\x1bOP\x7f\tz", ["z"], ""),
    ],
)
def test_keys_of_a_terminal(typed, keys, unread):
    assert screens.parse_keys(typed) == (keys, unread)


@pytest.mark.parametrize("true_color", [True, False])
def test_half_blocks_show_the_frame(true_color):
    env = envs.make("pong", 1)
    env.reset(seed=1)
    frame = env.render(0, 80, 46)
    emulator = Emulator(80, 24)
    lines = [screens.half_blocks(frame[i], frame[i + 1], true_color) for i in range(0, 46, 2)]
    emulator.feed("\n".join(lines) + "\ncaption")
    error = np.abs(emulator.frame().astype(int) - frame)
    assert error.max() <= (0 if true_color else 47)  # half the largest step of the 256 colours
    assert emulator.caption() == "caption"


def test_256_colors_are_the_nearest():
    for color in np.random.default_rng(0).integers(0, 256, (200, 3)).tolist():
        distance = {
            n: sum((x - y) ** 2 for x, y in zip(xterm_color(n), color, strict=True)) for n in range(16, 256)
        }
        number = int(screens.color_code(tuple(color), False).split(";")[1])
        assert distance[number] == min(distance.values())


BOARD = {"rows": 3, "columns": 5, "view": (120, 90), "origin": (20, 25), "pitch": 20}


def test_cursor_moves_and_plays():
    board = render.Board(**BOARD)
    assert board.press("enter") == 1 * 5 + 2
    assert [board.press(key) for key in ("right", "right", "down")] == [None] * 3
    assert board.press("space") == 2 * 5 + 4
    assert [board.press(key) for key in ("right", "down")] == [None] * 2
    assert board.press("enter") == 0  # over the edges


@pytest.mark.parametrize("width, height", [(120, 90), (800, 600), (300, 600), (80, 46)])
def test_clicks_and_cursor_are_where_the_cells_are_drawn(width, height):
    board, scale = render.Board(**BOARD), min(width / 120, height / 90)
    left, top = (width - 120 * scale) / 2, (height - 90 * scale) / 2
    for action in range(15):
        x = left + (20 + action % 5 * 20) * scale
        y = top + (25 + action // 5 * 20) * scale
        for away in (-9 * scale, 0, 9 * scale):
            frame = np.zeros((height, width, 3), np.uint8)
            assert board.click((x + away, y - away), frame) == action == board.press("enter")
        board.draw_cursor(frame)
        rows, columns = np.nonzero(frame.any(2))
        assert abs(rows.min() - (y - 10 * scale)) <= 1 and abs(rows.max() + 1 - (y + 10 * scale)) <= 1
        assert abs(columns.min() - (x - 10 * scale)) <= 1 and abs(columns.max() + 1 - (x + 10 * scale)) <= 1
        assert not frame[int(y), int(x)].any()  # a stone stays to be seen
    assert board.click((left + 5 * scale, top + 25 * scale), frame) is None
    assert board.click((x, y + 12 * scale), frame) is None


# What an environment's file says


@pytest.mark.parametrize("name", [name for name in envs.names() if hasattr(envs.spec(name), "keys")])
def test_keys_of_environments(name):
    spec, env = envs.spec(name), envs.make(name, 1)
    keys, space = spec.keys(env.config), env.single_action_space
    known = re.compile(r"up|down|left|right|space|enter|[!-~]")
    assert keys or hasattr(spec, "board")
    assert all(known.fullmatch(key) and key == key.lower() for key in keys)
    for action in [*keys.values(), *([] if getattr(spec, "idle", None) is None else [spec.idle])]:
        assert space.contains(np.broadcast_to(np.asarray(action, space.dtype), space.shape)), action
    if hasattr(spec, "board"):
        board = render.Board(**spec.board(env.config))
        assert spec.idle is None and not set(keys) & set(board.KEYS)
        assert space.contains(np.int64(board.rows * board.columns - 1))


def test_speed():
    """A person plays pong at 60 steps of one frame, and an episode is as long in frames."""
    pong, squared = envs.spec("pong"), envs.spec("squared")
    config = envs.resolve("pong")[0]
    assert render.speed(pong, config) == 15 and render.speed(pong, config | {"frameskip": 4}) == 30
    mine, fps = render.by_hand(pong, config)
    assert (mine["frameskip"], mine["max_steps"], fps) == (1, 40_000, 60)
    assert render.by_hand(squared, {"size": 5}) == ({"size": 5}, squared.fps)


def test_clock_keeps_its_rate_and_does_not_hurry_after_a_wait(monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    clock = render.Clock(10)
    assert clock.next() == pytest.approx(0.1)
    now = 100.13  # the step was late by 0.03
    assert clock.next() == pytest.approx(0.07)
    now = 105.0
    assert clock.next() == 0
    assert clock.next() == pytest.approx(0.1)


@pytest.mark.parametrize("fps, frames", [(15, 40), (40, 40), (120, 14)])
def test_a_gif_plays_at_the_speed_of_the_game(fps, frames, tmp_path, monkeypatch):
    """40 steps take 40 / fps seconds; what browsers would slow down is left out."""
    monkeypatch.setattr(render, "play", lambda env, policy, seed: render.play_at_random(env, seed))
    monkeypatch.setattr(render, "FILM_SECONDS", 40 / fps)
    env, path = envs.make("pong", 1), tmp_path / "film.gif"
    assert render.write_film(str(path), env, None, 0, 1, fps) == frames
    with Image.open(path) as film:
        times = []
        for i in range(film.n_frames):
            film.seek(i)
            times.append(film.info["duration"])
    assert min(times) >= 20 and sum(times) == pytest.approx(1000 * frames * math.ceil(fps / 50) / fps, abs=5)


# A person among agents


class Screen:
    """A screen on which each wait finds the next of some keys; then the person leaves."""

    note = ""

    def __init__(self, *script: list[str] | tuple, held: str | None = None):
        self.script, self.captions, self.key = list(script), [], held

    def size(self) -> tuple[int, int]:
        return 120, 90

    def show(self, frame: np.ndarray, caption: str) -> None:
        self.captions.append(caption)

    def wait(self, seconds: float, until_key: bool = False) -> None:
        if not self.script:
            raise KeyboardInterrupt

    def take(self) -> tuple[list[str], tuple | None]:
        now = self.script.pop(0)
        return ([], now) if isinstance(now, tuple) else (now, None)

    def held(self) -> str | None:
        return self.key


class Team:
    """Three agents; the first ends an episode at every third step, the second one step before."""

    name, num_envs, agents, config = "team", 3, 3, {}

    def __init__(self, action_space):
        self.action_space, self.actions, self.logs = action_space, [], []

    def reset(self, seed: int):
        return np.zeros((3, 1)), {}

    def step(self, actions: np.ndarray):
        self.actions.append(actions.tolist())
        first, second = len(self.actions) % 3 == 0, len(self.actions) % 3 == 2
        self.logs += [7.0] * first + [1.0] * second
        done = np.array([first, second, False])
        return np.zeros((3, 1)), np.zeros(3), done, np.zeros(3, bool), {}

    def log(self, start: int, end: int) -> dict[str, float]:
        logs, self.logs = self.logs, []
        return {"score": float(np.mean(logs)), "n": float(len(logs))} if logs else {"n": 0.0}

    def render(self, copy: int, width: int, height: int) -> np.ndarray:
        return np.zeros((height, width, 3), np.uint8)


def by_hand(monkeypatch, screen: Screen, spec: dict, action_space=None, policy=None) -> tuple[list, Team]:
    monkeypatch.setattr(envs, "spec", lambda name: SimpleNamespace(**spec))
    team = Team(action_space or MultiDiscrete([50] * 3))
    return render.play_by_hand(screen, team, policy, 0, None, 1000), team


REAL_TIME = {"keys": lambda config: {"up": 1, "w": 1, "down": 2}, "idle": 0}


def test_a_game_that_goes_on(monkeypatch):
    """Keys pressed between two steps count one after the other, a repeated one once; then it idles."""
    screen = Screen(["up", "up", "down"], [], [], ["w"])  # the last while the end of an episode stands
    scores, team = by_hand(monkeypatch, screen, REAL_TIME)
    assert [actions[0] for actions in team.actions] == [1, 2, 0]
    assert scores == [7.0] and "episode 1: score 7" in screen.captions[-1]
    assert screen.captions[0].startswith("keys: up/w, down, Esc ends")


def test_a_key_held(monkeypatch):
    _, team = by_hand(monkeypatch, Screen([], [], held="down"), REAL_TIME)
    assert [actions[0] for actions in team.actions] == [2, 2]


def test_a_game_that_waits(monkeypatch):
    spec = {"keys": lambda config: {"p": 15}, "idle": None, "board": lambda config: BOARD}
    screen = Screen([], ["right", "enter"], [], (20.0, 25.0), (1.0, 1.0), ["p"])
    scores, team = by_hand(monkeypatch, screen, spec)
    assert [actions[0] for actions in team.actions] == [8, 0, 15]
    assert scores == [7.0]


def test_the_others_play_at_random_or_by_the_policy(monkeypatch):
    script = [["down"]] * 40
    _, team = by_hand(monkeypatch, Screen(*script), REAL_TIME)
    actions = np.array(team.actions)
    assert (actions[:, 0] == 2).all() and all(len(set(row)) > 5 for row in actions[:, 1:].T.tolist())

    def play(env, policy, seed):
        while True:
            _, _, terminals, truncations, _ = env.step(policy)
            yield terminals | truncations

    monkeypatch.setattr(render, "play", play)
    policy = np.array([7, 8, 9])
    _, team = by_hand(monkeypatch, Screen(*script), REAL_TIME, policy=policy)
    assert team.actions[:3] == [[2, 8, 9]] * 3 and policy[0] == 7


def test_continuous_actions(monkeypatch):
    spec = {"keys": lambda config: {"up": 0.5}, "idle": 0.0}
    space = Box(-1, 1, (3, 2), np.float32)
    _, team = by_hand(monkeypatch, Screen(["up"], []), spec, space)
    assert [actions[0] for actions in team.actions] == [[0.5, 0.5], [0, 0]]


# In a terminal


def squared_frames(*actions: int, width: int = 80, height: int = 46):
    """The first episode of squared after each action, as it is drawn."""
    env = envs.make("squared", 1, seed=1)
    env.reset(seed=1)
    yield env.render(0, width, height)
    for action in actions:
        env.step(np.array([action]))
        yield env.render(0, width, height)


@pytest.mark.parametrize("end", ["\x1b", "q", "\x03", signal.SIGTERM])
def test_play_in_a_terminal(end):
    with Session("cleanpuffer.py", "--env", "squared", "--play") as session:
        for key, frame in zip(["\x1b[A", "\x1bOC", "d", ""], squared_frames(1, 4, 4), strict=True):
            session.until(lambda frame=frame: np.array_equal(session.screen.frame(), frame))
            session.type(key)
        assert session.screen.caption().startswith("keys: up/w, down/s, left/a, right/d, space, Esc ends")
        assert session.screen.modes["1049"] and not session.screen.modes["25"]
        assert not termios.tcgetattr(session.fd)[3] & termios.ECHO
        os.kill(session.pid, end) if isinstance(end, int) else session.type(end)
        assert session.end() == (130 if end == signal.SIGTERM else 0)
        assert "Traceback" not in session.output


def test_an_episode_played_in_a_terminal():
    with Session("cleanpuffer.py", "--env", "bandit", "--play", "--episodes", 2) as session:
        session.until(lambda: session.screen.caption().startswith("keys: 1, 2, 3"))
        session.type("1")
        session.until(lambda: re.match(r"episode 1: score [01] ", session.screen.caption()))
        time.sleep(render.PAUSE + 0.3)  # keys pressed before the next episode do not count
        session.type("1")
        assert session.end() == 0
        assert re.search(r"episodes 2, mean score (0|0.5|1)\r\n$", session.output)


def test_a_key_counts_as_held_for_a_moment():
    """The paddle of pong moves on for a fraction of a second, then stands."""
    with Session("cleanpuffer.py", "--env", "pong", "--play") as session:

        def paddle() -> int:
            teal = (np.abs(session.screen.frame()[:, 60:].astype(int) - (64, 208, 184)) < 40).all(2)
            return int(np.flatnonzero(teal[16:].any(1)).max(initial=0))  # below the score

        session.until(paddle)
        session.until(lambda: session.output.count("\x1b[?2026h") > 5)
        before = paddle()
        session.type("\x1b[B")
        session.until(lambda: paddle() > before + 1, 5)
        session.type("\x1b")
        assert session.end() == 0


def test_the_terminal_is_given_back_after_an_error():
    code = (
        "from envs.screens import Terminal\nimport numpy as np\n"
        "with Terminal() as screen:\n"
        "    screen.show(np.zeros((46, 80, 3), np.uint8), 'working')\n    screen.wait(0.1)\n    1 / 0"
    )
    with Session("-c", code) as session:
        assert session.end() == 1 and "ZeroDivisionError" in session.output


def test_suspended_and_resized():
    """Ctrl-Z gives the terminal to the shell until the process goes on; then everything is drawn again."""
    with Session("cleanpuffer.py", "--env", "squared", "--play") as session:
        (first,) = squared_frames()
        session.until(lambda: np.array_equal(session.screen.frame(), first))
        session.type("\x1a")
        session.until(lambda: not session.screen.modes["1049"])
        _, status = os.waitpid(session.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status) and termios.tcgetattr(session.fd) == session.modes
        session.screen = Emulator(100, 31)
        session.resize(100, 31)
        os.kill(session.pid, signal.SIGCONT)
        (larger,) = squared_frames(width=100, height=60)
        session.until(lambda: np.array_equal(session.screen.frame(), larger))
        session.type("q")
        assert session.end() == 0


@pytest.mark.parametrize("columns, lines, true_color", [(80, 24, "truecolor"), (200, 60, "")])
def test_watch_in_a_terminal(trained, columns, lines, true_color):
    options = {"columns": columns, "lines": lines, "COLORTERM": true_color}
    with Session("cleanpuffer.py", "--watch", trained, "--episodes", 2, **options) as session:
        session.until(lambda: session.screen.caption().startswith("memory: Esc ends"))
        env = envs.make("memory", 1, config={"length": 6})
        env.reset(seed=1)
        frame = env.render(0, columns, 2 * lines - 2)
        session.until(lambda: session.screen.caption().startswith("episode 1: score"))
        bars = ~frame.any((1, 2))  # above and below the corridor
        assert bars.sum() > 5
        seen = session.screen.frame()
        assert not seen[bars].any() and (seen.any((1, 2)) == ~bars).all()
        assert session.end() == 0
        assert ("8;2;" in session.output) == bool(true_color)
        assert re.search(r"episodes 2, mean score [\d.]+\r\n$", session.output)
    with Session("cleanpuffer.py", "--watch", trained, **options) as session:
        session.until(lambda: session.screen.caption())
        session.type("q")
        assert session.end() == 0


BAD = {
    ("--env", "pong"): ["terminal", "[window]"],
    ("--eval", "RUN"): ["--eval"],
    ("--resume", "RUN"): ["--resume"],
    ("--env", "pong", "--gif", "film.gif"): ["--gif"],
    ("--env", "pnog"): ["pnog", "pong"],
}


@pytest.mark.parametrize("arguments", BAD, ids=" ".join)
def test_play_that_cannot_be(arguments, trained):
    """One line; standard input is no terminal here, and there is no display."""
    given = [str(trained) if argument == "RUN" else argument for argument in arguments]
    line = fails("--play", *given, stdin=subprocess.DEVNULL, env=NO_DISPLAY)
    assert all(word in line for word in BAD[arguments]), line


def test_play_without_keys(monkeypatch):
    args = SimpleNamespace(env="mute", play=True, eval=None, gif=None, resume=None)
    monkeypatch.setattr(envs, "spec", lambda name: SimpleNamespace())
    assert "envs/mute.py gives no keys" in render.problem(args)


def test_settings_from_a_file_do_not_play(tmp_path):
    (tmp_path / "settings.json").write_text('{"play": true, "gamma": 0.5}')
    assert read_settings(str(tmp_path / "settings.json")) == {"gamma": 0.5}


# In a window


def test_without_raylib_or_display_it_is_the_terminal(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert screens.open_screen("game").note == ""
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setitem(sys.modules, "pyray", None)
    assert "[window]" in screens.open_screen("game").note


@pytest.fixture
def keyboard():
    """Not a Python package, so pip cannot bring it."""
    if not shutil.which("xdotool"):
        pytest.skip("there is no xdotool, which presses keys")


@pytest.fixture(scope="module")
def display():
    """A display in memory."""
    import torch._dynamo  # noqa: F401  # where triton is installed, it can be loaded before raylib only

    if not shutil.which("Xvfb"):
        pytest.skip("there is no Xvfb, a display in memory")
    reader, writer = os.pipe()
    command = ["Xvfb", "-displayfd", str(writer), "-screen", "0", "1024x768x24", "-noreset"]
    server = subprocess.Popen(command, pass_fds=[writer], stderr=subprocess.DEVNULL)
    os.close(writer)
    with open(reader) as lines:
        number = lines.readline().strip()
    assert number, "Xvfb does not start"
    yield f":{number}"
    server.terminate()
    server.wait()


def screenshot(display: str) -> np.ndarray:
    return np.asarray(ImageGrab.grab(xdisplay=display).convert("RGB"))


def until_shown(display: str, frame: np.ndarray, seconds: float = 60) -> None:
    """Waits until the frame is there, in the middle of the display where a window opens."""
    height, width, _ = frame.shape
    end = time.time() + seconds
    while True:
        seen = screenshot(display)
        top, left = (768 - height - screens.Window.CAPTION) // 2, (1024 - width) // 2
        if np.array_equal(seen[top : top + height, left : left + width], frame):
            line = seen[top + height : top + height + screens.Window.CAPTION, left : left + width]
            assert (line > 200).any(), "no caption"
            return
        assert time.time() < end, "not shown"
        time.sleep(0.05)


def start_in_window(display: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "cleanpuffer.py"), *map(str, arguments)]
    environment = NO_DISPLAY | {"DISPLAY": display}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )


def test_play_in_a_window(display, keyboard):
    process = start_in_window(display, "--env", "squared", "--play")
    try:
        until_shown(display, next(squared_frames(width=800, height=600)))

        def press(key: str) -> None:
            subprocess.run(["xdotool", "key", key], env=os.environ | {"DISPLAY": display}, check=True)

        frames = list(squared_frames(1, 4, 4, width=800, height=600))
        for key, frame in zip(("Up", "Right", "d"), frames[1:], strict=True):
            press(key)
            until_shown(display, frame)
        press("Escape")
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()


def test_watch_in_a_window(display, trained):
    process = start_in_window(display, "--watch", trained, "--episodes", 9)
    try:
        while not (screenshot(display).reshape(-1, 3) == (255, 203, 87)).all(1).any():  # the cue
            assert process.poll() is None
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0 and re.match(r"episodes 9, mean score [\d.]+\n$", out)
    finally:
        process.kill()
        process.communicate()


def test_a_display_that_does_not_open_is_no_reason_to_stop(trained):
    out, _ = run("--watch", trained, env=NO_DISPLAY | {"DISPLAY": ":987"})
    assert "▀" in out and "episode 1: score" in out


def test_mouse_and_held_keys_in_a_window(display, keyboard, monkeypatch):
    monkeypatch.setenv("DISPLAY", display)

    def send(*words: object) -> None:
        subprocess.run(["xdotool", *map(str, words)], check=True)
        screen.wait(0.3)

    board = render.Board(**BOARD)
    with screens.open_screen("board", ("left", "up")) as screen:
        assert screen.size() == (800, 600)  # in the middle of 1024 x 768
        frame = np.zeros((400, 400, 3), np.uint8)  # shown as 600 x 600, the board in it 120 x 90 units
        screen.show(frame, "")
        x, y = 112 + 100 + (20 + 3 * 20) * 5, 70 + 75 + (25 + 2 * 20) * 5
        send("mousemove", x, y, "mousedown", 1)
        keys, click = screen.take()
        assert board.click(click, frame) == 2 * 5 + 3 and not keys
        send("mouseup", 1)
        for words, held in (
            (("keydown", "Left"), "left"),
            (("keydown", "Up"), "up"),
            (("keyup", "Up"), "left"),
            (("keyup", "Left"), None),
        ):
            send(*words)
            assert screen.held() == held
        keys, click = screen.take()
        assert keys[0] == "left" and "up" in keys and click is None
        subprocess.run(["xdotool", "key", "Up"], check=True)
        screen.show(frame, "")  # while it draws
        screen.wait(0.1)
        assert screen.take()[0] == ["up"]
