"""Where a person sees a game, and plays it: a window (raylib), or a terminal with two pixels to a character.

    with open_screen("pong", keys=("up", "down")) as screen:
        screen.show(env.render(0, *screen.size()), "a caption")
        screen.wait(1 / 15)                          # sees to the keys meanwhile

`take()` then gives the keys that were pressed, oldest first, and where in the frame the mouse was clicked;
`held()` is the key that is down. Keys are named up, down, left, right, space, enter, or by their character in
lower case. Escape, q (unless it is a key of the game) and closing the window, as Ctrl-C, raise
KeyboardInterrupt.
"""

import functools
import logging
import os
import re
import select
import shutil
import signal
import sys
import time
from collections.abc import Collection
from typing import Any

import numpy as np

from trackers import is_terminal, say

HOLD = 0.2  # seconds a key counts as held in a terminal, which does not tell when it is let go
TALLEST = 1080  # lines of a frame in a window; a taller window enlarges it


def open_screen(title: str, keys: Collection[str] = (), hold: float = HOLD) -> "Window | Terminal":
    """A window where there is a display and raylib, else the terminal; `note` says what is missing."""
    note = ""
    if has_display():
        try:
            return Window(title, keys)
        except ImportError:
            note = "a window needs pip install -e '.[window]'"
        except OSError as error:
            note = str(error)
    return Terminal(keys, hold, note)


def has_display() -> bool:
    """Whether a window would be seen here: over ssh a Mac would open it on its own screen."""
    if sys.platform == "darwin":
        return "SSH_CONNECTION" not in os.environ
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


class Keys:
    """The keys and the click of a person that the game has not taken yet, for both kinds of screen."""

    def __init__(self, keys: Collection[str]):
        self.keys = keys
        self.pressed: list[str] = []
        self.click: tuple[float, float] | None = None

    def press(self, key: str) -> None:
        if key in self.keys:
            self.pressed.append(key)
        elif key in ("escape", "q"):
            raise KeyboardInterrupt

    def take(self) -> tuple[list[str], tuple[float, float] | None]:
        """The keys pressed and the last click since it was asked before."""
        taken = self.pressed, self.click
        self.pressed, self.click = [], None
        return taken


class Terminal(Keys):
    """Writes only the lines that changed, all in one write. Plain text where the output is no terminal."""

    def __init__(self, keys: Collection[str] = (), hold: float = HOLD, note: str = ""):
        super().__init__(keys)
        self.hold, self.note = hold, note
        self.live = is_terminal() and os.environ.get("TERM") != "dumb"
        self.interactive = self.live and sys.stdin is not None and sys.stdin.isatty()
        self.true_color = os.environ.get("COLORTERM") in ("truecolor", "24bit")
        self.frame, self.caption = np.empty((0, 0, 3), np.uint8), ""  # what is on the screen
        self.newest, self.newest_at = "", 0.0
        self.unread = ""  # the beginning of an escape sequence

    def __enter__(self) -> "Terminal":
        if self.interactive:
            import termios

            self.modes = termios.tcgetattr(sys.stdin)
        if self.live:
            self.old_handler = signal.signal(signal.SIGTSTP, self.suspend)
            self.take_over()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.live:
            self.give_back()
            signal.signal(signal.SIGTSTP, self.old_handler)

    def take_over(self) -> None:
        """A screen of its own, without cursor and line wrap; keys come at once and are not echoed."""
        if self.interactive:
            import tty

            tty.setcbreak(sys.stdin)
        self.frame = self.frame[:0]
        self.write("\x1b[?1049h\x1b[?25l\x1b[?7l")

    def give_back(self) -> None:
        if self.interactive:
            import termios

            termios.tcsetattr(sys.stdin, termios.TCSAFLUSH, self.modes)
        self.write("\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l")

    def suspend(self, *_: Any) -> None:
        """On Ctrl-Z: the terminal is the shell's until the process goes on."""
        self.give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self.take_over()

    def size(self) -> tuple[int, int]:
        """Width and height of the frame that fits, above a line for the caption."""
        columns, lines = shutil.get_terminal_size() if self.live else (80, 24)
        return max(columns, 1), 2 * max(lines - 1, 1)

    def show(self, frame: np.ndarray, caption: str) -> None:
        height, width, _ = frame.shape
        if not self.live:
            lines = [half_blocks(frame[i], frame[i + 1], self.true_color) for i in range(0, height, 2)]
            say("\n".join([*lines, caption]))
            return
        text = []
        if frame.shape != self.frame.shape:
            text.append("\x1b[0m\x1b[2J")
            changed = range(0, height, 2)
        else:
            changed = 2 * np.flatnonzero((frame != self.frame).reshape(height // 2, -1).any(1))
        for i in changed:
            text.append(f"\x1b[{i // 2 + 1}H{half_blocks(frame[i], frame[i + 1], self.true_color)}")
        self.frame = frame
        # Terminals that know mode 2026 show all that lies between its ends at once.
        self.write(
            f"\x1b[?2026h{''.join(text)}\x1b[{height // 2 + 1}H{caption[: width - 1]}\x1b[K\x1b[?2026l"
        )

    def write(self, text: str) -> None:
        data = text.encode()
        while data:
            data = data[os.write(sys.stdout.fileno(), data) :]

    def wait(self, seconds: float, until_key: bool = False) -> None:
        """Waits, and sees to the keys; with `until_key` no longer than until one is pressed."""
        if not self.live:
            return
        end = time.perf_counter() + seconds
        while True:
            left = max(0, end - time.perf_counter())
            if not self.interactive:
                time.sleep(left)
            elif select.select([sys.stdin], [], [], 0.05 if self.unread else left)[0]:
                typed = os.read(sys.stdin.fileno(), 4096)
                if not typed:
                    raise KeyboardInterrupt  # the terminal is gone
                keys, self.unread = parse_keys(self.unread + typed.decode(errors="ignore"))
                self.type(keys)
            elif self.unread:  # what began like an arrow key was the escape key
                self.unread = ""
                self.type(["escape"])
            if time.perf_counter() >= end or (until_key and self.pressed):
                return

    def type(self, keys: list[str]) -> None:
        for key in keys:
            self.newest, self.newest_at = key, time.perf_counter()
            self.press(key)

    def held(self) -> str | None:
        return self.newest if time.perf_counter() - self.newest_at < self.hold else None


KEY = re.compile(
    r"\x1b(?:\[[\d;]*|O)(?P<sequence>[@-~])|(?P<unread>\x1b(?:\[[\d;]*|O)?)$|(?P<character>.)", re.S
)
SEQUENCES = {"A": "up", "B": "down", "C": "right", "D": "left", "M": "enter"}
CHARACTERS = {" ": "space", "\r": "enter", "\n": "enter", "\x1b": "escape"}


def parse_keys(typed: str) -> tuple[list[str], str]:
    """Names of the keys that were typed into a terminal, and what may be the beginning of one more."""
    keys = []
    for match in KEY.finditer(typed):
        if match["unread"]:
            return keys, match["unread"]
        character = match["character"] or ""
        key = SEQUENCES.get(match["sequence"]) or CHARACTERS.get(character) or character.lower()
        if key and key.isprintable():
            keys.append(key)
    return keys, ""


def half_blocks(upper: np.ndarray, lower: np.ndarray, true_color: bool = True) -> str:
    """Two lines of pixels [columns, 3] as one of text: a character has one in each half."""
    both = np.concatenate([upper, lower], 1)
    starts = np.flatnonzero(np.append(True, (both[1:] != both[:-1]).any(1)))  # of runs of equal characters
    lengths = np.diff(starts, append=len(both)).tolist()
    text = []
    for length, colors in zip(lengths, both[starts].tolist(), strict=True):
        top, bottom = (color_code(tuple(color), true_color) for color in (colors[:3], colors[3:]))
        text.append(
            f"\x1b[38;{top};48;{bottom}m{'▀' * length}" if top != bottom else f"\x1b[48;{top}m{' ' * length}"
        )
    return "".join(text) + "\x1b[0m"


@functools.lru_cache(4096)
def color_code(rgb: tuple[int, int, int], true_color: bool) -> str:
    """A colour as terminals name it; where they know only 256, the nearest of their cube and their greys."""
    if true_color:
        return f"2;{rgb[0]};{rgb[1]};{rgb[2]}"
    levels = (0, 95, 135, 175, 215, 255)
    r, g, b = (min(range(6), key=lambda i: abs(levels[i] - x)) for x in rgb)
    grey = min(range(24), key=lambda i: abs(8 + 10 * i - sum(rgb) / 3))
    candidates = {
        16 + 36 * r + 6 * g + b: (levels[r], levels[g], levels[b]),
        232 + grey: (8 + 10 * grey,) * 3,
    }
    nearest = min(
        candidates, key=lambda n: sum((x - y) ** 2 for x, y in zip(candidates[n], rgb, strict=True))
    )
    return f"5;{nearest}"


class Window(Keys):
    """A window of raylib; ImportError without it, OSError where the display does not open."""

    CAPTION = 28  # pixels of the line below the frame

    def __init__(self, title: str, keys: Collection[str] = ()):
        super().__init__(keys)
        logging.getLogger("raylib").setLevel(logging.ERROR)  # it announces itself
        import pyray as rl

        self.rl, self.note = rl, ""
        self.live = self.interactive = True
        self.names = {
            rl.KeyboardKey.KEY_UP: "up",
            rl.KeyboardKey.KEY_DOWN: "down",
            rl.KeyboardKey.KEY_LEFT: "left",
            rl.KeyboardKey.KEY_RIGHT: "right",
            rl.KeyboardKey.KEY_SPACE: "space",
            rl.KeyboardKey.KEY_ENTER: "enter",
            rl.KeyboardKey.KEY_KP_ENTER: "enter",
            rl.KeyboardKey.KEY_ESCAPE: "escape",
        }
        rl.set_trace_log_level(rl.TraceLogLevel.LOG_NONE)
        rl.set_config_flags(rl.ConfigFlags.FLAG_WINDOW_RESIZABLE)
        rl.init_window(800, 600 + self.CAPTION, title)
        if not rl.is_window_ready():
            raise OSError("the display does not open a window")
        rl.set_window_min_size(160, 120 + self.CAPTION)
        rl.set_exit_key(rl.KeyboardKey.KEY_NULL)  # `press` ends on Escape
        self.texture = None
        self.caption = ""
        self.down: list[int] = []  # codes of keys, the newest last

    def __enter__(self) -> "Window":
        return self

    def __exit__(self, *_: Any) -> None:
        self.rl.close_window()

    def size(self) -> tuple[int, int]:
        width, height = self.rl.get_screen_width(), self.rl.get_screen_height() - self.CAPTION
        shrink = min(1, TALLEST / max(width, height, 1))
        return max(1, round(width * shrink)), max(1, round(height * shrink))

    def show(self, frame: np.ndarray, caption: str) -> None:
        rl, (height, width, _) = self.rl, frame.shape
        pixels = rl.ffi.cast("void *", rl.ffi.from_buffer(frame))
        if self.texture is None or (self.texture.width, self.texture.height) != (width, height):
            if self.texture is not None:
                rl.unload_texture(self.texture)
            kind = rl.PixelFormat.PIXELFORMAT_UNCOMPRESSED_R8G8B8
            self.texture = rl.load_texture_from_image(rl.Image(pixels, width, height, 1, kind))
            rl.set_texture_filter(self.texture, rl.TextureFilter.TEXTURE_FILTER_BILINEAR)
        else:
            rl.update_texture(self.texture, pixels)
        self.caption = caption
        self.draw()

    def place(self) -> tuple[float, float, float]:
        """Where the frame stands in the window: left, top, and screen pixels for one of its own."""
        width, height = self.rl.get_screen_width(), self.rl.get_screen_height() - self.CAPTION
        scale = min(width / self.texture.width, height / self.texture.height)
        return (width - self.texture.width * scale) / 2, (height - self.texture.height * scale) / 2, scale

    def draw(self) -> None:
        rl, (left, top, scale) = self.rl, self.place()
        width, height = self.texture.width, self.texture.height
        line = rl.get_screen_height() - self.CAPTION
        rl.begin_drawing()
        rl.clear_background(rl.BLACK)
        source, target = (
            rl.Rectangle(0, 0, width, height),
            rl.Rectangle(left, top, width * scale, height * scale),
        )
        rl.draw_texture_pro(self.texture, source, target, rl.Vector2(0, 0), 0, rl.WHITE)
        fits = rl.measure_text(self.caption, 20) < rl.get_screen_width() - 16
        rl.draw_text(self.caption, 8, line + (4 if fits else 9), 20 if fits else 10, rl.RAYWHITE)
        rl.end_drawing()
        self.read()  # as it polled, and the next poll forgets

    def wait(self, seconds: float, until_key: bool = False) -> None:
        """Waits, and sees to keys, mouse and size; with `until_key` no longer than until one is pressed."""
        rl, end = self.rl, time.perf_counter() + seconds
        while True:
            rl.poll_input_events()
            self.read()
            if rl.is_window_resized():
                self.draw()
            left = end - time.perf_counter()
            if left <= 0 or (until_key and (self.pressed or self.click)):
                return
            time.sleep(min(left, 1 / 60))

    def read(self) -> None:
        """Takes over what raylib knows since its last poll."""
        rl = self.rl
        if rl.window_should_close():
            raise KeyboardInterrupt
        self.down = [code for code in self.down if rl.is_key_down(code)]
        for code in self.down:
            if rl.is_key_pressed_repeat(code):
                self.press(self.name(code))
        while code := rl.get_key_pressed():
            if name := self.name(code):
                self.down.append(code)
                self.press(name)
        if rl.is_mouse_button_pressed(rl.MouseButton.MOUSE_BUTTON_LEFT):
            (left, top, scale), mouse = self.place(), rl.get_mouse_position()
            self.click = (mouse.x - left) / scale, (mouse.y - top) / scale

    def name(self, code: int) -> str:
        """Keys of characters have the codes of those characters, where they stand on a US keyboard."""
        return self.names.get(code) or (chr(code).lower() if 32 < code < 127 else "")

    def held(self) -> str | None:
        return self.name(self.down[-1]) if self.down else None
