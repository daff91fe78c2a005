"""Cartpole beside Gymnasium's CartPole-v1."""

import math
import sysconfig

import gymnasium
import numpy as np
import pytest

import build
import envs
from envs.vector import VecEnv

COPIES = 64


def started(**config) -> VecEnv:
    env = envs.make("cartpole", COPIES, config=config)
    env.reset(seed=1)
    return env


def balance(observations: np.ndarray) -> np.ndarray:
    """Actions that keep the pole up and the cart near the middle."""
    return (observations @ [0.1, 0.2, 1, 0.5] > 0).astype(int)


@pytest.fixture
def step_in_doubles(monkeypatch):
    """A step of the game's C compiled for doubles: changes the state [4]."""
    monkeypatch.setenv("CC", f"{sysconfig.get_config_var('CC')} -DCARTPOLE_DOUBLE")
    numbers = ("position", "velocity", "angle", "angular_velocity")
    library = build.load(
        "cartpole",
        f"""typedef struct {{ double {", ".join(numbers)}; ...; }} Cartpole;
        void cartpole_move(Cartpole *, double force);""",
    )
    cartpole = library.ffi.new("Cartpole *")

    def step(state: np.ndarray, action: int) -> None:
        for name, number in zip(numbers, state, strict=True):
            setattr(cartpole, name, number)
        library.lib.cartpole_move(cartpole, 10 if action else -10)
        state[:] = [getattr(cartpole, name) for name in numbers]

    return step


def test_whole_episodes_in_doubles(step_in_doubles):
    """From Gymnasium's starts with its actions, until it says that the pole has fallen."""
    original = gymnasium.make("CartPole-v1").unwrapped
    rng = np.random.default_rng(0)
    lengths = []
    for episode in range(200):
        original.reset(seed=episode)
        state, terminated, length = original.state.copy(), False, 0
        while not terminated:
            action = int(rng.integers(2))
            step_in_doubles(state, action)
            terminated = original.step(action)[2]
            length += 1
            np.testing.assert_allclose(state, original.state, rtol=0, atol=1e-10)
        lengths.append(length)
    assert 15 < np.mean(lengths) < 30 and max(lengths) > 50


def test_balanced_episodes_in_doubles(step_in_doubles):
    """An upright pole multiplies any difference by e every quarter of a second, so 500 steps make it e^40
    times as large, and rounding alone would be all one sees: every 100 steps both go on from one state."""
    original = gymnasium.make("CartPole-v1").unwrapped
    for episode in range(5):
        original.reset(seed=episode)
        for step in range(500):
            if step % 100 == 0:
                state = original.state.copy()
            action = int(balance(original.state))
            step_in_doubles(state, action)
            assert not original.step(action)[2]
            np.testing.assert_allclose(state, original.state, rtol=0, atol=1e-10)


@pytest.mark.parametrize("policy", ["random", "balance"])
def test_each_step_in_floats(policy):
    """One step from equal states differs by rounding alone: one of each number, and 0.02 seconds times some
    ten of terms of an acceleration, none of which exceeds 20; together |number| + 4 times 2^-24."""
    env, original = started(), gymnasium.make("CartPole-v1").unwrapped
    rng = np.random.default_rng(0)
    original.reset()
    falls = 0
    for _ in range(150):
        states = env.observations.astype(float)
        actions = rng.integers(0, 2, COPIES) if policy == "random" else balance(states)
        _, rewards, terminals, truncations, _ = env.step(actions)
        assert (rewards == 1).all() and not truncations.any()
        for copy, state in enumerate(states):
            original.state, original.steps_beyond_terminated = state, None
            terminated = original.step(int(actions[copy]))[2]
            assert terminals[copy] == terminated
            falls += terminated
            if not terminated:
                error = np.abs(env.observations[copy] - original.state)
                assert (error <= (np.abs(original.state) + 4) * 2**-24).all(), error
    assert falls > 300 if policy == "random" else falls == 0


def test_starts_are_spread_like_gymnasiums():
    env = envs.make("cartpole", 20_000)
    starts = env.reset(seed=0)[0] / 0.05
    assert np.abs(starts).max() <= 1
    assert np.abs(starts.mean(0)).max() < 5 / math.sqrt(3 * 20_000)  # five standard deviations
    np.testing.assert_allclose((starts**2).mean(0), 1 / 3, rtol=0.05)
    assert np.abs(np.corrcoef(starts.T) - np.eye(4)).max() < 5 / math.sqrt(20_000)


@pytest.mark.parametrize("side", [-1, 1])
def test_the_track_ends_on_both_sides(side):
    """A pole kept leaning to one side takes the cart there, off the track before the pole falls."""
    env = started()
    last, ended = np.zeros(COPIES), np.zeros(COPIES, bool)
    for _ in range(300):
        position, _, angle, spin = env.observations.copy().T
        terminals = env.step((angle + 0.5 * spin > 0.1 * side).astype(int))[2]
        last = np.where(terminals & ~ended, position * side, last)
        ended |= terminals
    assert ended.all() and (last > 2.2).all() and (last <= 2.4).all()


def test_cut_and_log():
    env = started()
    for step in range(1, 501):
        old = env.observations.copy()
        observations, _, terminals, truncations, infos = env.step(balance(old))
        assert not terminals.any() and truncations.all() == (step == 500)
    assert (np.abs(infos["final_obs"] - old) < 0.5).all() and (infos["final_obs"] != observations).all()
    log = env.log()
    assert log["score"] == log["episode_length"] == 500 and log["perf"] == 1 and log["n"] == COPIES
    assert log["episode_return"] == pytest.approx(500)


def test_a_fall_on_the_last_step_is_no_cut():
    env = started()
    falls = np.zeros(COPIES, int)  # the step at which each copy falls when it is pushed to one side only
    for step in range(1, 31):
        terminals = env.step(np.ones(COPIES, int))[2]
        falls[terminals & (falls == 0)] = step
    last = int(np.median(falls))
    env = started(max_steps=last)
    for _ in range(last):
        terminals, truncations = env.step(np.ones(COPIES, int))[2:4]
    np.testing.assert_array_equal(terminals, falls == last)
    np.testing.assert_array_equal(truncations, falls > last)
    assert terminals.any() and truncations.any()
