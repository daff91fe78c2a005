"""Playing without learning: for the score, in the terminal (two pixels to a character), as .gif or .mp4."""

import functools
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import envs
from trackers import say

FILM_SECONDS = 75  # a film ends here even if its episodes go on


def problem(args: Any) -> str | None:
    """Why what these settings ask to show cannot be shown, and the remedy; None if it can."""
    if args.gif and args.eval:
        return "--gif: --eval draws nothing; --watch RUN --gif FILE does"
    if args.gif and (why := film_problem(args.gif)):
        return f"--gif: {why}"
    return None


def perform(args: Any, trained_policy: Callable[[Any, Any], Any]) -> int:
    """--eval, --watch and --gif: plays without learning; returns the exit code.

    trained_policy(args, env) gives the policy of the run folder.
    """
    episodes = args.episodes or (100 if args.eval else 1 if args.gif else None)
    env = envs.make(args.env, min(episodes, 64) if args.eval else 1, args.seed, config=args.env_config)
    policy = trained_policy(args, env)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # to leave the terminal as it was
    try:
        if args.eval:
            logs = finished_episodes(env, policy, args.seed, episodes)
            scores = np.array([log["score"] for log in logs])
            perf = np.mean([log["perf"] for log in logs])
            say(
                f"score {scores.mean():.4g} ± {scores.std():.3g} (standard deviation), {scores.min():.4g}"
                f" to {scores.max():.4g}, over {len(scores)} episodes; perf {perf:.3f}"
            )
        elif args.gif:
            say(f"wrote {args.gif}: {write_film(args.gif, env, policy, args.seed, episodes)} frames")
        else:
            show_in_terminal(env, policy, args.seed, episodes)
    except KeyboardInterrupt:
        return 130
    return 0


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

    Each copy plays a number of them fixed beforehand, so that short episodes count no more often than long
    ones.
    """
    left = [episodes // env.copies + (copy < episodes % env.copies) for copy in range(env.copies)]
    logs: list[dict[str, float]] = []
    for done in play(env, policy, seed):
        for copy in np.unique(np.flatnonzero(done) // env.agents).tolist():
            log = env.log(copy, copy + 1)
            if left[copy] and log["n"]:
                left[copy] -= 1
                logs.append(log)
        if not any(left):
            return logs
    raise AssertionError("play goes on for ever")


def show_in_terminal(env: Any, policy: Any, seed: int, episodes: int | None = None) -> None:
    """Plays the environment's first copy, in colour, at its own speed, for ever or for so many episodes.

    Works over ssh. Where the output is no terminal, one episode is the default and nothing waits.
    """
    out, live = sys.stdout, sys.stdout.isatty()
    last = episodes or (None if live else 1)
    true_color = os.environ.get("COLORTERM") in ("truecolor", "24bit")
    pause, played, caption = 1 / env.metadata["render_fps"], 0, f"{env.name}: Ctrl-C ends"
    if live:
        out.write("\x1b[?25l\x1b[2J")  # hides the cursor, clears
    try:
        due = time.perf_counter()
        for done in play(env, policy, seed):
            columns, lines = shutil.get_terminal_size() if live else (80, 24)
            frame = env.render(0, max(columns, 1), 2 * max(lines - 2, 1))
            if done[: env.agents].any():
                played += 1
                log = "  ".join(f"{name} {value:.4g}" for name, value in env.log(0, 1).items() if name != "n")
                caption = f"episode {played}: {log}"
            home = "\x1b[H" if live else ""
            say(f"{home}{half_blocks(frame, true_color)}{caption[: columns - 1]}\x1b[K")
            if played == last:
                break
            if live:
                due += pause
                time.sleep(max(0, due - time.perf_counter()))
    except KeyboardInterrupt:
        pass
    finally:
        if live:
            out.write("\x1b[0m\x1b[?25h\n")


def half_blocks(frame: np.ndarray, true_color: bool = True) -> str:
    """A picture [2 lines, columns, 3] as text: the upper half of a character is one pixel, the lower
    another."""
    text = []
    for upper, lower in zip(frame[0::2].tolist(), frame[1::2].tolist(), strict=True):
        colors = None
        for top, bottom in zip(upper, lower, strict=True):
            if (top, bottom) != colors:
                codes = color_code(tuple(top), true_color), color_code(tuple(bottom), true_color)
                text.append(f"\x1b[38;{codes[0]};48;{codes[1]}m")
                colors = (top, bottom)
            text.append("▀")
        text.append("\x1b[0m\n")
    return "".join(text)


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
    path: str, env: Any, policy: Any, seed: int, episodes: int = 1, width: int = 320, height: int = 240
) -> int:
    """Writes episodes of the environment's first copy to a .gif or .mp4; returns the number of frames."""
    import imageio.v3 as imageio

    fps, played, frames = env.metadata["render_fps"], 0, []
    for done in play(env, policy, seed):
        frames.append(env.render(0, width, height))
        played += bool(done[: env.agents].any())
        if played == episodes or len(frames) >= FILM_SECONDS * fps:
            break
    if path.endswith(".gif"):
        imageio.imwrite(path, np.stack(frames), duration=1000 / fps, loop=0)
    else:
        imageio.imwrite(path, np.stack(frames), fps=fps)
    return len(frames)
