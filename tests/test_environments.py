"""What every environment promises, checked for each that exists, and then the rules of each game.

Random play with the sanitizers on is in fuzz.py, which the last tests here run.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import build
import envs
from envs.vector import ROWS, VecEnv

COPIES = 64
FUZZ = Path(__file__).parent / "fuzz.py"


KNOB = "continuous"  # its environments are tested with it, too
VARIANTS = [*envs.names(), *(f"{name} {KNOB}" for name in envs.names() if KNOB in envs.spec(name).config)]


@pytest.fixture(params=VARIANTS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def spec(name: str) -> ModuleType:
    return envs.spec(name.split()[0])


def made(name: str, copies: int | None = None, config: dict | None = None, **options) -> VecEnv:
    """An environment, here also called "pong continuous" where that knob is 1.

    By default fewer copies of those that have many agents each.
    """
    name, *knobs = name.split()
    copies = copies or max(4, COPIES // envs.resolve(name)[1])
    return envs.make(name, copies, config=dict.fromkeys(knobs, 1) | (config or {}), **options)


def play(env: VecEnv, steps: int, seed: int = 0) -> Iterator[tuple]:
    """Random actions drawn from the seed; yields what each step returned."""
    env.action_space.seed(seed)
    for _ in range(steps):
        yield env.step(env.action_space.sample())


def digests(env: VecEnv, steps: int, seed: int = 0) -> list[str]:
    """One for the rows as they are and after each random step, so that a difference shows when it began."""

    def digest() -> str:
        bytes_ = hashlib.blake2b(digest_size=8)
        for rows in (env.observations, env.rewards, env.terminals, env.truncations):
            bytes_.update(rows)
        bytes_.update(env.final_observations[env.truncations])
        return bytes_.hexdigest()

    return [digest(), *(digest() for _ in play(env, steps, seed))]


def started(name: str, copies: int | None = None, seed: int = 0, **options) -> VecEnv:
    env = made(name, copies, **options)
    env.reset(seed=seed)
    return env


def test_headers_and_python_files_belong_together():
    assert build.environments() == envs.names()


@pytest.mark.parametrize("name", envs.names())
def test_spec(name):
    spec = envs.spec(name)
    assert spec.__doc__ and spec.fps > 0 and isinstance(spec.train, dict)
    for default, low, high in spec.config.values():
        assert type(default) is type(low) is type(high) and low <= default <= high


def test_random_play_keeps_the_promises(name):
    env = started(name)
    space = env.single_observation_space
    first, changed, ends = env.observations.copy(), np.zeros(env.num_envs, bool), 0
    for observations, rewards, terminals, truncations, infos in play(env, 3000):
        assert observations.dtype == space.dtype and observations.shape == env.observation_space.shape
        outside = observations[~((observations >= space.low) & (observations <= space.high))]
        assert not outside.size, f"{outside[:5].tolist()} are not in {space}"
        assert np.isfinite(rewards).all()
        assert not (terminals & truncations).any()
        assert bool(infos) == truncations.any()
        changed |= (observations != first).reshape(env.num_envs, -1).any(1)
        ends += int((terminals | truncations).sum())
    assert changed.all()
    assert ends >= env.num_envs
    assert env.rewards.dtype == np.float32 and env.terminals.dtype == env.truncations.dtype == np.bool_


def test_every_copy_has_its_own_randomness(name):
    env = started(name)
    stories = [hashlib.blake2b() for _ in range(env.copies)]
    shape = (env.copies, env.agents)
    env.single_action_space.seed(0)
    for action in (env.single_action_space.sample() for _ in range(500)):
        observations = env.step(np.broadcast_to(action, env.actions.shape))[0]
        for story, rows in zip(stories, observations.reshape(*shape, -1), strict=True):
            story.update(rows)
    assert len({story.digest() for story in stories}) > env.copies / 2


def test_seed_decides_everything(name):
    first = digests(started(name, seed=5), 1500)
    assert digests(started(name, seed=5), 1500) == first
    assert digests(started(name, seed=6), 1500) != first
    env = made(name, seed=5)  # the constructor's seed is that of the first reset
    env.reset()
    assert digests(env, 1500) == first


def test_reset_with_a_seed_leaves_nothing_behind(name):
    fresh = digests(started(name, seed=5), 500)
    env = started(name, seed=8)
    for _ in play(env, 501, seed=3):
        pass
    for rows in ROWS:
        getattr(env, rows)[:] = 1
    env.reset(seed=5)
    assert env.log() == {"n": 0}
    assert digests(env, 500) == fresh


def test_reset_without_a_seed_goes_on_with_the_random_streams(name):
    env = started(name, seed=5)
    again = started(name, seed=5)
    for _ in zip(play(env, 100), play(again, 100), strict=True):
        pass
    env.reset()
    assert not (env.rewards.any() or env.terminals.any() or env.truncations.any())
    after = digests(env, 500)
    assert after != digests(started(name, seed=5), 500)
    again.reset()
    assert digests(again, 500) == after


def test_save_and_load_in_the_middle(name):
    env = started(name, seed=5)
    for _ in play(env, 137, seed=1):
        pass
    saved = env.save()
    episodes = env.log()["n"]
    after = digests(env, 500, seed=2)
    env.load(saved)
    assert env.log()["n"] == episodes  # the log is part of the state
    assert digests(env, 500, seed=2) == after
    other = made(name, seed=99)
    other.load(saved)
    assert digests(other, 500, seed=2) == after


def test_final_observation_is_what_the_old_episode_would_have_shown(name):
    """A play that is cut against the same play that is not."""
    if "max_steps" not in spec(name).config:
        assert not any(step[3].any() for step in play(started(name), 1000))
        return
    cut, uncut = (started(name, config={"max_steps": steps}) for steps in (7, 1_000_000))
    ended = np.zeros(cut.num_envs, bool)
    for step, (now, then) in enumerate(zip(play(cut, 7), play(uncut, 7), strict=True)):
        assert not now[3].any() or step == 6
        ended |= then[2] | then[3]
    truncations, infos = now[3:]
    np.testing.assert_array_equal(truncations, ~ended)
    np.testing.assert_array_equal(infos["_final_obs"], truncations)
    np.testing.assert_array_equal(infos["final_obs"][truncations], then[0][truncations])
    assert (now[0][truncations] != then[0][truncations]).any()  # which begin anew


def test_a_copy_writes_its_own_rows_only(name):
    copies = 6
    env = started(name, copies, groups=copies)
    env.action_space.seed(0)
    rng = np.random.default_rng(0)
    for _ in range(1500):
        group = int(rng.integers(copies))
        rows = env.rows(group)
        before = [np.delete(getattr(env, field), rows, 0) for field in ROWS]
        env.step(env.action_space.sample()[rows], group)
        for field, other in zip(ROWS, before, strict=True):
            np.testing.assert_array_equal(np.delete(getattr(env, field), rows, 0), other, field)


def test_log(name):
    """Its first fields are always the same, perf lies in [0, 1], and taking it empties it."""
    env = started(name)
    assert env.log_fields[:5] == ["score", "perf", "episode_return", "episode_length", "n"]
    assert env.log() == {"n": 0}
    for _ in play(env, 3000):
        pass
    logs = [env.log(copy, copy + 1) for copy in range(env.copies)]
    assert all(log["n"] >= 1 and np.isfinite(list(log.values())).all() for log in logs)
    assert all(-1e-6 <= log["perf"] <= 1 + 1e-6 for log in logs)
    assert all(log["episode_length"] >= 1 for log in logs)
    assert env.log() == {"n": 0}


# With these random play does not always score the same: it wins whenever it is black, is cut at any score.
UNEVEN = {"go": {"komi": -361.0}, "pong": {"max_steps": 50}}


# A random player clears no line of Tetris; test_tetris.py holds score and rewards to a model, with a planner.
@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "tetris"])
def test_score_rises_with_the_return(name):
    """Over the episodes of random play, whose scores differ."""
    env, episodes = started(name, config=UNEVEN.get(name.split()[0])), []
    for _, _, terminals, truncations, _ in play(env, 3000):
        for copy in np.unique(np.flatnonzero(terminals | truncations) // env.agents).tolist():
            log = env.log(copy, copy + 1)
            episodes.append((log["score"], log["episode_return"]))
        if len(episodes) > 2000:
            break
    scores, returns = np.transpose(episodes)
    assert np.ptp(scores) > 0
    assert np.corrcoef(scores, returns)[0, 1] > 0.1


def test_log_agrees_with_gymnasium(name):
    """Episode returns and lengths as RecordEpisodeStatistics counts them; where a copy is one agent."""
    env = started(name)
    statistics = RecordEpisodeStatistics(env, buffer_length=1_000_000)
    statistics.reset(seed=1)
    for _ in play(statistics, 3000):
        pass
    log = env.log()
    if env.agents == 1:
        assert log["n"] == len(statistics.return_queue)
        # float32 sums here, float64 there
        assert log["episode_return"] == pytest.approx(np.mean(statistics.return_queue), rel=1e-4, abs=1e-4)
        assert log["episode_length"] == pytest.approx(np.mean(statistics.length_queue), rel=1e-5)


def test_render(name):
    env = started(name)
    before = env.save()
    for width, height in ((320, 240), (64, 96), (33, 7)):
        frame = env.render(env.copies - 1, width, height)
        assert frame.shape == (height, width, 3) and frame.dtype == np.uint8
        assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 1
        np.full_like(frame, 200)  # leaves its bytes where the next frame is likely to be
        assert np.array_equal(env.render(env.copies - 1, width, height), frame)
    assert env.render(0, 1, 1).shape == (1, 1, 3)
    assert all(np.array_equal(before[field], after) for field, after in env.save().items())
    frames = {env.render().tobytes() for _ in play(env, 100)}
    assert len(frames) > 1


# The rules of each game.

STAY, UP, DOWN, LEFT, RIGHT = range(5)
EMPTY, AGENT, TARGET = 0, 1, -1


def squared_cells(observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column [copies, 2] of agent and target, of which each grid has exactly one."""
    agents, targets = np.argwhere(observations == AGENT), np.argwhere(observations == TARGET)
    assert np.isin(observations, (EMPTY, AGENT, TARGET)).all()
    copies = np.arange(len(observations))
    assert np.array_equal(agents[:, 0], copies) and np.array_equal(targets[:, 0], copies)
    return agents[:, 1:], targets[:, 1:]


def squared_walk(observations: np.ndarray) -> np.ndarray:
    """Actions that walk to the target, first up or down."""
    agent, target = squared_cells(observations)
    down, right = (target - agent).T
    across = np.where(right > 0, RIGHT, LEFT)
    return np.where(down > 0, DOWN, np.where(down < 0, UP, across))


def test_squared_walking_to_the_target():
    env = started("squared")
    agent, target = squared_cells(env.observations)
    assert (agent == 5).all()
    left = np.abs(target - agent).sum(1)
    lengths = []
    for _ in range(200):
        observations, rewards, terminals, truncations, _ = env.step(squared_walk(env.observations))
        left -= 1
        np.testing.assert_array_equal(terminals, left == 0)
        np.testing.assert_array_equal(rewards, (left == 0).astype(np.float32))
        assert not truncations.any()
        agent, target = squared_cells(observations)
        distance = np.abs(target - agent).sum(1)
        assert (agent[terminals] == 5).all()  # the next episode
        lengths += distance[terminals].tolist()
        left[terminals] = distance[terminals]
        np.testing.assert_array_equal(distance, left)
    log = env.log()
    assert (log["score"], log["perf"], log["episode_return"]) == (1, 1, 1)
    assert 5 <= log["episode_length"] <= 10 and set(lengths) == set(range(5, 11))


@pytest.mark.parametrize("size", [3, 4, 11])
def test_squared_targets_are_all_over_the_border(size):
    env = started("squared", 5000, config={"size": size})
    targets = squared_cells(env.observations)[1]
    cells, counts = np.unique(targets, axis=0, return_counts=True)
    assert ((cells == 0) | (cells == size - 1)).any(1).all()
    assert len(cells) == 4 * (size - 1)
    expected = 5000 / len(cells)
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()  # five standard deviations


def test_squared_border_stops_a_step():
    for action, place in ((UP, (0, 5)), (DOWN, (10, 5)), (LEFT, (5, 0)), (RIGHT, (5, 10))):
        env = started("squared")
        reached = np.zeros(COPIES, bool)
        for _ in range(12):
            reached |= env.step(np.full(COPIES, action))[2]
        assert (squared_cells(env.observations)[0][~reached] == place).all()


def test_squared_cut():
    env = started("squared", config={"max_steps": 44})
    for step in range(1, 133):
        old = env.observations.copy()
        observations, rewards, terminals, truncations, infos = env.step(np.zeros(COPIES, int))
        assert not rewards.any() and not terminals.any()
        assert truncations.all() if step % 44 == 0 else not truncations.any()
        if truncations.any():
            squared_cells(infos["final_obs"])
            np.testing.assert_array_equal(infos["final_obs"], old)
            assert (squared_cells(observations)[1] != squared_cells(old)[1]).any()
    log = env.log()
    assert log == {"score": 0, "perf": 0, "episode_return": 0, "episode_length": 44, "n": 3 * COPIES}


def test_squared_reaching_the_target_on_the_last_step_is_no_cut():
    env = started("squared", config={"size": 5, "max_steps": 2})
    agent, target = squared_cells(env.observations)
    near = np.abs(target - agent).sum(1) == 2
    for _ in range(2):
        _, rewards, terminals, truncations, _ = env.step(squared_walk(env.observations))
    assert near.any() and not near.all()
    for ended in (rewards == 1, terminals, ~truncations):
        np.testing.assert_array_equal(ended, near)


@pytest.mark.parametrize("arms", [2, 8, 13])
def test_bandit_pays_for_one_arm(arms):
    env = started("bandit", config={"arms": arms})
    seen = set()
    for step in range(100):
        context = env.observations.argmax(1)
        assert (env.observations.sum(1) == 1).all() and (env.observations.max(1) == 1).all()
        seen |= set(context.tolist())
        wrong = step % arms  # how far beside the right arm
        _, rewards, terminals, truncations, _ = env.step((context * 3 + 1 + wrong) % arms)
        assert (rewards == (wrong == 0)).all() and terminals.all() and not truncations.any()
        log = env.log()
        assert log["score"] == log["perf"] == (wrong == 0) and log["episode_length"] == 1
    assert seen == set(range(arms))


@pytest.mark.parametrize("length", [1, 16, 200])
def test_memory_pays_for_the_cue(length):
    env = started("memory", config={"length": length})
    rng = np.random.default_rng(0)
    for _ in range(3):
        cue = env.observations[:, :2].argmax(1)
        assert set(cue.tolist()) == {0, 1}
        np.testing.assert_array_equal(env.observations, np.eye(4)[cue])
        for position in range(1, length + 1):
            observations, rewards, terminals, truncations, _ = env.step(rng.integers(0, 2, COPIES))
            np.testing.assert_array_equal(
                observations, np.tile([0, 0, position < length, position == length], (COPIES, 1))
            )
            assert not (rewards.any() or terminals.any() or truncations.any())
        turn = rng.integers(0, 2, COPIES)
        _, rewards, terminals, truncations, _ = env.step(turn)
        np.testing.assert_array_equal(rewards, np.where(turn == cue, 1, -1))
        assert terminals.all() and not truncations.any()
        log, right = env.log(), np.mean(turn == cue)
        assert log["score"] == log["perf"] == right and log["episode_return"] == 2 * right - 1
        assert log["episode_length"] == length + 1


def pong_follow(observations: np.ndarray) -> np.ndarray:
    """Actions that keep the paddle's middle level with the ball."""
    paddle, ball = (observations[:, 0] + 1) * 52 + 8, (observations[:, 3] + 1) * 60
    return np.where(ball < paddle, 1, np.where(ball > paddle, 2, 0))


def test_pong_doing_nothing_loses():
    env = started("pong")
    for _ in range(1500):
        env.step(np.zeros(COPIES, int))
    log = env.log()
    assert log["n"] >= COPIES and log["score"] < -20 and log["perf"] < 0.03


def test_pong_first_to_max_score_ends_it():
    env = started("pong", config={"max_score": 3, "hit_reward": 0.0})
    points = np.zeros((COPIES, 2), int)  # agent's, opponent's
    episodes, rng = [], np.random.default_rng(0)
    for step in range(1500):
        # Half of the copies follow the ball, so that both sides win points.
        actions = np.where(np.arange(COPIES) % 2, pong_follow(env.observations), rng.integers(0, 3, COPIES))
        observations, rewards, terminals, truncations, _ = env.step(actions)
        assert np.isin(rewards, (-1, 0, 1)).all() and not truncations.any()
        points += np.stack([rewards == 1, rewards == -1], 1)
        np.testing.assert_array_equal(terminals, points.max(1) == 3)
        for copy in np.flatnonzero(terminals):
            won, lost = points[copy]
            log = env.log(copy, copy + 1)
            assert log["score"] == log["episode_return"] == won - lost
            assert log["perf"] == pytest.approx((3 + won - lost) / 6)
            episodes.append(won - lost)
        points[terminals] = 0
        np.testing.assert_allclose(observations[:, 6:], points / 3, rtol=1e-6, err_msg=f"step {step}")
    assert min(episodes) == -3 and max(episodes) > 0


def test_pong_ball_no_faster_than_a_paddle_is_never_missed():
    config = {"frameskip": 1, "ball_max_spin": 1.5, "max_steps": 1500}
    assert config["ball_max_spin"] == envs.spec("pong").config["paddle_speed"][0]
    env = started("pong", config=config)
    for _ in range(1500):
        _, rewards, _, truncations, _ = env.step(pong_follow(env.observations))
        assert np.isin(rewards, np.float32([0, 0.1])).all()  # hits and no points
    log = env.log()
    assert truncations.all() and log["score"] == 0 and log["perf"] == 0.5 and log["hits"] >= 10
    assert log["episode_return"] == pytest.approx(0.1 * log["hits"], rel=1e-5)


def test_pong_spin_beats_the_opponent():
    env = started("pong", config={"frameskip": 1, "max_score": 3})
    for _ in range(8000):
        env.step(pong_follow(env.observations))
    log = env.log()
    assert log["n"] >= COPIES and log["score"] > 0.5


def test_pong_continuous_actions_play_as_the_discrete_ones():
    discrete, continuous = started("pong"), started("pong continuous")
    for actions in (*np.random.default_rng(0).integers(0, 3, (1000, COPIES)), *[None] * 1000):
        # At random, then well, so that all comes to pass.
        actions = pong_follow(discrete.observations) if actions is None else actions
        discrete.step(actions)
        continuous.step(np.float32([0, -1, 1])[actions, None])
        for rows in set(ROWS) - {"actions"}:
            np.testing.assert_array_equal(getattr(discrete, rows), getattr(continuous, rows), rows)
    assert discrete.log() == continuous.log()


def test_pong_continuous_action_is_a_share_of_the_paddles_speed():
    env = started("pong continuous", config={"frameskip": 1})
    for action in (-0.5, 0.25, 1.0):
        before = env.observations[:, 0].copy()
        env.step(np.full((COPIES, 1), action))
        np.testing.assert_allclose((env.observations[:, 0] - before) * 52, action * 1.5, rtol=1e-4)


def test_pong_paddles_have_one_speed():
    env = started("pong", config={"frameskip": 1, "max_score": 1000})
    fastest = np.zeros(2)
    before = env.observations[:, :2].copy()
    for observations, rewards, *_ in play(env, 1000):
        moved = np.abs(observations[:, :2] - before) * 52
        fastest = np.maximum(fastest, moved[np.abs(rewards) < 0.5].max(0))  # a serve centres the paddles
        before = observations[:, :2].copy()
    np.testing.assert_allclose(fastest, 1.5, rtol=1e-3)


# Random play with AddressSanitizer and UBSan.


def run_fuzz(script: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", envs.names())
def test_fuzz_finds_nothing(name):
    steps = 300_000 if name == "go" else 1_000_000  # whose steps take ten times as long
    done = run_fuzz(FUZZ, name, "--steps", str(steps))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "fault, message",
    [
        ("rows.rewards[-1] = 0;", "AddressSanitizer: heap-buffer-overflow"),
        ("volatile int most = 2147483647; most += 1;", "signed integer overflow"),
        ("rows.rewards[0] = 1.0f / 0;", "rewards"),
    ],
)
def test_fuzz_would_find_something(checkout, fault, message):
    header = checkout / "ocean_c" / "memory.h"
    corridor = r"(if \(memory->position < config->length\) \{)"
    header.write_text(re.sub(corridor, rf"\1 {fault}", header.read_text(), count=1))
    assert fault in header.read_text()
    (checkout / "tests").mkdir()
    done = run_fuzz(Path(shutil.copy(FUZZ, checkout / "tests")), "memory", "--steps", "1000")
    assert done.returncode != 0 and message in done.stderr, done.stdout + done.stderr
