"""VecEnv: the Gymnasium API, threads and groups, errors, and that a new environment is two files, no more."""

import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import envs
from envs.vector import VecEnv

ROOT = Path(__file__).resolve().parent.parent
RETURNED = ("observations", "rewards", "terminals", "truncations")


@pytest.fixture
def env() -> VecEnv:
    """Six copies of Squared in two groups, some of whose episodes are cut at 9 steps."""
    made = envs.make("squared", 6, seed=1, groups=2, config={"size": 5, "max_steps": 9})
    made.reset()
    return made


def sample(env: VecEnv, steps: int) -> np.ndarray:
    """Random actions [steps, rows, …], the same for the same rows."""
    env.action_space.seed(0)
    return np.stack([env.action_space.sample() for _ in range(steps)])


def test_attributes():
    made = envs.make("squared", 6, groups=2, config={"size": 5})
    assert isinstance(made, VectorEnv)
    assert (made.num_envs, made.copies, made.agents, made.num_groups) == (6, 6, 1, 2)
    assert made.config == {"size": 5, "max_steps": 44}
    assert made.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert made.single_observation_space.shape == (5, 5) and made.observation_space.shape == (6, 5, 5)
    assert made.single_action_space.n == 5 and made.action_space.shape == (6,)
    assert [made.rows(group) for group in range(2)] == [slice(0, 3), slice(3, 6)]


@pytest.mark.parametrize("name", envs.names())
def test_reset_and_step(name):
    env = envs.make(name, 4, seed=1)
    observations, infos = env.reset()
    assert observations in env.observation_space and infos == {}
    env.action_space.seed(0)
    observations, rewards, terminals, truncations, infos = env.step(env.action_space.sample())
    assert observations.shape == env.observation_space.shape
    assert observations.dtype == env.observation_space.dtype
    for array, dtype in ((rewards, np.float32), (terminals, np.bool_), (truncations, np.bool_)):
        assert array.shape == (env.num_envs,) and array.dtype == dtype
    assert isinstance(infos, dict)


# Threads and groups: they may change how long a step takes, and nothing else.


def step_all(env: VecEnv, actions: np.ndarray) -> None:
    env.step(actions)


def step_groups(env: VecEnv, actions: np.ndarray) -> None:
    for group in reversed(range(env.num_groups)):
        env.step(actions[env.rows(group)], group)


def step_groups_on_threads(env: VecEnv, actions: np.ndarray) -> None:
    with ThreadPoolExecutor(env.num_groups) as pool:
        groups = range(env.num_groups)
        list(pool.map(lambda group: env.step(actions[env.rows(group)], group), groups))


def send_all_then_receive(env: VecEnv, actions: np.ndarray) -> None:
    for group in range(env.num_groups):
        env.send(actions[env.rows(group)], group)
    for _ in range(env.num_groups):
        env.recv()


def story(env: VecEnv, drive: Any, steps: int) -> list[bytes]:
    env.reset(seed=3)
    rows = []
    for actions in sample(env, steps):
        drive(env, actions)
        arrays = [getattr(env, name) for name in RETURNED] + [env.final_observations[env.truncations]]
        rows.append(b"".join(array.tobytes() for array in arrays))
    return rows


@pytest.mark.parametrize("name", envs.names())
def test_threads_and_groups_change_nothing(name):
    config = {"max_steps": 9} if "max_steps" in envs.spec(name).config else {}
    expected = story(envs.make(name, 12, config=config), step_all, 60)
    for threads in (1, 2, 3):
        for groups in (1, 2, 4):
            env = envs.make(name, 12, num_threads=threads, groups=groups, config=config)
            for drive in (step_all, step_groups, step_groups_on_threads, send_all_then_receive):
                assert story(env, drive, 60) == expected, (threads, groups, drive.__name__)
            env.close()


def test_more_threads_than_copies():
    expected = story(envs.make("pong", 2), step_all, 50)
    assert story(envs.make("pong", 2, num_threads=5), step_all, 50) == expected


def test_groups_can_be_out_of_step():
    """A rollout that keeps one group flying: each group still sees its own story only."""
    actions = sample(envs.make("pong", 6), 40)
    whole, parts = envs.make("pong", 6), envs.make("pong", 6, groups=2)
    whole.reset(seed=3)
    parts.reset(seed=3)
    expected = []
    for action in actions:
        expected.append(whole.step(action)[0].copy())
    for group in (0, 1):
        parts.send(actions[0][parts.rows(group)], group)
    for step in range(40):
        for group in (0, 1):
            observations = parts.recv()[0]
            np.testing.assert_array_equal(observations, expected[step][parts.rows(group)])
            if step < 39:
                parts.send(actions[step + 1][parts.rows(group)], group)


def test_recv_gives_what_was_sent_first():
    env = envs.make("pong", 8, groups=4)
    env.reset()
    actions = np.zeros(2, int)

    def received(group: int | None = None) -> int:
        observations = env.recv(group)[0]
        return next(g for g in range(4) if np.shares_memory(observations, env.observations[env.rows(g)]))

    for group in (2, 0, 3, 1):
        env.send(actions, group)
    assert [received(), received()] == [2, 0]
    env.send(actions, 2)
    assert [received(), received(), received()] == [3, 1, 2]
    for group in (0, 1, 2):
        env.send(actions, group)
    assert [received(1), received(), received()] == [1, 0, 2]


def test_what_a_group_returns_are_its_rows(env):
    for actions in sample(env, 30):
        for group in range(2):
            rows = env.rows(group)
            *returned, infos = env.step(actions[rows], group)
            for name, array in zip(RETURNED, returned, strict=True):
                np.testing.assert_array_equal(array, getattr(env, name)[rows])
            assert bool(infos) == env.truncations[rows].any()
            if infos:
                np.testing.assert_array_equal(infos["final_obs"], env.final_observations[rows])
                np.testing.assert_array_equal(infos["_final_obs"], env.truncations[rows])


def test_log_of_some_copies():
    env = envs.make("bandit", 6)
    env.reset()
    for _ in range(5):
        env.step(np.zeros(6, int))
    assert [env.log(0, 2)["n"], env.log(0, 3)["n"], env.log()["n"]] == [10, 5, 15]


# Memory: views on what C writes, unless copies are asked for.


def test_no_copies(env):
    assert env.reset()[0] is env.observations
    for actions in sample(env, 20):
        *returned, infos = env.step(actions)
        for name, array in zip(RETURNED, returned, strict=True):
            assert np.shares_memory(array, getattr(env, name)) and array.shape == getattr(env, name).shape
        if infos:
            assert np.shares_memory(infos["final_obs"], env.final_observations)


def test_copies_are_kept():
    env = envs.make("squared", 6, copy=True, config={"size": 5, "max_steps": 9})
    observations, _ = env.reset(seed=1)
    kept, then = [[observations]], [[observations.copy()]]
    for actions in sample(env, 20):
        *arrays, infos = env.step(actions)
        kept.append(arrays + list(infos.values()))
        then.append([array.copy() for array in kept[-1]])
        assert not any(np.shares_memory(array, getattr(env, name)) for array in kept[-1] for name in RETURNED)
        assert not any(np.shares_memory(array, env.final_observations) for array in kept[-1])
    assert any(len(arrays) == 6 for arrays in kept)  # with final observations
    for arrays, before in zip(kept, then, strict=True):
        for array, copy in zip(arrays, before, strict=True):
            np.testing.assert_array_equal(array, copy)


def test_infos_are_fresh(env):
    seen = []
    for actions in sample(env, 20):
        infos = env.step(actions)[4]
        assert "mine" not in infos and all(infos is not other for other in seen)
        infos["mine"] = 1
        seen.append(infos)


# Actions: what Gymnasium samples and any integers; all else is refused before a copy has moved.


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.uint32, np.int64, np.uint64])
def test_any_integer_type_will_do(env, dtype):
    actions = sample(env, 20)
    expected = story(env, step_all, 20)
    env.reset(seed=3)
    for action, rows in zip(actions, expected, strict=True):
        env.step(action.astype(dtype))
        assert rows.startswith(env.observations.tobytes() + env.rewards.tobytes())


def test_lists_and_strides_will_do(env):
    expected = [
        env.step(np.array([1, 0, 4, 0, 2, 3]))[0].copy(),
        env.step(np.array([1, 1, 2, 2, 3, 3]))[0].copy(),
    ]
    env.reset(seed=1)
    np.testing.assert_array_equal(env.step([1, 0, 4, 0, 2, 3])[0], expected[0])
    np.testing.assert_array_equal(env.step(np.array([[1, 1, 2, 2, 3, 3], [9] * 6]).T[:, 0])[0], expected[1])


@pytest.mark.parametrize(
    "actions, error",
    [
        (np.zeros(6, np.float32), TypeError),
        (np.zeros(6, bool), TypeError),
        (np.array(["up"] * 6), TypeError),
        (np.array([None] * 6), TypeError),
        ([2**70] * 6, TypeError),
        (np.zeros(5, int), ValueError),
        (np.zeros((6, 1), int), ValueError),
        (0, ValueError),
        (None, ValueError),
        ([[0], [0, 1], 0, 0, 0, 0], ValueError),
        (np.array([0, 0, 0, 0, 0, 5]), ValueError),
        (np.array([0, 0, 0, -1, 0, 0]), ValueError),
        (np.array([2**63, 0, 0, 0, 0, 0], np.uint64), ValueError),
        (np.array([0, 0, 2**32, 0, 0, 0]), ValueError),
    ],
)
def test_wrong_actions(actions, error):
    env = envs.make("squared", 6)
    env.reset()
    env.step(np.ones(6, int))
    before = env.save()
    for act in (env.step, env.send):
        with pytest.raises(error, match="actions"):
            act(actions)
    after = env.save()
    for name in before.keys() - {"actions"}:
        np.testing.assert_array_equal(before[name], after[name], name)
    env.step(np.ones(6, int))  # and it goes on


@pytest.fixture
def floats() -> VecEnv:
    """Six copies, in two groups, that take a float from -1 to 1."""
    made = envs.make("pong", 6, seed=1, groups=2, config={"continuous": 1})
    made.reset()
    return made


def test_any_float_type_will_do(floats):
    assert floats.action_space.shape == floats.actions.shape == (6, 1) and floats.actions.dtype == np.float32
    actions = sample(floats, 20).astype(np.float16)
    assert actions.min() < -0.9 and actions.max() > 0.9
    expected = story(floats, step_all, 20)
    for dtype in (np.float16, np.float32, np.float64):
        floats.reset(seed=3)
        for action in actions:
            floats.step(action.astype(dtype))
            np.testing.assert_array_equal(floats.actions, action)
    assert story(floats, step_all, 20) == expected
    for edge in (-1, 1):
        floats.step([[float(edge)]] * 6)


@pytest.mark.parametrize(
    "action, error, words",
    [
        (1, TypeError, "dtype int64, but pong takes floats"),
        (True, TypeError, "dtype bool"),
        (1j, TypeError, "dtype complex128"),
        (1.001, ValueError, r"1.001.* in row 4 is not in Box\(-1.0, 1.0, \(1,\)"),
        (-1.5, ValueError, r"-1.5.* in row 4"),
        (1e30, ValueError, "row 4"),
        (np.nan, ValueError, "nan.* in row 4"),
        (np.inf, ValueError, "inf.* in row 4"),
        (-np.inf, ValueError, "-inf.* in row 4"),
    ],
)
def test_wrong_float_actions(floats, action, error, words):
    before = floats.save()
    actions = np.zeros((6, 1), type(action))
    actions[4] = action
    with pytest.raises(error, match=f"actions: .*{words}"):
        floats.step(actions)
    with pytest.raises(error, match=f"actions: .*{words}"):
        floats.send(actions[3:], 1)
    with pytest.raises(ValueError, match=r"actions: shape \(6,\), but pong takes \(6, 1\)"):
        floats.step(np.zeros(6, np.float32))
    after = floats.save()
    for name in before.keys() - {"actions"}:
        np.testing.assert_array_equal(before[name], after[name], name)


def test_wrong_action_names_row_and_range(env):
    with pytest.raises(ValueError, match=r"actions: 7 in row 4 .*Discrete\(5\)"):
        env.step(np.array([0, 0, 0, 0, 7, 0]))
    with pytest.raises(ValueError, match=r"actions: 7 in row 4"):
        env.send(np.array([0, 7, 0]), 1)


# Misuse.


def test_step_before_reset():
    env = envs.make("pong", 2)
    for act in (env.step, env.send):
        with pytest.raises(RuntimeError, match="reset"):
            act(np.zeros(2, int))


def test_send_and_recv_out_of_order(env):
    actions = np.zeros(3, int)
    with pytest.raises(RuntimeError, match="recv: nothing was sent"):
        env.recv()
    env.send(actions, 0)
    with pytest.raises(RuntimeError, match=r"send: group 0 was sent already"):
        env.send(actions, 0)
    with pytest.raises(RuntimeError, match="recv"):
        env.recv(1)
    env.recv()
    with pytest.raises(RuntimeError, match="recv: nothing was sent"):
        env.recv()


def test_groups_that_are_out_must_come_back_first(env):
    saved = env.save()
    env.send(np.zeros(3, int), 1)
    for name, act in {
        "step": lambda: env.step(np.zeros(6, int)),
        "reset": lambda: env.reset(),
        "save": lambda: env.save(),
        "load": lambda: env.load(saved),
    }.items():
        with pytest.raises(RuntimeError, match=f"{name}: receive every group"):
            act()
    env.recv()
    env.step(np.zeros(6, int))


@pytest.mark.parametrize("group", [2, -1, 7])
def test_no_such_group(env, group):
    for act in (lambda: env.step(np.zeros(3, int), group), lambda: env.send(np.zeros(3, int), group)):
        with pytest.raises(ValueError, match="group"):
            act()


def test_closed_twice_and_threads_end():
    before = threading.active_count()
    env = envs.make("pong", 20_000, num_threads=3, groups=2, config={"frameskip": 64})
    env.reset()
    env.step(np.zeros(20_000, int))
    env.send(np.zeros(10_000, int), 1)  # takes milliseconds, so it is still out when it closes
    assert threading.active_count() == before + 3
    env.close()
    assert threading.active_count() == before
    env.close()


# These two run in processes of their own, which C may well end if it gets to see what it should not.


def assert_silent(script: str) -> None:
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_forgotten_without_close():
    assert_silent("""
import threading
import numpy as np, envs
for _ in range(5):
    env = envs.make("pong", 20_000, num_threads=3, config={"frameskip": 64})
    env.reset()
    env.send(np.zeros(20_000, int))
    del env  # while its threads step
    if threading.active_count() > 1:
        print(threading.active_count(), "threads")
env = envs.make("pong", 20_000, num_threads=3, config={"frameskip": 64})
env.reset()
env.send(np.zeros(20_000, int))  # and Python ends
""")


def test_bad_calls_never_reach_c():
    assert_silent("""
import numpy as np, envs
env = envs.make("squared", 4)
env.reset()
calls = {
    "log: end": lambda: env.log(0, 10_000_000),
    "log: start": lambda: env.log(-10_000_000, 4),
    "render: copy": lambda: env.render(4),
    "closed: step": lambda: env.step(np.zeros(4, int)),
    "closed: send": lambda: env.send(np.zeros(4, int)),
    "closed: reset": lambda: env.reset(),
    "closed: log": lambda: env.log(),
    "closed: render": lambda: env.render(),
    "closed: save": lambda: env.save(),
    "closed: load": lambda: env.load(saved),
}
saved = env.save()
for name, call in calls.items():
    if name.startswith("closed"):
        env.close()
    try:
        call()
        print(name, "was taken")
    except (ValueError, RuntimeError):
        pass
""")


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ({"name": "pnog"}, ValueError, "did you mean pong"),
        ({"num_envs": 0}, ValueError, "num_envs: 0 is not between 1"),
        ({"num_envs": 2.0}, TypeError, "num_envs: 2.0 is no integer"),
        ({"num_envs": True}, TypeError, "num_envs: True is no integer"),
        ({"num_envs": 5, "groups": 2}, ValueError, r"num_envs \(5\) must be a multiple of groups \(2\)"),
        ({"groups": 0}, ValueError, "groups: 0"),
        ({"num_threads": 0}, ValueError, "num_threads: 0"),
        ({"seed": -1}, ValueError, "seed: -1"),
        ({"seed": 2**63}, ValueError, "seed: 9223372036854775808"),
        ({"seed": 1.5}, TypeError, "seed: 1.5"),
        ({"seed": None}, TypeError, "seed: None"),
        ({"config": {"ball_sped": 1.0}}, ValueError, "config: pong has no 'ball_sped'; it has .*ball_speed"),
        ({"config": {"frameskip": 0}}, ValueError, "config frameskip: 0 is not between 1 and 64"),
        ({"config": {"frameskip": 65}}, ValueError, "config frameskip: 65"),
        ({"config": {"frameskip": 1.0}}, TypeError, "config frameskip: 1.0 is no integer"),
        ({"config": {"frameskip": True}}, TypeError, "config frameskip: True"),
        ({"config": {"ball_speed": "fast"}}, TypeError, "config ball_speed: 'fast' is no number"),
        ({"config": {"ball_speed": None}}, TypeError, "config ball_speed: None"),
        ({"config": {"ball_speed": 99}}, ValueError, "config ball_speed: 99 is not between 0.5 and 4.0"),
        ({"config": {"ball_speed": float("nan")}}, ValueError, "config ball_speed: nan"),
        ({"config": {"ball_speed": float("inf")}}, ValueError, "config ball_speed: inf"),
        ({"config": [("frameskip", 1)]}, TypeError, "config"),
        ({"config": "frameskip=1"}, TypeError, "config"),
    ],
)
def test_wrong_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        envs.make(**{"name": "pong", "num_envs": 4} | arguments)


@pytest.mark.parametrize(
    "seed, error", [(-1, ValueError), (2**63, ValueError), (0.5, TypeError), ("1", TypeError)]
)
def test_reset_with_a_wrong_seed(env, seed, error):
    before = env.save()
    with pytest.raises(error, match="seed"):
        env.reset(seed=seed)
    assert all(np.array_equal(before[name], array) for name, array in env.save().items())


def test_reset_takes_no_options(env):
    with pytest.raises(ValueError, match="options"):
        env.reset(options={"reset_mask": np.ones(6, bool)})


def test_numbers_of_numpy_will_do():
    config = {"frameskip": np.int64(2), "ball_speed": np.float32(2.5), "ball_spin": 1}
    env = envs.make("pong", np.int64(4), seed=np.uint32(3), config=config)
    env.reset(seed=np.int64(4))
    assert env.config["frameskip"] == 2 and env.config["ball_speed"] == 2.5 and env.config["ball_spin"] == 1


def test_resolve():
    assert envs.resolve("squared") == ({"size": 11, "max_steps": 44}, 1)
    assert envs.resolve("squared", {"size": 5}) == ({"size": 5, "max_steps": 44}, 1)
    with pytest.raises(ValueError, match="did you mean pong"):
        envs.resolve("pnog")
    for config, error in (
        ({"nonsense": 1}, ValueError),
        ({"frameskip": 0.5}, TypeError),
        (["frameskip"], TypeError),
    ):
        with pytest.raises(error, match="config"):
            envs.resolve("pong", config)


def test_saved_state_of_something_else_is_refused():
    saved = envs.make("memory", 4).save()
    for other in (
        envs.make("memory", 5),
        envs.make("pong", 4),
        envs.make("bandit", 4, config={"arms": 4}),  # every array of the same shape
        envs.make("memory", 4, config={"length": 3}),
    ):
        with pytest.raises(ValueError, match="saved state"):
            other.load(saved)
    env = envs.make("memory", 4)
    with pytest.raises(ValueError, match="saved state"):
        env.load({name: array for name, array in saved.items() if name != "rewards"})
    with pytest.raises(ValueError, match="saved state"):
        env.load(saved | {"states": saved["states"].astype(np.float64)})
    env.load(saved)


# Callers who know Gymnasium and nothing of this project.


def collect(env: VectorEnv, steps: int) -> dict[str, Any]:
    """The rollout of a plain trainer: next observations as its value targets need them, and episodes."""
    observations, _ = env.reset(seed=7)
    env.action_space.seed(7)
    batches, returns, lengths = [], [], []
    running_return, running_length = np.zeros(env.num_envs), np.zeros(env.num_envs, int)
    for _ in range(steps):
        actions = env.action_space.sample()
        observations = observations.copy()
        next_observations, rewards, terminations, truncations, infos = env.step(actions)
        bootstraps = next_observations.copy()
        if "final_obs" in infos:
            for i in np.flatnonzero(infos["_final_obs"] & truncations):
                bootstraps[i] = infos["final_obs"][i]
        batches.append((observations, actions, rewards.copy(), bootstraps, terminations.copy()))
        running_return += rewards
        running_length += 1
        done = terminations | truncations
        returns += running_return[done].tolist()
        lengths += running_length[done].tolist()
        running_return[done] = 0
        running_length[done] = 0
        observations = next_observations
    env.close()
    return {"batches": batches, "returns": returns, "lengths": lengths}


@pytest.mark.parametrize("name", envs.names())
def test_plain_gymnasium_loop(name):
    env = envs.make(name, max(1, 8 // envs.resolve(name)[1]))
    space = env.single_observation_space
    got = collect(RecordEpisodeStatistics(env), 800)
    assert len(got["returns"]) >= 8
    for observations, _, rewards, bootstraps, _ in got["batches"]:
        assert observations.shape == bootstraps.shape == env.observation_space.shape
        assert all(row in space for row in (*observations, *bootstraps)) and np.isfinite(rewards).all()


def test_the_loop_is_one_that_gymnasium_runs():
    options = {"autoreset_mode": AutoresetMode.SAME_STEP}
    env = gymnasium.make_vec("CartPole-v1", 4, vectorization_mode="sync", vector_kwargs=options)
    assert len(collect(env, 200)["returns"]) > 4


def test_record_episode_statistics():
    env = RecordEpisodeStatistics(envs.make("squared", 8, config={"size": 5, "max_steps": 9}))
    env.reset(seed=1)
    env.action_space.seed(1)
    cut = 0
    for _ in range(200):
        _, rewards, terminals, truncations, infos = env.step(env.action_space.sample())
        done = terminals | truncations
        assert ("episode" in infos) == done.any()
        if done.any():
            np.testing.assert_array_equal(infos["_episode"], done)
            np.testing.assert_array_equal(infos["episode"]["r"][done], rewards[done])
            assert (infos["episode"]["l"][truncations] == 9).all()
            cut += truncations.sum()
    assert cut > 0 and env.episode_count > cut


# A new environment: one header and one Python file, here with several agents to a copy.

TEAM_H = """
#ifndef TEAM_H
#define TEAM_H
#include "env.h"

typedef struct TeamConfig {
    int members;
    int max_steps;
} TeamConfig;

typedef struct TeamLog {
    float score;
    float perf;
    float episode_return;
    float episode_length;
    float n;
} TeamLog;

typedef struct Team {
    Rng rng;
    int number, steps;
    float episode_return; // of the first member
    TeamLog log;
} Team;

static inline int team_agents(const TeamConfig *config) { return config->members; }
static inline int team_observation_bytes(const TeamConfig *config) {
    (void)config;
    return 4 * (int)sizeof(int16_t);
}

static inline void team_init(Team *team, const TeamConfig *config, Rng rng) {
    (void)config;
    team->rng = rng;
}

static inline void team_observe(const Team *team, const TeamConfig *config, void *rows) {
    int16_t *observations = rows;
    for (int i = 0; i < config->members; i++) {
        observations[4 * i] = (int16_t)team->number;
        observations[4 * i + 1] = (int16_t)i;
        observations[4 * i + 2] = (int16_t)(team->number + i);
        observations[4 * i + 3] = (int16_t)(team->number - i);
    }
}

static inline void team_reset(Team *team, const TeamConfig *config, Rows rows) {
    team->number = rng_int(&team->rng, 9000);
    team->steps = 0;
    team->episode_return = 0;
    team_observe(team, config, rows.observations);
}

// Everyone gets its own action's numbers, the first times ten, plus its index times a hundred.
static inline void team_step(Team *team, const TeamConfig *config, Rows rows) {
    const int64_t *actions = rows.actions;
    const int end = rng_int(&team->rng, 10) == 0, cut = !end && ++team->steps >= config->max_steps;
    for (int i = 0; i < config->members; i++) {
        rows.rewards[i] = (float)(10 * actions[2 * i] + actions[2 * i + 1] + 100 * i);
        rows.terminals[i] = (uint8_t)end;
        rows.truncations[i] = (uint8_t)cut;
    }
    team->number++;
    team->episode_return += rows.rewards[0];
    if (!end && !cut) {
        team_observe(team, config, rows.observations);
        return;
    }
    team->log.score += team->episode_return;
    team->log.perf += 1;
    team->log.episode_return += team->episode_return;
    team->log.episode_length += (float)(team->steps + end);
    team->log.n += 1;
    if (cut) team_observe(team, config, rows.final_observations);
    team_reset(team, config, rows);
}

static inline void team_render(const Team *team, const TeamConfig *config, Frame frame) {
    frame = draw_view(frame, (float)config->members, 1, COLOR_NIGHT);
    draw_rectangle(frame, 0, 0, (float)(team->number % 7 + 1) / 8, 1, COLOR_TEAL);
}

#endif
"""

TEAM_PY = '''
"""Several agents to a copy, whose rows follow each other."""

import numpy as np
from gymnasium.spaces import Box, MultiDiscrete

config = {"members": (3, 1, 8), "max_steps": (12, 1, 1_000_000)}


def observation_space(config: dict) -> Box:
    return Box(-10_000, 10_000, (2, 2), np.int16)


def action_space(config: dict) -> MultiDiscrete:
    return MultiDiscrete([4, 6])


train = {}
solved = 1
fps = 1
'''

TEAM_SCRIPT = """
import numpy as np
import envs

assert envs.resolve("team")[1] == 3 and envs.resolve("team", {"members": 5})[1] == 5
env = envs.make("team", 6, groups=2, num_threads=2)
assert (env.copies, env.agents, env.num_envs) == (6, 3, 18)
assert [env.rows(group) for group in range(2)] == [slice(0, 9), slice(9, 18)]
assert env.action_space.shape == (18, 2) and env.actions.shape == (18, 2)

def of_copies(observations):
    rows = observations.reshape(-1, 3, 4).astype(int)  # [copies, agents, numbers]
    number, index = rows[:, :1, 0], np.arange(3)
    want = np.stack([number + 0 * index, 0 * number + index, number + index, number - index], 2)
    np.testing.assert_array_equal(rows, want)
    return rows[:, 0, 0]

numbers = of_copies(env.reset(seed=1)[0])
assert len(set(numbers)) == 6
ends = cuts = 0
for _ in range(200):
    actions = env.action_space.sample()
    for group in range(2):
        env.send(actions[env.rows(group)], group)
    for group in range(2):
        observations, rewards, terminals, truncations, infos = env.recv()
        mine = actions[env.rows(group)]
        np.testing.assert_array_equal(rewards, 10 * mine[:, 0] + mine[:, 1] + 100 * np.tile(np.arange(3), 3))
        done = (terminals | truncations).reshape(3, 3)
        assert (done.all(1) == done.any(1)).all()
        copies = slice(3 * group, 3 * group + 3)
        now = of_copies(observations)
        np.testing.assert_array_equal(now[~done[:, 0]], numbers[copies][~done[:, 0]] + 1)
        if infos:
            cut = truncations.reshape(3, 3)[:, 0]
            final = infos["final_obs"].reshape(3, 3, 2, 2)[cut]
            np.testing.assert_array_equal(of_copies(final), numbers[copies][cut] + 1)
            cuts += cut.sum()
        numbers[copies] = now
        ends += done[:, 0].sum()
assert env.log()["n"] == ends > cuts > 0

for bad in ([4, 0], [0, 6], [-1, 0]):
    actions = np.zeros((18, 2), int)
    actions[11] = bad
    try:
        env.step(actions)
        raise SystemExit(f"{bad} was taken")
    except ValueError as error:
        assert "in row 11" in str(error), error
"""


def test_a_new_environment_is_one_header_and_one_python_file(checkout):
    (checkout / "ocean_c" / "team.h").write_text(TEAM_H.lstrip())
    (checkout / "envs" / "team.py").write_text(TEAM_PY.lstrip())
    shutil.copy(ROOT / "pyproject.toml", checkout)
    (checkout / "tests").mkdir()
    for file in ("conftest.py", "test_environments.py", "fuzz.py"):
        shutil.copy(ROOT / "tests" / file, checkout / "tests")

    def run(*command: str) -> str:
        done = subprocess.run([sys.executable, *command], cwd=checkout, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("-c", TEAM_SCRIPT)
    # The tests of every environment are now its tests too.
    assert " passed" in run("-m", "pytest", "-n0", "-k", "team", "tests/test_environments.py")


FLOAT_SCRIPT = """
import numpy as np
import envs

env = envs.make("team", 6, groups=2)
env.reset()
low, high = np.float32([[0, -np.inf], [3, 2.5]])
assert env.action_space.shape == (18, 2) and env.actions.dtype == np.float32
for _ in range(20):
    actions = env.action_space.sample()
    rewards = env.step(actions)[1]
    want = 10 * actions[:, 0] + actions[:, 1] + 100 * np.tile(np.arange(3), 6)
    np.testing.assert_allclose(rewards, want, rtol=1e-5)
env.step(np.tile(np.float32([3, -3e38]), (18, 1)))
for bad in ([3.1, 0], [-0.1, 0], [0, 2.6], [0, -np.inf], [0, np.nan]):
    for group in range(2):
        actions = np.zeros((9, 2))
        actions[7] = bad
        try:
            env.step(actions, group)
            raise SystemExit(f"{bad} was taken")
        except ValueError as error:
            assert f"in row {7 + 9 * group} " in str(error), error
"""


def test_float_actions_of_several_numbers_and_agents(checkout):
    ints, discrete = "const int64_t *actions", "MultiDiscrete([4, 6])"
    box = "Box(np.array([0, -np.inf]), np.array([3, 2.5]), dtype=np.float32)"
    (checkout / "ocean_c" / "team.h").write_text(TEAM_H.lstrip().replace(ints, "const float *actions"))
    (checkout / "envs" / "team.py").write_text(TEAM_PY.lstrip().replace(discrete, box))
    done = subprocess.run([sys.executable, "-c", FLOAT_SCRIPT], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_spaces_that_do_not_fit_the_header(checkout):
    def error(name: str, wrong: str, right: str) -> str:
        file = checkout / "envs" / f"{name}.py"
        assert right in file.read_text()
        file.write_text(file.read_text().replace(right, wrong))
        script = f"import envs; envs.make({name!r}, 2)"
        done = subprocess.run([sys.executable, "-c", script], cwd=checkout, capture_output=True, text=True)
        return done.stderr.splitlines()[-1]

    line = error("memory", "(5,)", "(4,)")
    assert line.startswith("ValueError: envs/memory.py") and "ocean_c/memory.h has 16 bytes a row" in line
    line = error("bandit", "Discrete(8, start=1)", 'Discrete(config["arms"])')
    assert line.startswith("ValueError: action space")
