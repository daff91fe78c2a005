"""The tuner as a library: spaces, constraints, space files."""

import json
import math
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import envs
import sweep
from cleanpuffer import Args
from settings import choose_sizes, parse_arguments

ROOT = Path(__file__).resolve().parent.parent
LEARNING_RATE = {"distribution": "log_normal", "min": 1e-5, "max": 0.1, "mean": 0.01, "scale": "auto"}
SPACE = {
    "learning_rate": LEARNING_RATE,
    "gamma": {"distribution": "logit_normal", "min": 0.8, "max": 0.9999, "mean": 0.98, "scale": 0.5},
    "vf_coef": {"distribution": "uniform", "min": 0, "max": 5, "mean": 2, "scale": "auto"},
    "layers": {"distribution": "int_uniform", "min": 1, "max": 6, "mean": 2, "scale": "auto"},
    "batch": {"distribution": "uniform_pow2", "min": 512, "max": 65536, "mean": 2048, "scale": "auto"},
    "steps": {
        "distribution": "log_normal",
        "min": 10_000,
        "max": 10_240_000,
        "mean": 100_000,
        "scale": "time",
    },
}


def space(**changes) -> sweep.Space:
    return sweep.Space({"learning_rate": LEARNING_RATE | changes})


def test_round_trips_stay_inside_the_bounds():
    """Unit space to parameters and back, ends included; integers are integers, powers of two are such."""
    s = sweep.Space(SPACE)
    generator = np.random.default_rng(0)
    points = generator.uniform(-1.2, 1.2, (300, len(s.names)))
    points[0], points[1] = -1, 1
    for unit in points:
        params = s.from_unit(unit)
        assert list(params) == s.names
        for name, value in params.items():
            p = SPACE[name]
            assert type(value) in (int, float) and p["min"] <= value <= p["max"], (name, value)
        assert all(type(params[name]) is int for name in ("layers", "batch", "steps"))
        assert math.log2(params["batch"]) % 1 == 0
        back = s.to_unit(params)
        coarse = np.isin(s.names, ["layers", "batch"])
        assert np.all(np.abs(back - np.clip(unit, -1, 1))[~coarse] < 2e-4)
        assert s.from_unit(back) == params
        assert np.allclose(s.snap(unit.clip(-1, 1))[coarse], back[coarse], atol=1e-12)
    assert np.all(
        s.snap(points.clip(-1, 1))[:, ~np.isin(s.names, ["layers", "batch", "steps"])]
        == points.clip(-1, 1)[:, ~np.isin(s.names, ["layers", "batch", "steps"])]
    )
    assert s.from_unit(points[0]) == {name: p["min"] for name, p in SPACE.items()}
    assert s.from_unit(points[1]) == {name: p["max"] for name, p in SPACE.items()}


def test_the_centre_is_the_centre():
    s = sweep.Space(SPACE)
    assert s.from_unit(s.centre) == {name: p["mean"] for name, p in SPACE.items()}
    assert np.allclose(s.to_unit({name: p["mean"] for name, p in SPACE.items()}), s.centre)
    assert np.allclose(s.scale, [1, 0.5, 1, 1, 1, 0.1])  # 10 doublings


def test_equal_steps_are_equal_ratios():
    """Of the value in a log space, of 1 - x in a logit space (a past bug took the logit twice)."""
    s = sweep.Space({"x": LEARNING_RATE, "gamma": SPACE["gamma"] | {"min": 0.9, "max": 0.999, "mean": 0.99}})
    assert s.from_unit(np.zeros(2)) == pytest.approx({"x": 1e-3, "gamma": 0.99})
    assert s.from_unit(np.array([0.5, 0.5]))["gamma"] > s.from_unit(np.array([0.5, -0.5]))["gamma"]


def test_values_on_a_bound_and_outside():
    """A bound itself is inside (it was once refused); what was run outside counts as the bound."""
    s = space()
    assert s.to_unit({"learning_rate": 0.1}) == 1 and s.to_unit({"learning_rate": 1e-5}) == -1
    assert s.to_unit({"learning_rate": 7.0}) == 1 and s.to_unit({"learning_rate": 0}) == -1
    assert s.from_unit(np.array([np.nextafter(1, 2)]))["learning_rate"] == 0.1
    s = space(min=1 / 3, max=2 / 3, mean=0.5)  # rounding does not lead outside
    assert (
        s.from_unit(-np.ones(1))["learning_rate"] == 1 / 3
        and s.from_unit(np.ones(1))["learning_rate"] == 2 / 3
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"distribution": "lognormal"}, "unknown distribution 'lognormal'"),
        ({"distribution": ["uniform"]}, "unknown distribution"),
        ({"minimum": 1}, "minimum"),
        ({"min": "0.1"}, "min '0.1'"),
        ({"min": True}, "min True"),
        ({"max": math.nan}, "max nan"),
        ({"max": math.inf}, "max inf"),
        ({"max": 10**400}, "max 1000"),
        ({"min": 0.2}, "min 0.2 is not below max 0.1"),
        ({"min": 0.1}, "min 0.1 is not below max 0.1"),
        ({"mean": 0.2}, "mean 0.2"),
        ({"mean": 1e-6}, "mean 1e-06"),
        ({"min": 0}, "min 0 is not above 0"),
        ({"min": -1.0}, "min -1.0 is not above 0"),
        ({"scale": 0}, "scale 0"),
        ({"scale": "wide"}, "scale 'wide'"),
        ({"distribution": "logit_normal", "max": 1.0}, "max 1.0"),
        ({"distribution": "logit_normal", "min": 0.0}, "min 0.0"),
        (
            {"distribution": "uniform_pow2", "min": 500, "max": 1024, "mean": 512},
            "min 500 is not a power of 2",
        ),
        ({"distribution": "uniform_pow2", "min": 0.5, "max": 1024, "mean": 512}, "min 0.5"),
        ({"distribution": "uniform_pow2", "min": 0, "max": 1024, "mean": 512}, "min 0"),
        ({"distribution": "int_uniform", "min": 1.5, "max": 4, "mean": 2}, "min 1.5 is not a whole number"),
        ({"distribution": "uniform", "min": -1, "scale": "time"}, "scale"),
    ],
)
def test_a_wrong_parameter_is_one_clear_line(changes, message):
    with pytest.raises(ValueError) as error:
        space(**changes)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith("learning_rate: ")


@pytest.mark.parametrize("parameters", [{}, [], None, {"x": 3}, {"x": {"min": 1}}])
def test_a_space_must_be_a_table_of_tables(parameters):
    with pytest.raises(ValueError):
        sweep.Space(parameters)


@pytest.mark.parametrize("value", [None, "0.1", math.nan, True])
def test_what_is_no_number_has_no_place(value):
    with pytest.raises(ValueError, match="learning_rate"):
        space().to_unit({"learning_rate": value})


SIZES = {
    "num_envs": {"distribution": "uniform_pow2", "min": 1, "max": 4096, "mean": 256},
    "horizon": {"distribution": "uniform_pow2", "min": 8, "max": 256, "mean": 64},
    "minibatch_size": {"distribution": "uniform_pow2", "min": 8, "max": 65536, "mean": 2048},
    "gamma": SPACE["gamma"],
}


def test_suggestions_that_break_a_constraint_are_moved_just_enough():
    limits = ["minibatch_size <= num_envs * horizon * agents", "minibatch_size % horizon == 0"]
    s = sweep.Space(SIZES, [*limits, "num_envs + horizon < 2000"], {"agents": 2})
    moved = 0
    for unit in np.random.default_rng(1).uniform(-1, 1, (500, 4)):
        params, free = s.from_unit(unit), s.rounded(unit)
        n, h, m = params["num_envs"], params["horizon"], params["minibatch_size"]
        assert m <= n * h * 2 and m % h == 0 and n + h < 2000
        assert params["gamma"] == free["gamma"]  # no constraint names it
        if params != free:
            moved += 1
            assert s.broken(free)
            toward = np.abs(s.to_unit(params) - s.centre) <= np.abs(s.to_unit(free) - s.centre) + 1e-9
            assert toward.all()
    assert 50 < moved < 450


def test_a_repair_stops_where_the_constraint_begins_to_hold():
    s = sweep.Space({"x": SPACE["vf_coef"], "y": SPACE["vf_coef"]}, ["x + y <= 6"])
    params = s.from_unit(np.array([1.0, 1.0]))
    assert 5.999 < params["x"] + params["y"] <= 6


@pytest.mark.parametrize(
    "text",
    [
        "x <",
        "f(x) > 1",
        "x.real > 0",
        "x[0] > 1",
        "[x] == 1",
        "x if x else x",
        "'a' < x",
        "x in x",
        "x is x",
        "x > 0 and (x := 3)",
        "lambda: x",
        "x > 0 and x.real > 1",
        3,
    ],
)
def test_constraints_hold_arithmetic_and_nothing_else(text):
    with pytest.raises(ValueError):
        sweep.Space({"x": SPACE["vf_coef"], "f": SPACE["vf_coef"]}, [text])


@pytest.mark.parametrize(
    "text", ["x > 3", "x / (x - x) > 1 and x < 1", "9 ** 9 ** 9 ** 9 < x", "x ** 0.5 > 2 * x"]
)
def test_the_centre_must_satisfy_the_constraints(text):
    with pytest.raises(ValueError, match="centre"):
        sweep.Space({"x": SPACE["vf_coef"]}, [text])


@pytest.mark.parametrize(
    "text",
    [
        "1 <= x <= 2",
        "x == 2 or x > 3",
        "x // 2 == 1 and x % 2 == 0",
        "x ** 2 / 2 + 1 - 1 >= 2",
        "x != 3",
        "-1 < -x + 2",
    ],
)
def test_constraints_of_all_kinds(text):
    sweep.Space({"x": SPACE["vf_coef"]}, [text])


def test_a_constraint_without_its_names_is_left_out():
    s = sweep.Space({"x": SPACE["vf_coef"]}, ["x < y", "x < 10"])
    assert s.dropped == ["x < y"] and len(s.constraints) == 1


def configured(*arguments: str) -> sweep.Sweep:
    options, fixed = sweep.parse(list(arguments))
    limits = dict.fromkeys(sweep.LIMITS) | {"workers": 1}
    return sweep.Sweep(Path("none"), sweep.configure(options, fixed) | limits)


@pytest.mark.parametrize(
    "name", [path.stem for path in (ROOT / "spaces").glob("*.toml") if path.stem != "default"]
)
def test_the_search_begins_at_what_the_trainer_does(name):
    """Every space's centre holds its constraints and is the trainer's default on a processor. An environment
    without a file of its own is searched from the global defaults."""
    s = configured("--env", name).space
    defaults = parse_arguments(["--env", name, "--device", "cpu"], Args)
    choose_sizes(defaults)
    assert s.from_unit(s.centre) == {parameter: getattr(defaults, parameter) for parameter in s.names}
    agents = envs.resolve(name, defaults.env_config)[1]
    assert s.constants["agents"] == agents
    assert not s.dropped


def test_every_space_file_is_of_an_environment():
    for path in (ROOT / "spaces").glob("*.toml"):
        assert path.stem in ("default", *envs.names())
        tomllib.loads(path.read_text())


def test_suggestions_of_the_default_space_are_taken_by_the_trainer():
    for name in ("pong", "snake", "go"):
        s = configured("--env", name).space
        for unit in np.random.default_rng(2).uniform(-1, 1, (20, len(s.names))):
            words = [f"--{key}={value}" for key, value in s.from_unit(unit).items()]
            choose_sizes(parse_arguments(["--env", name, "--device", "cpu", *words], Args))


def test_runs_are_as_long_as_two_episodes():
    """In a maze only those that reach the goal end before the limit of 200 steps."""
    s = configured("--env", "maze").space
    for unit in np.random.default_rng(3).uniform(-1, 1, (50, len(s.names))):
        params = s.from_unit(unit)
        assert params["total_timesteps"] >= 400 * params["num_envs"]


def test_foreign_environments_take_the_default_space():
    assert configured("--env", "gym:CartPole-v1").space.names == configured("--env", "pong").space.names


def test_only_fix_and_ranges():
    s = configured("--env=pong", "--only=learning_rate,gamma", "--only=clip_coef", "--fix", "gamma=0.9").space
    assert s.names == ["learning_rate", "clip_coef"]
    s = configured("--env=pong", "--range", "gamma=0.9:0.95:0.99", "--range=beta1=0.95").space
    assert [s.parameters["gamma"][key] for key in ("min", "mean", "max")] == [0.9, 0.95, 0.99]
    assert s.parameters["beta1"]["mean"] == 0.95 and s.parameters["beta1"]["max"] == 0.999
    steps = configured("--env=pong", "--range=total_timesteps=1e6:2e6:4e6").space.parameters[
        "total_timesteps"
    ]
    assert steps["whole"] and steps["max"] == 4_000_000
    s = configured("--env=pong", "--num-envs", "16", "--range=minibatch_size=512:1024:32768").space
    assert "num_envs" not in s.names and len(s.constraints) == 4  # a fixed size counts in constraints
    assert s.from_unit(np.ones(len(s.names)))["minibatch_size"] <= 16 * 256


@pytest.mark.parametrize("constraint", ["learning_rate <= Y", "max(gamma, 0.5) <= 1"])
def test_a_constraint_of_unknown_names_is_refused(constraint, tmp_path):
    (tmp_path / "x.toml").write_text(
        f"learning_rate = {json.dumps(LEARNING_RATE)}\ngamma = {json.dumps(SPACE['gamma'])}\n".replace(
            ":", "="
        )
        + f'constraints = ["{constraint}"]\n'
    )
    with pytest.raises(ValueError, match="is no parameter, nor fixed, nor a constant"):
        configured("--space", str(tmp_path / "x.toml"))


def test_a_mistyped_option_is_not_the_trainers():
    with pytest.raises(ValueError, match="--max-second: is it --max-seconds"):
        sweep.parse(["--env", "pong", "--max-second", "10"])


def test_too_little_memory_is_seen_before_a_trial_starts(monkeypatch):
    monkeypatch.setattr(
        sweep.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**18}[name]
    )
    s = configured("--env", "breakout").space  # in 1 GiB
    for unit in np.random.default_rng(3).uniform(0, 1, (50, len(s.names))):
        params = s.from_unit(unit)
        assert params["num_envs"] * params["horizon"] * (472 + 150) < 2**30 - 500e6


def test_the_library_needs_neither_trainer_nor_torch():
    code = "import sweep, sys; print({'torch', 'pyro', 'rich', 'cleanpuffer', 'envs'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
