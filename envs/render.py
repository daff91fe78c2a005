"""Playing without learning: for the score, to watch it (screens.py), by hand, as .gif or .mp4."""

import dataclasses
import importlib.util
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

import envs
from envs import screens
from envs.vector import CannotDraw
from trackers import WORLD, is_terminal, say

FILM_SECONDS = 75  # a film ends here even if its episodes go on
FILM_FPS = 50  # what browsers show of a GIF; steps beyond it are left out
PAUSE = 0.8  # seconds after an episode that a person played


def problem(args: Any) -> str | None:
    """Why what these settings ask to show cannot be shown, and the remedy; None if it can."""
    if WORLD > 1 and (shown := [name for name in ("eval", "watch", "play") if getattr(args, name)]):
        return f"--{shown[0]}: one process is enough to play; start it without torchrun"
    if args.gif and args.eval:
        return "--gif: --eval draws nothing; --watch RUN --gif FILE does"
    if args.play:
        return play_problem(args)
    if (args.gif or args.watch) and not getattr(envs.spec(args.env), "draws", True):
        return f"--env: {args.env} cannot be drawn: it offers no render_mode 'rgb_array'"
    if args.gif and (why := film_problem(args.gif)):
        return f"--gif: {why}"
    return None


def play_problem(args: Any) -> str | None:
    for other in ("eval", "gif", "resume"):
        if getattr(args, other):
            return f"--play: --{other} is another thing to do; --play goes with --env NAME or --watch RUN"
    if ":" in args.env:
        return f"--play: there are no keys for {args.env}; there are for {', '.join(envs.names())}"
    if not hasattr(envs.spec(args.env), "keys"):
        return f"--play: envs/{args.env}.py gives no keys to play {args.env} with"
    window = screens.has_display() and importlib.util.find_spec("pyray")
    if not window and not (is_terminal() and sys.stdin and sys.stdin.isatty()):
        return (
            "--play: needs a terminal as standard input and output,"
            " or a display and pip install -e '.[window]'"
        )
    return None


def perform(args: Any, trained_policy: Callable[[Any, Any], Any]) -> int:
    """--eval, --watch, --play and --gif: plays without learning; returns the exit code.

    trained_policy(args, env) gives the policy of the run folder.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # to leave the terminal as it was
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    try:
        if args.eval:
            say(evaluate(args, trained_policy))
        elif args.gif:
            env = envs.make(args.env, 1, args.seed, config=args.env_config)
            policy, fps = trained_policy(args, env), speed(envs.spec(args.env), args.env_config)
            frames = write_film(args.gif, env, policy, args.seed, args.episodes or 1, fps)
            say(f"wrote {args.gif}: {frames} frames")
        else:
            show(args, trained_policy)
    except KeyboardInterrupt:
        return 130
    except CannotDraw as error:
        print(f"cleanpuffer.py: error: {error}", file=sys.stderr)
        return 2
    return 0


def evaluate(args: Any, trained_policy: Callable[[Any, Any], Any]) -> str:
    """--eval: the score over many episodes, in a line."""
    episodes = args.episodes or 100
    agents = envs.resolve(args.env, args.env_config)[1]
    env = envs.make(args.env, min(math.ceil(episodes / agents), 64), args.seed, config=args.env_config)
    logs = finished_episodes(env, trained_policy(args, env), args.seed, episodes)
    scores = np.array([log["score"] for log in logs])
    perf = f"; perf {np.mean([log['perf'] for log in logs]):.3f}" if "perf" in logs[0] else ""
    return (
        f"score {scores.mean():.4g} ± {scores.std():.3g} (standard deviation), {scores.min():.4g}"
        f" to {scores.max():.4g}, over {len(scores)} episodes{perf}"
    )


def show(args: Any, trained_policy: Callable[[Any, Any], Any]) -> None:
    """--watch and --play, until the person ends it or --episodes are over."""
    spec, config = envs.spec(args.env), args.env_config
    fps = speed(spec, config)
    alone = args.play and (not args.watch or envs.resolve(args.env, config)[1] == 1)
    if alone:  # a policy would need the frameskip that it knows
        config, fps = by_hand(spec, config)
    env = envs.make(args.env, 1, args.seed, config=config)
    policy = None if alone else trained_policy(args, env)
    keys: list[str] = []
    if args.play:
        keys = [*spec.keys(config), *(Board.KEYS if board_of(env) else ())]
    hold = screens.HOLD if fps > 10 else 0  # in a slow game a key counts once
    with screens.open_screen(f"CleanPuffer {args.env}", keys, hold) as screen:
        if args.play and not screen.interactive:
            raise OSError(f"--play: {screen.note}, and standard input and output are no terminal")
        episodes = args.episodes or (None if screen.live else 1)
        scores = (play_by_hand if args.play else watch)(screen, env, policy, args.seed, episodes, fps)
    if scores:
        say(f"episodes {len(scores)}, mean score {np.mean(scores):.4g}")


@torch.inference_mode()
def play(env: Any, policy: Any, seed: int) -> Iterator[np.ndarray]:
    """Plays for ever, as in training: actions drawn, LSTM states carried across episodes.

    env           VecEnv
    policy        has initial_state, step, noise, draw and actions, as cleanpuffer.Policy
    Yields after every step which rows [rows] ended an episode.
    """
    generator = torch.Generator().manual_seed(seed)
    observations, _ = env.reset(seed=seed)
    state = policy.initial_state(env.num_envs)
    while True:
        outputs, _, state = policy.step(torch.from_numpy(observations), state)
        drawn = policy.draw(outputs, policy.noise(env.num_envs, generator=generator))
        observations, _, terminals, truncations, _ = env.step(policy.actions(drawn))
        yield terminals | truncations


def finished_episodes(env: Any, policy: Any, seed: int, episodes: int) -> list[dict[str, float]]:
    """The logs of that many episodes, as VecEnv.log gives them.

    Each row plays a number of them fixed beforehand, so that short episodes count no more often than long
    ones. Of agents of one copy whose episodes end together, each counts with their mean.
    """
    rows = np.arange(env.num_envs)
    left = episodes // env.num_envs + (rows < episodes % env.num_envs)
    logs: list[dict[str, float]] = []
    for done in play(env, policy, seed):
        for copy in np.unique(rows[done] // env.agents).tolist():
            log = env.log(copy, copy + 1)
            ended = done & (left > 0) & (rows // env.agents == copy)
            left[ended] -= 1
            logs += [log] * int(ended.sum())
        if not left.any():
            return logs
    raise AssertionError("play goes on for ever")


def watch(screen: Any, env: Any, policy: Any, seed: int, episodes: int | None, fps: float) -> list[float]:
    """Plays the environment's first copy at its own speed, for ever or for so many episodes; their scores."""
    caption, scores, clock = f"{env.name}: Esc ends  {screen.note}", [], Clock(fps)
    with suppress(KeyboardInterrupt):
        for done in play(env, policy, seed):
            if done[0] and (log := env.log(0, 1)).pop("n"):
                scores.append(log["score"])
                values = "  ".join(f"{name} {value:.4g}" for name, value in log.items())
                caption = f"episode {len(scores)}: {values}"
            screen.show(env.render(0, *screen.size()), caption)
            if len(scores) == episodes:
                break
            screen.wait(clock.next())
    return scores


def play_by_hand(
    screen: Any, env: Any, policy: Any, seed: int, episodes: int | None, fps: float
) -> list[float]:
    """A person plays the first row, the others play by the policy or, without one, at random; scores of the
    person's episodes."""
    person = Person(env, screen, fps)
    with suppress(KeyboardInterrupt):
        for done in play_at_random(person, seed) if policy is None else play(person, policy, seed):
            if done[0]:
                person.finish_episode()
            if len(person.scores) == episodes:
                break
    return person.scores


def play_at_random(env: Any, seed: int) -> Iterator[np.ndarray]:
    """As `play`, without a policy."""
    env.reset(seed=seed)
    env.action_space.seed(seed)
    while True:
        _, _, terminals, truncations, _ = env.step(env.action_space.sample())
        yield terminals | truncations


class Person:
    """An environment whose first row a person plays: `step` puts the person's action in place of the given.

    The environment's file says how: `keys(config)`, the action of each key; `idle`, the action when none is
    pressed, or None where the game waits for one; and `board(config)` where actions are cells: see Board.
    """

    AHEAD = 3  # keys that count when pressed faster than the game goes; more would make it lag behind

    def __init__(self, env: Any, screen: Any, fps: float):
        self.env, self.screen, self.clock = env, screen, Clock(fps)
        spec = envs.spec(env.name)
        self.keys, self.idle, self.board = spec.keys(env.config), getattr(spec, "idle", None), board_of(env)
        self.queue: list[str] = []
        self.scores: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def step(self, actions: np.ndarray) -> tuple:
        actions = np.array(actions)
        actions[0] = self.choose()
        self.env.log(0, 1)  # what other rows finished before
        return self.env.step(actions)

    def choose(self) -> Any:
        """Shows the game and returns what the person does next."""
        self.show()
        if self.idle is None:
            return self.wait_for_action()
        self.screen.wait(self.clock.next())
        for key in self.screen.take()[0]:
            if key not in self.queue[-1:]:  # one that is held repeats
                self.queue.append(key)
        del self.queue[self.AHEAD :]
        return self.keys.get(self.queue.pop(0) if self.queue else self.screen.held(), self.idle)

    def wait_for_action(self) -> Any:
        while True:
            while self.queue:
                key = self.queue.pop(0)
                action = self.keys[key] if key in self.keys else self.board.press(key)
                if action is not None:
                    return action
            self.show()  # a moved cursor, another size
            self.screen.wait(0.1, until_key=True)
            self.queue, click = self.screen.take()
            if click and self.board and (action := self.board.click(click, self.frame)) is not None:
                return action

    def show(self) -> None:
        self.frame = self.env.render(0, *self.screen.size())
        if self.board:
            self.board.draw_cursor(self.frame)
        self.screen.show(self.frame, self.caption())

    def caption(self) -> str:
        parts = [describe_keys(self.keys, self.board), self.screen.note]
        if self.scores:
            parts.insert(0, f"episode {len(self.scores)}: score {self.scores[-1]:.4g}")
        return "   ".join(part for part in parts if part)

    def finish_episode(self) -> None:
        """Holds on for a moment: what is on the screen is the last of it that was drawn."""
        if (log := self.env.log(0, 1))["n"]:
            self.scores.append(log["score"])
        self.screen.show(self.frame, self.caption())
        self.screen.wait(PAUSE)
        self.screen.take()
        self.queue = []


def describe_keys(keys: dict, board: "Board | None") -> str:
    """In one line: keys of the same action together."""
    names: dict[str, list[str]] = {}
    for key, action in keys.items():
        names.setdefault(str(action), []).append(key)
    words = ["arrows and enter"] if board else []
    return "keys: " + ", ".join([*words, *("/".join(same) for same in names.values()), "Esc ends"])


@dataclasses.dataclass
class Board:
    """A cursor on a board of cells, action row * columns + column, and where they are drawn.

    view          width and height of the drawing in its own units, as given to draw_view
    origin        x, y of the middle of the first cell
    pitch         distance of neighbours
    """

    rows: int
    columns: int
    view: tuple[float, float]
    origin: tuple[float, float]
    pitch: float

    KEYS = ("up", "down", "left", "right", "enter", "space")
    COLOR = (255, 203, 87)  # COLOR_GOLD of ocean_c/draw.h

    def __post_init__(self):
        self.row, self.column = self.rows // 2, self.columns // 2

    def press(self, key: str) -> int | None:
        """Moves the cursor, over the edge to the other side, or returns the action of its cell."""
        if key in ("enter", "space"):
            return self.row * self.columns + self.column
        self.row = (self.row + (key == "down") - (key == "up")) % self.rows
        self.column = (self.column + (key == "right") - (key == "left")) % self.columns
        return None

    def click(self, point: tuple[float, float], frame: np.ndarray) -> int | None:
        """Moves the cursor to a point of the frame, in pixels, and returns the action there, if it is one."""
        scale, left, top = self.fit(frame)
        column = round(((point[0] - left) / scale - self.origin[0]) / self.pitch)
        row = round(((point[1] - top) / scale - self.origin[1]) / self.pitch)
        if not (0 <= row < self.rows and 0 <= column < self.columns):
            return None
        self.row, self.column = row, column
        return row * self.columns + column

    def fit(self, frame: np.ndarray) -> tuple[float, float, float]:
        """Scale, left and top of the drawing in the frame, as draw_view has them."""
        height, width, _ = frame.shape
        scale = min(width / self.view[0], height / self.view[1])
        return scale, (width - self.view[0] * scale) / 2, (height - self.view[1] * scale) / 2

    def draw_cursor(self, frame: np.ndarray) -> None:
        """A square round its cell."""
        scale, left, top = self.fit(frame)
        x = left + (self.origin[0] + self.column * self.pitch) * scale
        y = top + (self.origin[1] + self.row * self.pitch) * scale
        half, line = self.pitch * scale / 2, max(1, round(self.pitch * scale / 12))
        x0, x1, y0, y1 = (max(0, round(edge)) for edge in (x - half, x + half, y - half, y + half))
        for rows, columns in (
            (slice(y0, y0 + line), slice(x0, x1)),
            (slice(max(y0, y1 - line), y1), slice(x0, x1)),
            (slice(y0, y1), slice(x0, x0 + line)),
            (slice(y0, y1), slice(max(x0, x1 - line), x1)),
        ):
            frame[rows, columns] = self.COLOR


def board_of(env: Any) -> Board | None:
    spec = envs.spec(env.name)
    return Board(**spec.board(env.config)) if hasattr(spec, "board") else None


class Clock:
    """Moments at a fixed rate; after a long wait it does not hurry to catch up."""

    def __init__(self, fps: float):
        self.period, self.due = 1 / fps, time.perf_counter()

    def next(self) -> float:
        """Seconds until the next one."""
        now = time.perf_counter()
        self.due = max(self.due + self.period, now)
        return self.due - now


def speed(spec: Any, config: dict) -> float:
    """Steps a second that suit the game: `fps` of its file is for the frameskip that stands there."""
    return spec.fps * spec.config["frameskip"][0] / config["frameskip"] if "frameskip" in config else spec.fps


def by_hand(spec: Any, config: dict) -> tuple[dict, float]:
    """Knobs and steps a second for a person, who sees and acts more often than an agent needs to: a frameskip
    of few frames, at most 60 times a second and, if need be, at half the speed."""
    if config.get("frameskip") != spec.config.get("frameskip", [None])[0] or "frameskip" not in config:
        return config, speed(spec, config)  # without frameskip, or as the person wants it
    frames = speed(spec, config) * config["frameskip"]  # a second
    frameskip = min(config["frameskip"], max(1, round(frames / 120)))
    more = {"frameskip": frameskip}
    if "max_steps" in config:  # an episode is as long in frames
        steps = config["max_steps"] * config["frameskip"] // frameskip
        more["max_steps"] = min(steps, spec.config["max_steps"][2])
    return config | more, min(60, frames / frameskip)


def film_problem(path: str) -> str | None:
    """Why a film cannot be written to this path, and the remedy; None if it can."""
    if Path(path).suffix not in (".gif", ".mp4"):
        return f"{path} must end in .gif or .mp4"
    if not Path(path).resolve().parent.is_dir():
        return f"there is no folder {Path(path).resolve().parent}"
    try:
        import imageio  # noqa: F401
        import PIL  # noqa: F401

        if path.endswith(".mp4"):
            import imageio_ffmpeg  # noqa: F401
    except ImportError:
        return "films need the [video] extra: pip install -e '.[video]'"
    return None


def write_film(
    path: str,
    env: Any,
    policy: Any,
    seed: int,
    episodes: int,
    fps: float,
    width: int = 320,
    height: int = 240,
) -> int:
    """Writes episodes of the environment's first copy to a .gif or .mp4; returns the number of frames."""
    import imageio.v3 as imageio

    every = math.ceil(fps / FILM_FPS)  # steps to a frame
    played, frames = 0, []
    for step, done in enumerate(play(env, policy, seed)):
        played += bool(done[0])
        if step % every == 0 and played < episodes:  # after the last end the next episode has begun
            frames.append(env.render(0, width, height))
        if played == episodes or step + 1 >= FILM_SECONDS * fps:
            break
    if path.endswith(".gif"):  # which counts in hundredths of a second
        ends = np.round(np.arange(len(frames) + 1) * 100 * every / fps)
        imageio.imwrite(path, np.stack(frames), duration=(10 * np.diff(ends)).tolist(), loop=0)
    else:
        imageio.imwrite(path, np.stack(frames), fps=fps / every)
    return len(frames)
