"""Environments of other packages against the same ones stepped by hand, and our own in others' loops."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array
from gymnasium.wrappers import vector as wrappers

import envs
from envs import foreign

COPIES = 5
MODULE = '''
import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


class Counter(gymnasium.Env):
    """Observes episode and step in every kind of space; ends after 3 steps, truncated every second time."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}
    observation_space = spaces.Dict(
        {
            "episode": spaces.Box(-np.inf, np.inf, (1, 2), np.float64),
            "byte": spaces.Box(0, 200, (2,), np.uint8),
            "both": spaces.Tuple((spaces.Discrete(4, start=-1), spaces.MultiDiscrete([2, 3]))),
            "bits": spaces.MultiBinary(2),
        }
    )
    action_space = spaces.Discrete(3, start=5)

    def __init__(self, render_mode=None):
        self.episode, self.actions, self.render_mode = -1, [], render_mode

    def observe(self):
        t = self.t
        parts = (t - 1, np.array([t % 2, t % 3]))
        episode = np.array([[self.episode, 1e9 + t]])
        byte, bits = np.array([200, t], np.uint8), np.array([1, t % 2], np.int8)
        return {"episode": episode, "byte": byte, "both": parts, "bits": bits}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self.observe(), {}

    def step(self, action):
        assert action in self.action_space
        self.t += 1
        ended = self.t == 3
        return self.observe(), float(action), ended and self.episode % 2 == 0, ended, {}

    def render(self):
        return np.full((10, 20, 3), 10 * self.t, np.uint8)


class Bare(Counter):
    metadata = {}
    observation_space = spaces.Discrete(3)

    def observe(self):
        return min(self.t, 2)


class Rows(VectorEnv):
    """Row i has episodes of i + 2 steps; observes episode and step. The modes differ as Gymnasium's do."""

    def __init__(self, num_envs, mode, max_episode_steps=None):
        self.num_envs, self.mode = num_envs, AutoresetMode(mode)
        self.metadata = {"autoreset_mode": self.mode}
        self.single_observation_space = spaces.Box(0, 99, (2,), np.float32)
        self.single_action_space = spaces.MultiDiscrete([2, 9])
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def observe(self):
        return np.stack([self.episode, self.t], 1).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        self.episode, self.t = np.zeros((2, self.num_envs), int)
        self.length = 2 + np.arange(self.num_envs)
        self.over = np.zeros(self.num_envs, bool)
        return self.observe(), {}

    def restart(self, rows):
        self.episode[rows] += 1
        self.t[rows] = 0

    def step(self, actions):
        assert actions.dtype == np.int64
        fresh = self.over & (self.mode == AutoresetMode.NEXT_STEP)
        self.t += 1
        self.restart(fresh)
        rewards = np.where(fresh, 77.0, actions[:, 1])
        self.over = (self.t == self.length) & ~fresh
        odd = self.episode % 2 == 1
        terminals, truncations = self.over & ~odd, self.over & (odd | (self.episode % 4 == 0))
        infos = {}
        if self.mode == AutoresetMode.SAME_STEP and self.over.any():
            infos = {"final_obs": self.observe(), "_final_obs": self.over.copy()}
            self.restart(self.over)
        return self.observe(), rewards, terminals, truncations, infos


class Choice(Rows):
    """Resets in either mode, as one asks."""

    def __init__(self, num_envs, autoreset_mode="NextStep"):
        super().__init__(num_envs, autoreset_mode)


class OfText(Bare):
    observation_space = spaces.Text(5)


class OfDict(Bare):
    action_space = spaces.Dict({"a": spaces.Discrete(2)})


for kind in (Counter, Bare, OfText, OfDict):
    gymnasium.register(f"{kind.__name__}-v0", kind, reward_threshold=30, disable_env_checker=True)
for mode in ("NextStep", "SameStep", "Disabled"):
    gymnasium.register(f"{mode}Rows-v0", vector_entry_point=Rows, kwargs={"mode": mode})
gymnasium.register("Choice-v0", vector_entry_point=Choice)
'''


@pytest.fixture
def games(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module in the current folder, that registers environments."""
    (tmp_path / "my_games.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = dict(gymnasium.registry)
    foreign.spec.cache_clear()
    yield "my_games"
    foreign.spec.cache_clear()
    gymnasium.registry.clear()
    gymnasium.registry.update(before)
    sys.modules.pop("my_games", None)


class ByHand:
    """Copies made by gymnasium.make, and reset when an episode ends; lists of what they gave."""

    def __init__(self, env_id: str, copies: int, seed: int):
        self.envs = [gymnasium.make(env_id) for _ in range(copies)]
        self.observations = [env.reset(seed=seed + i)[0] for i, env in enumerate(self.envs)]
        self.returns, self.lengths = np.zeros(copies), np.zeros(copies)
        self.episodes: list[tuple[float, float]] = []  # return and length

    def step(self, actions: list) -> tuple[list, list, list, dict]:
        """Rewards, terminations, truncations, and the last observation of those that ended."""
        results = [env.step(action) for env, action in zip(self.envs, actions, strict=True)]
        self.observations, rewards, terminations, truncations, _ = map(list, zip(*results, strict=True))
        self.returns += rewards
        self.lengths += 1
        last = {}
        for i, env in enumerate(self.envs):
            if terminations[i] or truncations[i]:
                last[i] = self.observations[i]
                self.observations[i], _ = env.reset()
                self.episodes.append((self.returns[i], self.lengths[i]))
                self.returns[i] = self.lengths[i] = 0
        return rewards, terminations, truncations, last


TAXI = next(env_id for env_id in ("Taxi-v4", "Taxi-v3") if env_id in gymnasium.registry)


@pytest.mark.parametrize(
    ("env_id", "steps", "cuts"),
    [
        ("Pendulum-v1", 450, True),
        ("Acrobot-v1", 1020, True),
        ("MountainCarContinuous-v0", 1100, True),
        ("FrozenLake-v1", 300, False),
        (TAXI, 450, True),
        ("Blackjack-v1", 100, False),
    ],
)
def test_copies_do_what_gymnasium_does_by_hand(env_id, steps, cuts):
    env = envs.make(f"gym:{env_id}", COPIES, seed=3)
    hand = ByHand(env_id, COPIES, seed=3)
    space, acts = hand.envs[0].observation_space, hand.envs[0].action_space
    row = env.single_observation_space

    def same(got: np.ndarray, observation: object) -> bool:
        wanted = np.asarray(spaces.flatten(space, observation)).astype(row.dtype)
        return np.array_equal(got, wanted.reshape(row.shape)) and got in row

    observations, infos = env.reset()
    assert infos == {} and observations is env.observations
    assert all(map(same, observations, hand.observations))
    acts.seed(0)
    truncated = terminated = 0
    for _ in range(steps):
        actions = [acts.sample() for _ in range(COPIES)]
        observations, rewards, terminals, truncations, infos = env.step(np.array(actions))
        wanted_rewards, terminations, cut, last = hand.step(actions)
        assert all(map(same, observations, hand.observations))
        assert rewards.dtype == np.float32 and np.array_equal(rewards, np.float32(wanted_rewards))
        assert np.array_equal(terminals, terminations)
        assert np.array_equal(truncations, np.array(cut) & ~np.array(terminations))
        assert bool(infos) == truncations.any() and "_ignored" not in infos
        if infos:
            assert np.array_equal(infos["_final_obs"], truncations)
            assert all(same(infos["final_obs"][i], last[i]) for i in np.flatnonzero(truncations))
        truncated, terminated = truncated + truncations.sum(), terminated + terminals.sum()
    assert bool(truncated) == cuts and truncated + terminated >= COPIES
    log = env.log()
    returns, lengths = zip(*hand.episodes, strict=True)
    assert log["n"] == len(returns) == truncated + terminated
    assert log["score"] == pytest.approx(np.mean(returns))
    assert log["episode_length"] == np.mean(lengths)
    assert env.log() == {"n": 0}


def test_a_vector_environment_that_resets_in_the_next_step():
    """CartPole's own vector environment, stepped by hand beside."""
    env = envs.make("gym:CartPole-v1", 64)
    hand = gymnasium.make_vec("CartPole-v1", 64, vectorization_mode="vector_entry_point")
    assert hand.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP  # else this tests nothing
    observations, _ = env.reset(seed=5)
    wanted, _ = hand.reset(seed=5)
    assert np.array_equal(observations, wanted)
    over = np.zeros(64, bool)
    rng, steps, episodes = np.random.default_rng(0), 0, 0
    for _ in range(300):
        actions = rng.integers(0, 2, 64)
        observations, rewards, terminals, truncations, infos = env.step(actions)
        wanted, wanted_rewards, terminations, _, _ = hand.step(actions)
        assert np.array_equal(observations, wanted) and np.array_equal(rewards, wanted_rewards)
        assert np.array_equal(terminals, terminations) and not truncations.any()
        assert np.array_equal(infos.get("_ignored", np.zeros(64, bool)), over)
        assert (np.abs(observations[over]) <= 0.05).all()  # where episodes begin
        over = terminations
        steps, episodes = steps + 64 - infos.get("_ignored", over & False).sum(), episodes + over.sum()
    log = env.log()
    assert log["n"] == episodes and log["score"] == log["episode_length"] == log["episode_return"]
    assert steps - 64 * 40 < log["n"] * log["episode_length"] <= steps
    assert log["perf"] == pytest.approx(log["score"] / 475)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_ends_in_both_modes(games, mode):
    """The same episodes come out of both, but for the steps whose action is ignored."""
    env = envs.make(f"gym:{games}:{mode}Rows-v0", 3)
    observations, _ = env.reset()
    episodes: list[list] = [[], [], []]
    current: list[list] = [[], [], []]
    before, over = observations.copy(), np.zeros(3, bool)
    for t in range(60):
        actions = np.stack([np.full(3, t % 2), np.full(3, t % 9)], 1)
        observations, rewards, terminals, truncations, infos = env.step(actions)
        ignored = infos.get("_ignored", np.zeros(3, bool))
        assert not (terminals & truncations).any()
        assert np.array_equal(ignored, over & (mode == "NextStep"))
        assert ("final_obs" in infos) == truncations.any()
        assert (rewards[ignored] == 0).all() and (rewards[~ignored] == t % 9).all()
        for i in np.flatnonzero(~ignored):
            current[i].append((*before[i].tolist(), t % 9))
            if terminals[i] or truncations[i]:
                last = infos["final_obs"][i].tolist() if truncations[i] else None
                episodes[i].append((current[i], last))
                current[i] = []
        over, before = terminals | truncations, observations.copy()
    for i, of_row in enumerate(episodes):
        assert len(of_row) > 8
        for episode, (steps, last) in enumerate(of_row):
            assert [step[:2] for step in steps] == [(episode, t) for t in range(i + 2)]
            assert last == ([episode, i + 2] if episode % 2 else None)  # where both are true, the end wins
        log = env.log(i, i + 1)
        assert log["n"] == len(of_row) and log["episode_length"] == i + 2
        assert log["score"] == pytest.approx(np.mean([sum(s[2] for s in steps) for steps, _ in of_row]))
    assert env.log() == {"n": 0}


def test_same_step_is_asked_for_where_it_is_offered(games):
    assert envs.spec(f"gym:{games}:Choice-v0").mode == AutoresetMode.SAME_STEP


def test_a_reset_forgets_the_episodes_under_way(games):
    env = envs.make(f"gym:{games}:NextStepRows-v0", 2)
    action = np.array([[0, 3], [0, 3]])
    env.reset()
    env.step(action)
    env.step(action)  # ends row 0, whose next action would be ignored
    assert env.log() == {"score": 6, "episode_return": 6, "episode_length": 2, "n": 1}
    env.reset()
    assert "_ignored" not in env.step(action)[4]
    env.step(action)
    env.step(action)
    assert env.log(0, 1)["episode_length"] == 2 and env.log(1, 2)["episode_length"] == 3


def test_a_module_of_ones_own(games):
    """Every kind of space, in one environment; actions that do not count from 0."""
    spec = envs.spec(f"gym:{games}:Counter-v0")
    assert spec.config == {} and spec.solved == 30 and spec.fps == 7 and "\n" not in spec.__doc__
    assert spec.action_space({}) == spaces.Discrete(3)
    env = envs.make(f"gym:{games}:Counter-v0", 2)
    assert env.metadata["render_fps"] == 7 and env.observations.dtype == np.float32
    original = gymnasium.make("Counter-v0").observation_space
    assert list(original.spaces) == ["bits", "both", "byte", "episode"]
    observations, _ = env.reset()
    for t in range(9):
        step, episode = t % 3, t // 3
        bits, discrete = [1, step % 2], np.eye(4)[step].tolist()
        multi = [step % 2 == 0, step % 2 == 1, step == 0, step == 1, step == 2]
        wanted = [*bits, *discrete, *multi, 1, step / 200, episode, 1e9 + step]
        assert observations[1] == pytest.approx(np.float32(wanted)) and observations[1] in spec.observations
        observations, rewards, terminals, truncations, infos = env.step(np.array([0, 2]))
        assert rewards.tolist() == [5, 7]
        assert (terminals | truncations).all() == (step == 2)
        assert terminals.all() == (step == 2 and episode != 1)  # truncated as well, each time
        if truncations.any():
            assert infos["final_obs"][1, -2:].tolist() == [episode, np.float32(1e9 + 3)]
    assert env.log() == {"score": 18, "perf": 0.6, "episode_return": 18, "episode_length": 3, "n": 6}


def test_perf_needs_a_threshold_above_zero():
    for name in ("gym:Acrobot-v1", "gym:Pendulum-v1"):  # -100 and none
        env = envs.make(name, 1)
        env.reset()
        for _ in range(501):
            env.step(env.action_space.sample())
        assert set(env.log()) == {"score", "episode_return", "episode_length", "n"} == set(env.log_fields)
    assert envs.spec("gym:Acrobot-v1").solved == -100 and envs.spec("gym:Pendulum-v1").solved is None


SPACES = [
    (spaces.Box(-1, 1, (2, 3), np.float64), spaces.Box(-1, 1, (2, 3), np.float32)),
    (spaces.Box(0, 255, (9, 9), np.uint8), spaces.Box(0, 255, (9, 9), np.uint8)),
    (spaces.Box(0, 255, (9, 8, 3), np.uint8), spaces.Box(0, 255, (3, 9, 8), np.uint8)),
    (spaces.Box(0, 255, (4, 9, 8), np.uint8), spaces.Box(0, 255, (4, 9, 8), np.uint8)),
    (spaces.Box(-5, 300, (2,), np.int64), spaces.Box(-5, 300, (2,), np.int32)),
    (spaces.Box(0, 2**62, (2,), np.int64), spaces.Box(0, 2.0**62, (2,), np.float32)),
    (spaces.Box(-3, 3, (2,), np.int8), spaces.Box(-3, 3, (2,), np.int8)),
    (spaces.Box(0, 1, (2,), np.bool_), spaces.Box(0, 1, (2,), np.uint8)),
    (spaces.MultiBinary((2, 3)), spaces.Box(0, 1, (2, 3), np.uint8)),
    (spaces.Discrete(3, start=7), spaces.Box(0, 1, (3,), np.uint8)),
    (spaces.MultiDiscrete([3, 2], start=[4, -1]), spaces.Box(0, 1, (5,), np.uint8)),
    (spaces.Tuple((spaces.Discrete(2), spaces.MultiBinary(1))), spaces.Box(0, 1, (3,), np.uint8)),
    (
        spaces.Dict({"b": spaces.Box(-4, 2, (2,), np.int32), "a": spaces.Box(-1, 5, (), np.float64)}),
        spaces.Box(np.float32([-1, -1, -1]), np.float32([5, 0.5, 0.5])),
    ),
]


@pytest.mark.parametrize(("space", "wanted"), SPACES, ids=str)
def test_observations_of_every_space(space, wanted):
    """As Gymnasium flattens them, for those that are flattened; and within the space that is announced."""
    rows, to_rows = foreign.translate_observations(space)
    assert rows == wanted and rows.dtype == wanted.dtype
    space.seed(0)
    samples = [space.sample() for _ in range(20)]
    got = to_rows(concatenate(space, samples, create_empty_array(space, 20)))
    assert got.shape == (20, *rows.shape)
    assert all(row.astype(rows.dtype) in rows for row in got)
    for row, sample in zip(got, samples, strict=True):
        if isinstance(space, spaces.Box) and rows.shape != space.shape:  # channels first
            assert np.array_equal(row, sample.transpose(2, 0, 1))
        elif isinstance(space, spaces.Dict):
            assert row == pytest.approx(np.array([sample["a"], *sample["b"] / 4]))
        else:
            flat = spaces.flatten(space, sample).astype(rows.dtype)
            assert np.array_equal(row, flat.reshape(rows.shape))


@pytest.mark.parametrize(
    ("space", "wanted", "given", "passed"),
    [
        (spaces.Discrete(3, start=-1), spaces.Discrete(3), [0, 2], [-1, 1]),
        (
            spaces.MultiDiscrete([3, 2], start=[1, 5]),
            spaces.MultiDiscrete([3, 2]),
            [[0, 1], [2, 0]],
            [[1, 6], [3, 5]],
        ),
        (spaces.MultiBinary(2), spaces.MultiDiscrete([2, 2]), [[0, 1]], [[0, 1]]),
        (
            spaces.Box(-1, 2, (1,), np.float64),
            spaces.Box(-1, 2, (1,)),
            [[-7], [0.5], [9]],
            [[-1], [0.5], [2]],
        ),
    ],
    ids=str,
)
def test_actions_of_every_space(space, wanted, given, passed):
    got, to_actions = foreign.translate_actions(space)
    assert got == wanted
    actions = to_actions(np.array(given))
    assert actions.tolist() == passed and actions.dtype == space.dtype


def test_wrong_actions_are_named():
    env = envs.make("gym:CartPole-v1", 2)
    with pytest.raises(RuntimeError, match="call reset first"):
        env.step(np.array([0, 1]))
    env.reset()
    with pytest.raises(ValueError, match=r"2 in row 1 is not in Discrete\(2\)"):
        env.step(np.array([0, 2]))
    with pytest.raises(ValueError, match="shape"):
        env.step(np.array([0]))
    with pytest.raises(TypeError, match="integers"):
        env.step(np.array([0.0, 1.0]))
    env = envs.make("gym:Pendulum-v1", 1)
    env.reset()
    with pytest.raises(ValueError, match="finite"):
        env.step(np.array([[np.nan]]))


def test_the_surface_of_the_trainer():
    env = envs.make("gym:CartPole-v1", 4, seed=9, pin_memory=True)
    assert (env.copies, env.agents, env.num_envs, env.num_groups) == (4, 1, 4, 1)
    assert env.rows(0) == slice(0, 4) and env.config == {} and env.name == "gym:CartPole-v1"
    assert envs.resolve("gym:CartPole-v1", {}) == ({}, 1)
    first, _ = env.reset()  # from the seed it was made with
    first = first.copy()
    assert np.array_equal(env.reset(seed=9)[0], first) and not np.array_equal(env.reset()[0], first)
    env.step(np.zeros(4, int), 0)
    assert env.observations.shape == (4, 4) and env.save() == {}
    env.load({})  # new episodes
    assert (np.abs(env.observations) <= 0.05).all()
    assert env.reset(seed=2**40)[0].shape == (4, 4)  # a large seed is one too
    env.close()
    with pytest.raises(RuntimeError, match="closed"):
        env.step(np.zeros(4, int))
    kept = envs.make("gym:CartPole-v1", 4, copy=True)
    kept.reset(seed=0)
    results = [kept.step(np.zeros(4, int))[0] for _ in range(2)]
    assert not np.array_equal(*results)


def test_pictures_of_the_first_copy(games):
    env = envs.make(f"gym:{games}:Counter-v0", 2)
    env.reset()
    env.step(np.zeros(2, int))
    frame = env.render(0, 40, 40)  # twice as wide as high: bars above and below
    assert frame.shape == (40, 40, 3) and frame.dtype == np.uint8
    assert (frame[10:30] == 10).all() and not frame[:10].any() and not frame[30:].any()
    assert (env.render(0, 5, 3)[0:2] == 10).all()  # smaller
    with pytest.raises(ValueError, match="copy"):
        env.render(1)
    with pytest.raises(ValueError, match="cannot be drawn"):
        envs.make(f"gym:{games}:Bare-v0", 1).render()


def test_frames_shrink_to_means():
    frame = np.zeros((4, 6, 3), np.uint8)
    frame[:2, :3] = 100
    assert foreign.letter_box(frame, 2, 1)[0, :, 0].tolist() == [50, 0]
    assert foreign.letter_box(frame, 12, 8)[3, :, 0].tolist() == [100] * 6 + [0] * 6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gym:CartPole-v7", "gym:CartPole-v7: there is no 'CartPole-v7'; did you mean CartPole-v"),
        ("gym:pendulum", "did you mean Pendulum-v1"),
        ("gym:", "there is no ''"),
        ("gym:no_such_module:Some-v0", "module no_such_module cannot be imported"),
        ("gmy:CartPole-v1", "unknown kind of environment 'gmy:CartPole-v1': there are gym, ale, envpool"),
        ("gym:my_games:OfText-v0", "observation space Text"),
        ("gym:my_games:OfDict-v0", "action space Dict"),
        ("gym:my_games:DisabledRows-v0", "autoreset_mode"),
    ],
)
def test_what_cannot_be_is_one_line(games, name, message):
    with pytest.raises(ValueError) as caught:
        envs.spec(name)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_module_that_fails_and_an_environment_that_cannot_be_created(games, tmp_path):
    (tmp_path / "broken_games.py").write_text("import no_such_thing")
    with pytest.raises(ValueError, match="broken_games cannot be imported: No module named 'no_such_thing'"):
        envs.spec("gym:broken_games:X-v0")

    def create(**_: object) -> None:
        raise RuntimeError("no licence\nsecond line")

    gymnasium.register("Licensed-v0", create)
    with pytest.raises(ValueError, match=r"gym:Licensed-v0 cannot be created: no licence$"):
        envs.spec("gym:Licensed-v0")


def test_groups_and_knobs_are_refused():
    with pytest.raises(ValueError, match="groups: gym:CartPole-v1 steps as a whole"):
        envs.make("gym:CartPole-v1", 4, groups=2)
    with pytest.raises(ValueError, match="config: gym:CartPole-v1 has no 'gravity'"):
        envs.resolve("gym:CartPole-v1", {"gravity": 3})


@pytest.mark.parametrize(("name", "module"), [("ale:Pong", "ale_py"), ("envpool:Pong-v5", "envpool")])
def test_an_absent_extra_is_named(monkeypatch, name, module):
    foreign.spec.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    extra = {"ale_py": "atari"}.get(module, module)
    with pytest.raises(
        ValueError, match=rf"{name} needs the \[{extra}\] extra: pip install -e '.\[{extra}\]'"
    ):
        envs.spec(name)


def hand_driven_atari(game: str, copies: int, **settings: object) -> VectorEnv:
    return pytest.importorskip("ale_py").AtariVectorEnv(
        game,
        copies,
        num_threads=1,
        autoreset_mode=AutoresetMode.SAME_STEP,
        repeat_action_probability=0.25,
        noop_max=0,
        reward_clipping=False,
        **settings,
    )


def test_atari_scores_whole_games_and_clips_rewards():
    hand = hand_driven_atari("ms_pacman", 2)
    env = envs.make("ale:MsPacman", 2, num_threads=2)
    assert env.single_observation_space == spaces.Box(0, 255, (4, 84, 84), np.uint8)
    assert env.single_action_space == spaces.Discrete(9) and env.metadata["render_fps"] == 15
    observations, _ = env.reset(seed=4)
    assert np.array_equal(observations, hand.reset(seed=4)[0])
    rng, returns, clipped, scores = np.random.default_rng(0), np.zeros(2), np.zeros(2), []
    while len(scores) < 2:
        actions = rng.integers(0, 9, 2)
        observations, rewards, terminals, truncations, _ = env.step(actions)
        wanted, raw, terminations, _, _ = hand.step(actions)
        assert np.array_equal(observations, wanted)
        assert np.array_equal(terminals, terminations) and not truncations.any()
        assert np.array_equal(rewards, np.clip(raw, -1, 1))
        returns, clipped = returns + raw, clipped + rewards
        for i in np.flatnonzero(terminations):
            log = env.log(i, i + 1)
            assert log["n"] == 1 and "perf" not in log
            assert (log["score"], log["episode_return"]) == (returns[i], clipped[i])
            scores.append(returns[i])
            returns[i] = clipped[i] = 0
    assert min(scores) > 50 * clipped.max() / 10  # a pellet is 10 points


def test_atari_is_drawn_in_colour():
    """A single copy is mirrored by a second game on another kind of screen, which must not part from it."""
    screen = {"img_height": 210, "img_width": 160, "grayscale": False, "stack_num": 1}
    hand = hand_driven_atari("pong", 1, **screen)
    env = envs.make("ale:Pong", 1)
    env.reset(seed=1)
    hand.reset(seed=1)
    rng, scored, ended = np.random.default_rng(0), 0, 0
    for t in range(3000):
        if t == 300:
            env.reset()
            hand.reset()
        actions = rng.integers(0, 6, 1)
        _, rewards, terminals, _, _ = env.step(actions)
        picture, wanted, terminations, _, _ = hand.step(actions)
        scored, ended = scored + abs(int(rewards[0])), ended + int(terminals[0])
        assert rewards == wanted and terminals == terminations
        if t % 50 == 0 or ended:
            assert np.array_equal(env.render(0, 280, 210), foreign.resize(picture[0, 0], 280, 1))
        if ended and scored > 21 and t % 50 == 0:  # some steps into the next game
            break
    assert env.log()["n"] == ended == 1
    many = envs.make("ale:Pong", 2)
    many.reset()
    grey = foreign.resize(many.observations[0, -1], 112, 1)
    assert (many.render(0, 112, 84) == grey[:, :, None]).all()


def test_atari_seeds_and_names():
    pytest.importorskip("ale_py")
    env = envs.make("ale:Pong", 2)
    env.reset(seed=2**62)  # theirs have 32 bits
    for name in ("ale:ms_pacman", "ale:mspacman", "ale:MsPacman"):
        assert envs.spec(name).actions == spaces.Discrete(9)
    with pytest.raises(ValueError, match="ale:Pnog: there is no 'Pnog'; did you mean Pong"):
        envs.spec("ale:Pnog")
    with pytest.raises(ValueError, match="there is no 'Combat'"):  # for two players
        envs.spec("ale:Combat")


def test_envpool_is_made_anew_for_a_seed(games, monkeypatch):
    """With a stand-in: EnvPool takes its seed only when it is created."""
    made = []

    def make_gymnasium(env_id: str, **options: object) -> VectorEnv:
        made.append((env_id, options["seed"], options["num_envs"], options["num_threads"]))
        return gymnasium.make_vec("NextStepRows-v0", options["num_envs"])

    stand_in = SimpleNamespace(
        list_all_envs=lambda: ["Rows-v5"],
        make_spec=lambda env_id: SimpleNamespace(reward_threshold=9.0),
        make_gymnasium=make_gymnasium,
    )
    monkeypatch.setitem(sys.modules, "envpool", stand_in)
    envs.spec(f"gym:{games}:Bare-v0")  # imports it
    assert envs.spec("envpool:Rows-v5").solved == 9
    with pytest.raises(ValueError, match="did you mean Rows-v5"):
        envs.spec("envpool:Row-v5")
    made.clear()
    env = envs.make("envpool:Rows-v5", 3, seed=4, num_threads=2)
    env.reset(seed=6)
    env.reset()
    assert made[-1] == ("Rows-v5", 6, 3, 2) and len(made) == 2
    for _ in range(5):
        *_, infos = env.step(env.action_space.sample())
    assert "_ignored" in infos or env.log()["n"]


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "Taxi-v3"])
def test_envpool(name):
    pytest.importorskip("envpool", reason="EnvPool is not installed; it takes 900 MB")
    env = envs.make(f"envpool:{name}", 8)
    firsts = [env.reset(seed=seed)[0].copy() for seed in (1, 1, 2)]
    assert np.array_equal(firsts[0], firsts[1]) and not np.array_equal(firsts[0], firsts[2])
    truncated = 0
    for _ in range(250):
        *_, truncations, infos = env.step(env.action_space.sample())
        truncated += truncations.sum()
        assert ("final_obs" in infos) == truncations.any()
    log = env.log()
    assert log["n"] >= 8 and log["episode_length"] <= 200 and (name == "CartPole-v1") != bool(truncated)


# The other direction: what expects a Gymnasium vector environment drives one written in C.


@pytest.mark.parametrize("name", ["squared", "pong"])
def test_gymnasiums_wrappers_take_our_environments(name):
    env = envs.make(name, 16, copy=True)
    statistics = wrappers.RecordEpisodeStatistics(env, buffer_length=10**5)
    wrapped = wrappers.NormalizeReward(wrappers.ClipReward(statistics, -0.25, 0.25), gamma=0.98)
    observations, _ = wrapped.reset(seed=1)
    assert list(observations.shape) == list(env.observation_space.shape)
    rewards, finished = [], 0
    for _ in range(2000):
        actions = wrapped.action_space.sample()
        _, reward, terminals, truncations, _ = wrapped.step(actions)
        rewards.append(reward)
        finished += int((terminals | truncations).sum())
    assert finished and finished == len(statistics.return_queue)
    log = env.log()
    assert log["n"] == finished
    assert np.mean(statistics.return_queue) == pytest.approx(log["episode_return"], abs=1e-5)
    assert np.mean(statistics.length_queue) == pytest.approx(log["episode_length"])
    assert np.abs(rewards).max() > 0.25  # scaled up


def test_infos_as_a_list_of_dicts():
    env = wrappers.DictInfoToList(envs.make("squared", 4, config={"max_steps": 5}))
    env.reset(seed=0)
    for _ in range(5):
        *_, truncations, infos = env.step(np.zeros(4, int))
    assert truncations.all() and [set(info) for info in infos] == [{"final_obs"}] * 4


def test_a_plain_rollout_loop_learns_values_beyond_cuts():
    """A rollout as CleanRL writes it, with bootstraps from final_obs, and TD(0) on top.

    Nobody moves, episodes are cut. The reward of a step is 1 where the target lies at an even place, so the
    value is 1 / (1 - gamma) = 5 or 0: less without bootstraps, and in between with those of the next episode.
    """
    gamma, lr = 0.8, 0.5
    env = envs.make("squared", 8, config={"max_steps": 5})
    values: dict[bytes, float] = {}
    rewards: dict[bytes, int] = {}
    observations = env.reset(seed=0)[0].copy()
    border = np.ones((11, 11), bool)
    border[1:-1, 1:-1] = False
    for _ in range(600):
        next_observations, _, terminals, truncations, infos = env.step(np.zeros(8, np.int64))
        following = next_observations.copy()
        if "final_obs" in infos:
            cut = infos["_final_obs"]
            assert np.array_equal(cut, truncations)
            following[cut] = infos["final_obs"][cut]
        for i in range(8):
            key, after = observations[i].tobytes(), following[i].tobytes()
            rewards[key] = int(np.flatnonzero(observations[i] * border)[0] % 2 == 0)
            target = rewards[key] + gamma * values.get(after, 0.0) * (not terminals[i])
            values[key] = values.get(key, 0.0) + lr * (target - values.get(key, 0.0))
        observations = next_observations.copy()
    assert env.log()["n"] == 8 * 600 / 5
    assert len(values) == 40 and values == pytest.approx({key: 5 * r for key, r in rewards.items()}, abs=0.02)


def test_final_observations_are_the_old_episodes():
    """What is cut is seen to go on in the same world without the cut."""
    cut = envs.make("squared", 32, config={"max_steps": 3})
    whole = envs.make("squared", 32, config={"max_steps": 44})
    assert np.array_equal(cut.reset(seed=7)[0], whole.reset(seed=7)[0])
    rng = np.random.default_rng(0)
    for t in range(3):
        actions = rng.integers(0, 5, 32)
        observations, _, _, truncations, infos = cut.step(actions)
        wanted = whole.step(actions)[0]
        if t < 2:
            assert np.array_equal(observations, wanted)
    assert truncations.all() and np.array_equal(infos["final_obs"], wanted)


def test_batched_spaces_are_gymnasiums():
    env = envs.make("pong", 3)
    assert env.observation_space == batch_space(env.single_observation_space, 3)
    assert env.action_space.sample() in env.action_space
