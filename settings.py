"""Settings: from the command line, a --config file, a run, an environment; sizes for the machine.

They are those of a dataclass, `cleanpuffer.Args` or one made from it.
"""

import argparse
import dataclasses
import difflib
import io
import json
import math
import os
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete

import build
import envs
from kernels import cpu
from send import TRACKERS
from trackers import UsageError

LIMITS = {  # lowest and highest value
    (0, 1): "gamma gae_lambda prio_beta0 eps state_reset",
    (0, 0.9999999): "beta1 beta2",
    (0, 1e30): "learning_rate min_learning_rate",
    (0, 1e3): "replay_factor",
    (0, 2**16): "mup_base_width",
    (0, 1e6): "update_epochs rho_clip c_clip clip_coef vf_coef vf_clip_coef max_grad_norm prio_alpha",
    (-1e6, 1e6): "ent_coef",
    (-1e30, 1e30): "stop_score",
    (0.01, 1e6): "log_interval",
    (0, 2**63 - 1): "seed",
    (1, 2**50): "total_timesteps minibatch_size episodes checkpoint_interval",
    (1, 2**24): "num_envs",
    (1, 2**16): "horizon hidden_size",
    (1, 1024): "num_threads env_threads groups",
}
LISTS = ("track", "tag")  # names with commas between them, also given several times


def parse_arguments(argv: list[str], kind: type) -> Any:
    """Settings, of a dataclass such as cleanpuffer.Args, from, in order of precedence: the command line, the
    --config file or the run that is resumed or played, the environment's `train`, the defaults of the class.
    Raises UsageError."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--env", "--config", "--resume", "--eval", "--watch", "--run-dir"):
        early.add_argument(name, nargs="?")
    for name in LISTS:
        early.add_argument(f"--{name}", nargs="?", action="append", default=[])
    first = early.parse_known_args(argv)[0]
    if sum(name is not None for name in (first.resume, first.eval, first.watch)) > 1:
        raise UsageError("--resume, --eval and --watch are different things to do: give one of them")
    if first.resume and first.run_dir:
        raise UsageError(f"--run-dir: --resume {first.resume} goes on in place, in its own folder")
    run = first.resume or first.eval or first.watch
    source = str(Path(run) / "config.json") if run else first.config
    file = read_settings(source, own=bool(run)) if source else {}
    env = first.env or str(file.get("env", kind.env))
    try:
        spec = envs.spec(env)
    except ValueError as error:
        raise UsageError(f"--env: {error}") from None
    if env != file.get("env", env):
        if run:
            raise UsageError(f"--env: {run} was trained on {file['env']}, not on {env}")
        for name in ("env_config", "num_envs", "groups", "minibatch_size"):  # of another environment
            file.pop(name, None)
    if first.eval or first.watch:  # to play, the settings of a run's own trainer are not needed
        known = {field.name for field in dataclasses.fields(kind)}
        file = {name: value for name, value in file.items() if name.partition(".")[0] in known}
    knobs = {knob: default for knob, (default, _, _) in spec.config.items()}
    sizes = ("num_envs", "hidden_size")  # which choose_sizes puts where auto stands
    args = kind(env=env, env_config=knobs, **{k: v for k, v in spec.train.items() if k not in sizes})
    args = parse_tokens(args, settings_tokens(file), f"{source}: ")
    args = parse_tokens(args, argv, "")
    for name in LISTS:
        given = ",".join(getattr(first, name)) or getattr(args, name) or ""
        setattr(
            args, name, ",".join(dict.fromkeys(x for x in given.split(",") if x not in ("", "None"))) or None
        )
    for name in args.track.split(",") if args.track else ():
        if name not in TRACKERS:
            raise UsageError(f"--track: {name} is none of {', '.join(TRACKERS)}")
    args.run_dir = args.resume or args.run_dir
    for (low, high), names in LIMITS.items():
        for name in names.split():
            value = getattr(args, name)
            if value not in (None, "auto") and not low <= value <= high:
                raise UsageError(f"--{name.replace('_', '-')}: {value} is not between {low} and {high}")
    if args.min_learning_rate > args.learning_rate:
        raise UsageError(f"--min-learning-rate: {args.min_learning_rate} is above --learning-rate")
    return args


def read_settings(path: str, own: bool = False) -> dict[str, Any]:
    """The settings in a run's config.json or a flat JSON object, without those that belong to one command
    and, unless the run is this `own` one, without where it is sent."""
    try:
        saved = json.loads(Path(path).read_text())
        settings = saved.get("args", saved)
        settings = {name.replace("-", "_"): value for name, value in settings.items() if value is not None}
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, AttributeError):
        raise UsageError(f"{path} is no JSON object of settings") from None
    left = ("run_dir", "resume", "watch", "play", "eval", "gif", "list", "episodes", "config", "profile")
    left += LISTS if "args" in saved and not own else ()
    return {name: value for name, value in settings.items() if name not in left}


def settings_tokens(settings: dict[str, Any]) -> list[str]:
    """Settings as command-line arguments, so that both are checked alike."""
    tokens = []
    for name, value in settings.items():
        if isinstance(value, dict):
            tokens += settings_tokens({f"{name}.{knob}": number for knob, number in value.items()})
        elif isinstance(value, bool):
            tokens.append(f"--{name}" if value else f"--no-{name}")
        else:
            tokens.append(f"--{name}={value}")
    return tokens


def parse_tokens(args: Any, tokens: list[str], origin: str) -> Any:
    """`args` with the tokens over them. tyro's boxed errors become one line."""
    if not tokens:
        return args
    import tyro

    boxed = io.StringIO()
    try:
        with redirect_stderr(boxed):
            return tyro.cli(type(args), args=tokens, default=args, prog="cleanpuffer.py")
    except SystemExit as stop:
        if not stop.code:
            raise
    lines = [line.strip("│ \n") for line in boxed.getvalue().splitlines() if line.startswith("│")]
    end = next((i for i, line in enumerate(lines) if not line.strip("─")), len(lines))
    message = " ".join(lines[:end])
    if message.startswith("Unrecognized options: "):
        unknown = message.split(": ")[1].split(",")[0].split("=")[0]
        names = [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(args)]
        names += [f"--env-config.{knob}" for knob in args.env_config]
        typed = unknown.replace("_", "-")
        # By initials, as in --lr, or by spelling.
        near = [name for name in names if "".join(part[0] for part in name[2:].split("-")) == typed[2:]]
        near = near or difflib.get_close_matches(typed, names, 2)
        hint = f"is it {' or '.join(near)}?" if near else "--help lists them all"
        message = f"unknown argument {unknown}: {hint}"
    raise UsageError(origin + message)


def choose_sizes(args: Any, processes: int = 1) -> None:
    """Puts numbers where args say auto, for a processor or a GPU. UsageError for sizes that cannot be.

    num_envs and minibatch_size are split evenly between the processes that train together.
    """
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    on_gpu = args.device.startswith("cuda")
    gpus = torch.cuda.device_count()
    devices = ["cpu", *["cuda"][:gpus], *(f"cuda:{i}" for i in range(gpus))]
    if args.device not in devices:
        raise UsageError(f"--device: {args.device} is not there; this machine has {', '.join(devices)}")
    if on_gpu and processes > 1 and (args.device != "cuda" or gpus < int(os.environ["LOCAL_WORLD_SIZE"])):
        here = f"{os.environ['LOCAL_WORLD_SIZE']} processes and {gpus} GPUs"
        raise UsageError(f"--device: {args.device}: each process takes a GPU of its own; here are {here}")
    if processes > 1 and args.cuda_graphs:
        raise UsageError("--cuda-graphs: they cannot hold what several processes tell each other")
    try:
        args.env_config, agents = envs.resolve(args.env, args.env_config)
    except (ValueError, TypeError) as error:
        raise UsageError(f"--env-config: {str(error).removeprefix('config ')}") from None
    if args.cuda_graphs and not on_gpu:
        raise UsageError(f"--cuda-graphs: they are for GPUs, and this runs on {args.device}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    auto = {"num_threads": max(cores, args.env_threads), "hidden_size": 32, "num_envs": max(1, 256 // agents)}
    auto |= {name: size for name, size in envs.spec(args.env).train.items() if name in auto}
    if on_gpu and ":" not in args.env:  # which has room for more
        auto |= {"hidden_size": 128, "num_envs": max(auto["num_envs"], 4096 // agents)}
    auto["num_envs"] = -(-auto["num_envs"] // processes) * processes
    for name, value in auto.items():
        if getattr(args, name) == "auto":
            setattr(args, name, value)
    if args.precision == "auto":  # bfloat16 where it is faster: the LSTM in C on processors that have it
        fits = not on_gpu and args.hidden_size % 16 == 0
        args.precision = "bfloat16" if fits and cpu.has_bfloat16() else "float32"
    if args.env_threads > args.num_threads:
        raise UsageError(f"--env-threads: {args.env_threads} is more than --num-threads {args.num_threads}")
    if args.num_envs % processes:
        raise UsageError(f"--num-envs: {args.num_envs} cannot be split evenly between {processes} processes")
    rows, copies = args.num_envs * agents, args.num_envs // processes
    batch = rows * args.horizon
    spec = envs.spec(args.env)
    space, actions = spec.observation_space(args.env_config), spec.action_space(args.env_config)
    if args.groups == "auto":  # on a processor, parts that stay in a core's cache
        plain = isinstance(actions, Discrete) and not (args.normalize_observations or args.policy)
        in_c = plain and args.recurrent == "lstm" and args.hidden_size % 16 == 0 and build.has_compiler()
        own = rows // processes
        most = 2 if on_gpu else max(own // 256, min(2, own // 128)) if in_c else own // 512
        most = 1 if ":" in args.env else min(most, copies, 64)
        args.groups = max((g for g in range(1, most + 1) if copies % g == 0), default=1)
    if copies % args.groups:
        each = f", {copies} in each process" if processes > 1 else ""
        raise UsageError(f"--groups: {args.groups} does not divide --num-envs {args.num_envs}{each}")
    if args.cuda_graphs and args.groups > 31:
        raise UsageError(f"--groups: {args.groups} is more than the 31 that --cuda-graphs has streams for")
    if args.minibatch_size == "auto":
        steps = min(batch, 16384) if on_gpu else max(min(batch, 2048), batch // 8)
        segments = max(1, steps // args.horizon // processes) * processes
        args.minibatch_size = segments * args.horizon
    if args.minibatch_size % args.horizon or args.minibatch_size > batch:
        raise UsageError(
            f"--minibatch-size: {args.minibatch_size} must be a multiple of --horizon "
            f"{args.horizon} and at most the batch, {rows} rows x {args.horizon} = {batch}"
        )
    if args.minibatch_size // args.horizon % processes:
        raise UsageError(
            f"--minibatch-size: {args.minibatch_size} is {args.minibatch_size // args.horizon} segments of "
            f"{args.horizon}, which cannot be split evenly between {processes} processes"
        )
    sizes = getattr(actions, "nvec", getattr(actions, "n", math.prod(actions.shape)))
    outputs = int(np.sum(sizes))
    batch = round(batch * (1 + args.replay_factor))
    needed = batch * (space.dtype.itemsize * math.prod(space.shape) + 38)  # experience
    needed += batch * 16 * outputs  # noise and outputs
    needed += args.hidden_size * (16 * rows + 128 * args.hidden_size)  # states; weights, momenta
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    memory = torch.cuda.mem_get_info(args.device)[1] * processes if on_gpu else memory
    if needed > memory:
        raise UsageError(
            f"--num-envs: {args.num_envs} with --horizon {args.horizon}, --hidden-size "
            f"{args.hidden_size} needs {needed / 2**30:.0f} GB; here are {memory / 2**30:.0f}"
        )
