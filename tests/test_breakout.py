"""Breakout: its rules, against a simulation in tiny steps, and that it can be solved."""

import numpy as np
import pytest

import envs
from envs.vector import ROWS, VecEnv

COPIES = 64
WIDTH, FLOOR, PADDLE_Y, HALF = 144, 160, 150, 1.5  # the ball is a square, its side twice HALF
BRICK_WIDTH, BRICK_HEIGHT, BRICKS_TOP = 8, 6, 24
STAY, LEFT, RIGHT = range(3)
POINTS = np.repeat([7, 4, 1], 2)[:, None]  # of the rows


def started(copies: int = COPIES, seed: int = 0, **config) -> VecEnv:
    env = envs.make("breakout", copies, config=config)
    env.reset(seed=seed)
    return env


class Seen:
    """What observations say, in the units of the game."""

    def __init__(self, env: VecEnv):
        rows = env.observations.astype(np.float64)
        self.paddle, self.x = (rows[:, [0, 2]].T + 1) * WIDTH / 2
        self.y = (rows[:, 3] + 1) * FLOOR / 2
        self.dx, self.dy = rows[:, 4:6].T.copy()
        self.width = env.config["paddle_width"] * np.where(rows[:, 1] == 1, 1, 0.5)
        self.faster = (rows[:, 6] * 4).round().astype(int)
        self.lives = (rows[:, 7] * 5).round().astype(int)
        self.score = (rows[:, 8] * 864).round().astype(int)
        self.wall = rows[:, 9].astype(int)
        self.bricks = rows[:, 10:].reshape(-1, 6, 18) == 1


class Player:
    """Moves to where the ball will come down, as far off the middle as a random number says for each ball."""

    def __init__(self, env: VecEnv, seed: int = 0):
        self.env, self.rng = env, np.random.default_rng(seed)
        self.offset = np.zeros(env.num_envs)
        self.step = env.config["paddle_speed"] * env.config["frameskip"]

    def wish(self) -> np.ndarray:
        """How far the paddle should move, in steps."""
        now = Seen(self.env)
        turned = now.y < 100  # when it is up there, think of a new place to meet it
        self.offset[turned] = self.rng.uniform(-1, 1, turned.sum())
        along = now.x + np.where(now.dy > 0, now.dx / now.dy * (PADDLE_Y - HALF - now.y), 0)
        folded = np.abs((along - HALF) % (2 * (WIDTH - 2 * HALF)))
        lands = HALF + np.minimum(folded, 2 * (WIDTH - 2 * HALF) - folded)
        margin = np.maximum(now.width / 2 + HALF - self.step / 2 - 0.3, 0)
        return (lands + self.offset * margin - now.paddle) / self.step

    def discrete(self) -> np.ndarray:
        wish = self.wish()
        return np.where(wish < -0.5, LEFT, np.where(wish > 0.5, RIGHT, STAY))


def bricks_under(bricks: np.ndarray, x: np.ndarray, y: np.ndarray, half: float = HALF) -> tuple:
    """Of each ball's four corners: how far its middle is from that of the brick there [copies, 4], infinitely
    where none stands, and the row and column of the brick, which counts from one."""
    padded = np.pad(bricks, ((0, 0), (1, 1), (1, 1)))
    columns = np.stack([x - half, x + half, x - half, x + half], 1) // BRICK_WIDTH + 1
    rows = (np.stack([y - half, y - half, y + half, y + half], 1) - BRICKS_TOP) // BRICK_HEIGHT + 1
    rows, columns = np.clip(rows, 0, 7).astype(int), np.clip(columns, 0, 19).astype(int)
    across = x[:, None] - (columns - 0.5) * BRICK_WIDTH
    down = y[:, None] - BRICKS_TOP - (rows - 0.5) * BRICK_HEIGHT
    stands = padded[np.arange(len(x))[:, None], rows, columns]
    return np.where(stands, across**2 + down**2, np.inf), rows, columns


def inside_a_brick(now: Seen) -> np.ndarray:
    return np.isfinite(bricks_under(now.bricks, now.x, now.y, HALF - 1e-3)[0]).any(1)


def simulate(env: VecEnv, motion: np.ndarray, steps: int) -> Seen:
    """One step by the rules, in many tiny ones: each first sideways, then up or down, and undone where it
    leads into something. Not for copies whose ball becomes faster or is lost meanwhile.

    motion        of the paddle, units a frame [copies]
    """
    now = Seen(env)
    way = env.config["ball_speed"] * (1 + 0.25 * now.faster) * env.config["frameskip"] / steps
    paddle = now.paddle.copy()

    def breaks() -> np.ndarray:
        """Whether a ball is over bricks; the one nearest to it goes."""
        far, rows, columns = bricks_under(now.bricks, now.x, now.y)
        copies = np.flatnonzero(np.isfinite(far).any(1))
        nearest = far[copies].argmin(1)
        now.bricks[copies, rows[copies, nearest] - 1, columns[copies, nearest] - 1] = False
        return np.isfinite(far).any(1)

    for i in range(1, steps + 1):
        old = now.x.copy()
        now.x += now.dx * way
        bounced = (now.x < HALF) | (now.x > WIDTH - HALF) | breaks()
        now.x[bounced], now.dx[bounced] = old[bounced], -now.dx[bounced]

        old = now.y.copy()
        now.y += now.dy * way
        back = now.y < HALF
        bounced = back | breaks()
        now.y[bounced], now.dy[bounced] = old[bounced], -now.dy[bounced]
        now.width[back] = env.config["paddle_width"] / 2
        now.paddle = paddle + motion * env.config["frameskip"] * i / steps
        now.paddle = np.clip(now.paddle, now.width / 2, WIDTH - now.width / 2)
        offset = (now.x - now.paddle) / (now.width / 2 + HALF)
        met = (old < PADDLE_Y - HALF) & (now.y >= PADDLE_Y - HALF) & (np.abs(offset) <= 1)
        now.y[met], now.dx[met] = old[met], 0.7 * offset[met]
        now.dy[met] = -np.sqrt(1 - now.dx[met] ** 2)
    return now


@pytest.mark.parametrize(
    "config, steps, ambiguous",  # which of two bricks, or which side of a corner, may be a matter of rounding
    [
        ({}, 2000, 0.005),
        ({"frameskip": 1, "ball_speed": 60.0, "paddle_width": 120.0}, 5000, 0.02),
        ({"frameskip": 3, "ball_speed": 25.0, "paddle_width": 100.0, "paddle_speed": 20.0}, 6000, 0.02),
    ],
    ids=["default", "fast", "fast and long"],
)
def test_ball_flies_as_in_tiny_steps(config, steps, ambiguous):
    """Fast ones pass a dozen bricks and walls in one step."""
    env = started(512, seed=3, **config)
    player, rng, compared, broken, returned = Player(env), np.random.default_rng(0), 0, 0, 0
    wrong = 0
    for _ in range(2):
        for _ in range(150):
            env.step(player.discrete())
        actions = rng.integers(0, 3, 512)
        before = Seen(env)
        want = simulate(env, np.array([0, -1, 1])[actions] * env.config["paddle_speed"], steps)
        env.step(actions)
        got = Seen(env)
        same = (got.lives == before.lives) & (got.faster == before.faster) & (got.wall == before.wall)
        same &= got.score >= before.score
        far = [np.abs(getattr(got, name) - getattr(want, name)) for name in ("x", "y", "paddle", "width")]
        far += [50 * np.abs(got.dx - want.dx), 50 * np.abs(got.dy - want.dy)]
        differs = (np.max(far, 0) > 0.1) | (got.bricks != want.bricks).any((1, 2))
        wrong += (same & differs).sum()
        compared += same.sum()
        broken += (before.bricks & ~got.bricks)[same].sum()
        returned += ((before.dy > 0) & (got.dy < 0) & (got.y > 100))[same].sum()
    assert compared > 300 and broken > 50 and returned > 20
    assert wrong <= ambiguous * compared, f"{wrong} of {compared}"


@pytest.mark.parametrize("frameskip", [1, 4, 64])
@pytest.mark.parametrize("ball_speed", [0.1, 2.5, 7.0, 50.0, 1000.0])
def test_ball_stays_in_the_court_and_out_of_bricks(ball_speed, frameskip):
    env = started(ball_speed=ball_speed, frameskip=frameskip, paddle_width=144.0, paddle_speed=100.0)
    player, before = Player(env), Seen(env)
    for _ in range(600):
        *_, terminals, _, _ = env.step(player.discrete())
        now = Seen(env)
        assert (now.x >= HALF - 1e-4).all() and (now.x <= WIDTH - HALF + 1e-4).all()
        assert (now.y >= HALF - 1e-4).all() and (now.y <= FLOOR).all()
        assert not inside_a_brick(now).any()
        np.testing.assert_allclose(now.dx**2 + now.dy**2, 1, rtol=1e-5)
        assert (np.abs(now.dx) <= 0.7 + 1e-5).all()  # never flat, so each ball comes back
        going_on = ~terminals & (now.wall == before.wall)
        assert not (now.bricks & ~before.bricks)[going_on].any()
        before = now


def test_random_offsets_solve_it():
    env = started()
    player, logs = Player(env), []
    while len(logs) < COPIES:
        *_, terminals, truncations, _ = env.step(player.discrete())
        assert not truncations.any()
        logs += [env.log(copy, copy + 1) for copy in np.flatnonzero(terminals).tolist()]
    score, steps = (np.mean([log[field] for log in logs]) for field in ("score", "episode_length"))
    print(f"score {score:.0f}, {steps:.0f} steps")
    assert score > 840 and steps < 3500
    for log in logs:
        assert log["perf"] == pytest.approx(log["score"] / 864)
        assert log["episode_return"] == log["bricks"]
        assert (log["bricks"] == 216) == (log["score"] == 864)
        assert log["hits"] > 100


def test_bricks_score_and_walls_refill_once():
    config = {"lost_reward": -0.5, "brick_reward": 0.25, "ball_speed": 6.0, "paddle_width": 144.0}
    env = started(paddle_speed=20.0, **config)
    player, before, refilled, won, dodged = Player(env), Seen(env), 0, 0, 0
    for _ in range(3000):
        # Where the first wall is gone, half of the copies let the ball drop.
        dodge = ~before.bricks.any((1, 2)) & (np.arange(COPIES) % 2 == 0)
        away = np.where(before.x < WIDTH / 2, RIGHT, LEFT)
        _, rewards, terminals, _, _ = env.step(np.where(dodge, away, player.discrete()))
        now = Seen(env)
        lost = np.where(terminals, 0, before.lives - now.lives)
        points = now.score - before.score
        same = ~terminals & (now.wall == before.wall)
        broken = before.bricks & ~now.bricks
        np.testing.assert_array_equal(points[same], (broken * POINTS).sum((1, 2))[same])
        np.testing.assert_allclose(rewards[same], (0.25 * broken.sum((1, 2)) - 0.5 * lost)[same], atol=1e-5)
        assert now.bricks[lost > 0].any((1, 2)).all()
        dodged += (dodge & (lost > 0)).sum()
        next_wall = ~terminals & (now.wall > before.wall)
        assert (before.wall[next_wall] == 0).all() and (before.score[next_wall] > 400).all()
        assert (now.score[next_wall] >= 432).all() and (now.bricks[next_wall].sum((1, 2)) > 90).all()
        assert not (before.wall > now.wall)[~terminals].any()
        for copy in np.flatnonzero(terminals):
            score = env.log(int(copy), int(copy) + 1)["score"]
            assert score == 864 or (before.lives[copy] == 1 and score < 864)
            won += score == 864
        assert now.bricks[terminals].all()
        assert (now.lives - now.score - now.wall)[terminals].tolist() == [5] * terminals.sum()
        refilled += next_wall.sum()
        before = now
    assert refilled > COPIES and won > COPIES and dodged > 5


def test_five_balls():
    env = started()
    lost = np.zeros(COPIES, int)
    before = Seen(env)
    for _ in range(400):
        *_, terminals, _, _ = env.step(np.full(COPIES, LEFT))  # into the corner
        now = Seen(env)
        gone = terminals | (now.lives < before.lives)
        lost += gone
        np.testing.assert_array_equal(terminals, gone & (before.lives == 1))
        np.testing.assert_allclose(now.paddle[gone], WIDTH / 2, rtol=1e-6)
        np.testing.assert_allclose(now.y[gone], 84, rtol=1e-6)
        assert (now.dy[gone] > 0).all() and (now.faster[gone] == 0).all() and (now.width[gone] == 24).all()
        before = now
    assert (lost > 10).all()
    assert env.log()["score"] < 60


def test_paddle_halves_at_the_back_wall_and_speed_rises():
    env = started(frameskip=1)
    player, before = Player(env), Seen(env)
    returns, reached, halved = np.zeros((3, COPIES), int)
    seen = set()
    for _ in range(4000):
        *_, terminals, _, _ = env.step(player.discrete())
        now = Seen(env)
        new = terminals | (now.lives < before.lives)
        broken = (before.bricks & ~now.bricks) & ((now.wall == before.wall) & ~new)[:, None, None]
        rows = np.where(broken.any(2), np.arange(6), 9).min(1)
        returns += ~new & (before.dy > 0) & (now.dy < 0) & (now.y > 100)
        reached = np.maximum(reached, np.select([rows < 2, rows < 4], [2, 1], 0))
        halved |= (before.dy < 0) & (now.dy > 0) & (now.y < 10) & (before.y < 10)
        returns[new] = reached[new] = halved[new] = 0
        np.testing.assert_array_equal(now.faster, reached + (returns >= 4) + (returns >= 12))
        np.testing.assert_array_equal(now.width, np.where(halved, 12, 24))
        free = ~new & (np.minimum(before.y, now.y) > 65) & (np.maximum(before.y, now.y) < 145)
        free &= (np.abs(before.x - WIDTH / 2) < 65) & (before.dx == now.dx)
        moved = np.hypot(now.x - before.x, now.y - before.y)
        np.testing.assert_allclose(moved[free], (2.5 + 0.625 * before.faster)[free], rtol=1e-3)
        seen |= set(zip(now.faster.tolist(), halved.tolist(), strict=True))
        before = now
    assert {faster for faster, _ in seen} == {0, 1, 2, 3, 4} and (4, 1) in seen


def test_frames_of_a_step_are_a_matter_of_time_only():
    """One step of four frames is four steps of one."""
    long, short = started(frameskip=4), started(frameskip=1)
    player, same = Player(long), np.ones(COPIES, bool)
    for _ in range(60):
        actions = player.discrete()
        before = Seen(long)
        long.step(actions)
        for _ in range(4):
            short.step(actions)
        same &= Seen(long).lives == before.lives  # which ends a step early
        # Rounding may decide on which side of a corner a ball flies on.
        same &= np.isclose(long.observations, short.observations, atol=2e-3).all(1)
    assert same.sum() > COPIES / 2


def test_continuous_actions_play_as_the_discrete_ones():
    discrete, continuous = started(), started(continuous=1)
    player, rng = Player(discrete), np.random.default_rng(0)
    for step in range(2000):
        actions = rng.integers(0, 3, COPIES) if step < 500 else player.discrete()
        discrete.step(actions)
        continuous.step(np.float32([0, -1, 1])[actions, None])
        for rows in set(ROWS) - {"actions"}:
            np.testing.assert_array_equal(getattr(discrete, rows), getattr(continuous, rows), rows)
    assert discrete.log() == continuous.log()


def test_continuous_action_is_a_share_of_the_paddles_speed():
    env = started(continuous=1)
    for action in (-0.5, 0.25, 1.0):
        before = Seen(env).paddle
        env.step(np.full((COPIES, 1), action))
        np.testing.assert_allclose(Seen(env).paddle - before, action * 12, rtol=1e-3)


@pytest.mark.parametrize("continuous", [0, 1])
def test_keys_are_actions(continuous):
    env, spec = started(1, continuous=continuous), envs.spec("breakout")
    for action in (*spec.keys(env.config).values(), spec.idle):
        env.step(np.full(env.actions.shape, action, env.actions.dtype))
    assert list(spec.keys(env.config)) == ["left", "right"]
