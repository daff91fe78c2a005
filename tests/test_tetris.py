"""Tetris against a slow model of its rules, which is written from the rules and shares nothing with the C."""

import copy
import itertools

import numpy as np
import pytest

import build
import envs
from envs.vector import VecEnv

NOTHING, LEFT, RIGHT, ROTATE, SOFT_DROP, HARD_DROP, HOLD = range(7)
KINDS = "IOTSZJL"
SHAPES = {  # (row, column) in the box, as they appear
    "I": [(1, 0), (1, 1), (1, 2), (1, 3)],
    "O": [(0, 1), (0, 2), (1, 1), (1, 2)],
    "T": [(0, 1), (1, 0), (1, 1), (1, 2)],
    "S": [(0, 1), (0, 2), (1, 0), (1, 1)],
    "Z": [(0, 0), (0, 1), (1, 1), (1, 2)],
    "J": [(0, 0), (1, 0), (1, 1), (1, 2)],
    "L": [(0, 2), (1, 0), (1, 1), (1, 2)],
}
# The rotation system as offsets of each rotation, (right, up): a kick is the difference of two of them.
OFFSETS = {
    "I": [
        [(0, 0), (-1, 0), (2, 0), (-1, 0), (2, 0)],
        [(-1, 0), (0, 0), (0, 0), (0, 1), (0, -2)],
        [(-1, 1), (1, 1), (-2, 1), (1, 0), (-2, 0)],
        [(0, 1), (0, 1), (0, 1), (0, -1), (0, 2)],
    ],
    "others": [
        [(0, 0), (0, 0), (0, 0), (0, 0), (0, 0)],
        [(0, 0), (1, 0), (1, -1), (0, 2), (1, 2)],
        [(0, 0), (0, 0), (0, 0), (0, 0), (0, 0)],
        [(0, 0), (-1, 0), (-1, -1), (0, 2), (-1, 2)],
    ],
}


def turned(kind: str, rotation: int) -> list[tuple[int, int]]:
    """The cells of a piece in its box, which is 3 x 3, and for the I 4 x 4; an O does not turn."""
    cells = SHAPES[kind]
    last = 3 if kind == "I" else 2
    for _ in range(0 if kind == "O" else rotation):
        cells = [(column, last - row) for row, column in cells]
    return cells


class Model:
    """One game. Rows 0 to 19 are seen, -4 to -1 hidden. Kinds that are drawn are read from observations."""

    def __init__(self, observations: np.ndarray, config: dict):
        self.config = config
        self.filled: set[tuple[int, int]] = set()
        self.next = [KINDS[i] for i in observations[411:432].reshape(3, 7).argmax(1)]
        self.drawn = [KINDS[observations[400:407].argmax()], *self.next]  # all kinds, in order
        self.held, self.can_hold = None, True
        self.holes = self.steps = self.lines = self.pieces = self.tetrises = 0
        self.episode_return = 0.0
        self.over = None
        self.spawn(self.drawn[0])

    def cells(self, row: int, column: int, rotation: int) -> set[tuple[int, int]]:
        return {(row + r, column + c) for r, c in turned(self.kind, rotation)}

    def free(self, cells: set[tuple[int, int]]) -> bool:
        return not cells & self.filled and all(-4 <= r < 20 and 0 <= c < 10 for r, c in cells)

    def here(self, down: int = 0) -> set[tuple[int, int]]:
        return self.cells(self.row + down, self.column, self.rotation)

    def spawn(self, kind: str) -> None:
        self.kind, self.rotation, self.row, self.column, self.timer = kind, 0, -2, 3, 0
        if not self.free(self.here()):
            self.over = "no room"
        elif self.free(self.here(1)):
            self.row += 1

    def spawn_next(self, drawn: str) -> None:
        kind, *self.next = [*self.next, drawn]
        self.drawn.append(drawn)
        self.spawn(kind)

    def rotate(self) -> int | None:
        """Which of the five kicks fitted."""
        if self.kind == "O":
            return None
        to = (self.rotation + 1) % 4
        offsets = OFFSETS.get(self.kind, OFFSETS["others"])
        kicks = np.subtract(offsets[self.rotation], offsets[to])
        kicks -= kicks[0]  # which turning the box has done already
        for i, (right, up) in enumerate(kicks.tolist()):
            if self.free(self.cells(self.row - up, self.column + right, to)):
                self.row, self.column, self.rotation = self.row - up, self.column + right, to
                return i
        return None

    def heights(self) -> list[int]:
        return [max((20 - r for r, c in self.filled if c == column), default=0) for column in range(10)]

    def lock(self) -> float:
        config = self.config
        self.filled = self.filled | self.here()
        self.pieces += 1
        if all(row < 0 for row, _ in self.here()):
            self.over = "above the board"
            return 0
        full = [row for row in range(-4, 20) if all((row, c) in self.filled for c in range(10))]
        for row in full:
            self.filled = {(r + (r < row), c) for r, c in self.filled if r != row}
        before, self.holes = self.holes, sum(self.heights()) - len(self.filled)
        self.lines += len(full)
        self.tetrises += len(full) == 4
        self.can_hold = True
        return (
            config["reward_piece"]
            + config["reward_line"] * len(full)
            + config["reward_hole"] * (self.holes - before)
        )

    def step(self, action: int, drawn: str) -> tuple[float, list[str]]:
        """The reward, and what happened. `drawn` is the kind that comes into sight if a piece is drawn."""
        events, reward, falls, locks = [], 0.0, False, False
        if action in (LEFT, RIGHT):
            side = 1 if action == RIGHT else -1
            if self.free(self.cells(self.row, self.column + side, self.rotation)):
                self.column += side
            else:
                events.append("blocked")
        elif action == ROTATE:
            events.append("kicked" if self.rotate() else "turned")
        elif action == HARD_DROP:
            while self.free(self.here(1)):
                self.row += 1
            locks = True
        if action == HOLD and self.can_hold:
            self.can_hold, held, self.held = False, self.held, self.kind
            if held:
                self.spawn(held)
            else:
                self.spawn_next(drawn)
            events.append("hold")
        else:
            self.timer += 1
            falls = action == SOFT_DROP or self.timer >= self.config["steps_per_row"]
        if (falls or locks) and not locks:
            self.timer = 0
            if self.free(self.here(1)):
                self.row += 1
            else:
                locks = True
        if locks:
            lines = self.lines
            reward = self.lock()
            if not self.over:
                self.spawn_next(drawn)
            events += ["lock", f"lines {self.lines - lines}"]
        if self.over:
            reward += self.config["reward_game_over"]
            events.append(self.over)
        self.steps += 1
        self.episode_return += reward
        return reward, events

    def observation(self) -> np.ndarray:
        board, landing = np.zeros((2, 20, 10))
        for row, column in self.filled:
            if row >= 0:
                board[row, column] = 1
        down = 0
        while self.free(self.here(down + 1)):
            down += 1
        for row, column in self.here(down):
            while self.free({(row, column)}):  # all below, until something is filled
                if row >= 0:
                    landing[row, column] = -1
                row += 1
        for cells, rows, mark in ((self.here(down), landing, 1), (self.here(), board, -1)):
            for row, column in cells:
                if row >= 0:
                    rows[row, column] = mark
        kinds = [[kind == k for k in KINDS] for kind in (self.kind, *self.next, self.held)]
        rotation = [self.rotation == i for i in range(4)]
        due = self.timer + 1 >= self.config["steps_per_row"]
        flags = [self.can_hold, due]
        steps = [min(max(b - a, -3), 3) for a, b in itertools.pairwise(self.heights())]
        contour = [[step == s for s in range(-3, 4)] for step in steps]
        return np.concatenate([board.flat, landing.flat, kinds[0], rotation, *kinds[1:], flags, *contour])


def compare(env: VecEnv, steps: int, policy) -> dict[str, int]:
    """Plays beside the model, every number of which must be the environment's; returns how often what
    happened. `policy(model)` is the action."""
    models = [Model(row, env.config) for row in env.observations]
    happened: dict[str, int] = {}
    for step in range(steps):
        actions = np.array([policy(model) for model in models])
        observations, rewards, terminals, truncations, infos = env.step(actions)
        for i, model in enumerate(models):
            row = infos["final_obs"][i] if truncations[i] else observations[i]
            reward, events = model.step(actions[i], KINDS[row[425:432].argmax()])
            for event in events:
                happened[event] = happened.get(event, 0) + 1
            assert rewards[i] == pytest.approx(reward, abs=1e-5), (step, i, events)
            assert terminals[i] == bool(model.over), (step, i, events)
            assert truncations[i] == (not model.over and model.steps >= env.config["max_steps"])
            if not model.over:
                np.testing.assert_array_equal(row, model.observation(), f"step {step}, copy {i}: {events}")
            if not terminals[i] and not truncations[i]:
                continue
            log = env.log(i, i + 1)
            assert log["n"] == 1 and log["score"] == model.lines and log["episode_length"] == model.steps
            assert log["perf"] == pytest.approx(min(1, model.lines / 200))
            assert log["episode_return"] == pytest.approx(model.episode_return, rel=1e-4, abs=1e-4)
            assert log["pieces"] == model.pieces and log["tetrises"] == model.tetrises
            check_bags(model.drawn[: -1 if model.over else None])  # the last one was not seen
            models[i] = Model(observations[i], env.config)
            np.testing.assert_array_equal(observations[i], models[i].observation())
    return happened


def check_bags(drawn: list[str]) -> None:
    for start in range(0, len(drawn), 7):
        bag = drawn[start : start + 7]
        assert len(set(bag)) == len(bag), bag


def started(copies: int, **config) -> VecEnv:
    env = envs.make("tetris", copies, config=config)
    env.reset(seed=1)
    return env


@pytest.mark.parametrize("steps_per_row", [1, 2, 6])
def test_random_play_follows_the_rules(steps_per_row):
    env = started(8, steps_per_row=steps_per_row, max_steps=400)
    rng = np.random.default_rng(0)
    weights = np.array([2, 3, 3, 5, 3, 0.3, 1])
    happened = compare(env, 2000, lambda model: rng.choice(7, p=weights / weights.sum()))
    assert min(happened[event] for event in ("blocked", "kicked", "hold", "lock")) > 30
    assert happened["no room"] > 0


def test_every_kick_is_as_the_rules_have_it():
    """On random boards, as the last kicks need holes that play seldom makes."""
    library = build.load(
        "tetris",
        """typedef struct { uint16_t rows[32]; int kind, rotation, row, column; ...; } Tetris;
        void tetris_rotate(Tetris *);""",
    )
    tetris, rng = library.ffi.new("Tetris *"), np.random.default_rng(0)
    rows = np.frombuffer(library.ffi.buffer(tetris.rows), np.uint16)
    env = started(1)
    happened = {}
    for trial in range(40_000):
        if trial % 20 == 0:
            board = rng.random((24, 10)) < rng.random()
            rows[:] = 0xFFFF
            rows[4:28] = 0xC00F + (board << np.arange(13, 3, -1)).sum(1)
        model = Model(env.observations[0], env.config)
        model.filled = {(row - 4, column) for row, column in np.argwhere(board).tolist()}
        model.kind, model.rotation = KINDS[rng.integers(7)], int(rng.integers(4))
        model.row, model.column = int(rng.integers(-4, 20)), int(rng.integers(-2, 9))
        if not model.free(model.here()) or (model.kind == "O" and model.rotation):
            continue
        tetris.kind, tetris.rotation = KINDS.index(model.kind), model.rotation
        tetris.row, tetris.column = model.row + 4, model.column
        library.lib.tetris_rotate(tetris)
        kick = model.kind == "I", model.rotation, model.rotate()
        happened[kick] = happened.get(kick, 0) + 1
        found = (tetris.row - 4, tetris.column, tetris.rotation)
        assert found == (model.row, model.column, model.rotation), kick
    assert all(
        happened.get((i, rotation, kick), 0) >= 3
        for i in (0, 1)
        for rotation in range(4)
        for kick in (0, 1, 2, 3, 4, None)
    ), happened


class Planner:
    """Puts pieces where they leave few holes, and keeps the last column free for an I."""

    def __call__(self, model: Model) -> int:
        if not hasattr(model, "plan") or model.plan[0] != model.pieces:
            places = [(self.value(model, r, c), r, c) for r in range(4) for c in range(-2, 9)]
            model.plan = (model.pieces, *max(places)[1:])
        _, rotation, column = model.plan
        if model.rotation != rotation and model.kind != "O":
            return ROTATE
        return LEFT if column < model.column else RIGHT if column > model.column else HARD_DROP

    def value(self, model: Model, rotation: int, column: int) -> float:
        row = model.row
        if not model.free(model.cells(row, column, rotation)):
            return -np.inf
        while model.free(model.cells(row + 1, column, rotation)):
            row += 1
        after = copy.copy(model)
        after.row, after.column, after.rotation = row, column, rotation
        after.lock()
        lines = after.lines - model.lines
        spoilt = any(c == 9 for _, c in after.filled) - (lines == 4)
        height = sum(19 - r for r, _ in after.here())
        roughness = sum(abs(a - b) for a, b in itertools.pairwise(after.heights()))
        return 100 * (lines == 4) - 3 * after.holes - 0.5 * roughness - 5 * spoilt - 0.3 * height


def test_lines_and_their_colors():
    env = started(4, steps_per_row=1000, reward_line=2.0, reward_game_over=-3.0)
    happened = compare(env, 700, Planner())
    assert all(happened[f"lines {n}"] > 0 for n in (1, 2, 4))
    pictures = [env.render(copy, 28 * 10, 22 * 10) for copy in range(4)]
    for row, picture in zip(env.observations, pictures, strict=True):
        centres = picture[15:215:10, 95:195:10]  # of the cells; the board begins at 90, 10
        empty = (centres == centres[0, 0]).all(2)
        filled = row[:200].reshape(20, 10) != 0
        assert (empty == ~filled).all()


def test_pieces_fall_and_pile_up():
    """Untouched pieces fall by a row every fifth step, and pile up in the middle until there is no room."""
    env = started(16, steps_per_row=5)
    first = (env.observations[:, :200] == -1).reshape(16, 20, 10).any(2).argmax(1)
    assert (first == 0).all()
    for step in range(1, 100):
        board = env.step(np.zeros(16, int))[0][:, :200].reshape(16, 20, 10)
        assert not (board == 1).any()  # none has locked
        np.testing.assert_array_equal((board == -1).any(2)[:, ::-1].argmax(1), 19 - step // 5)
    board = env.step(np.zeros(16, int))[0][:, :200]
    assert ((board == 1).sum(1) == 4).all()
    while not env.log(0, 1)["n"]:
        _, rewards, terminals, *_ = env.step(np.zeros(16, int))
    assert terminals[0] and rewards[0] < -0.5


def test_bags_are_shuffled():
    """The first four kinds differ, and each is equally likely in each place."""
    env = envs.make("tetris", 7000)
    observations = env.reset(seed=0)[0]
    kinds = np.stack([observations[:, i : i + 7].argmax(1) for i in (400, 411, 418, 425)], 1)
    assert (np.diff(np.sort(kinds)) > 0).all()
    counts = (kinds[:, :, None] == np.arange(7)).sum(0)
    assert (np.abs(counts - 1000) < 5 * np.sqrt(1000 * 6 / 7)).all()  # five standard deviations


def test_hold_once_a_piece():
    env = started(16)
    kinds = [env.observations[:, i : i + 7].argmax(1) for i in (400, 411)]
    for _ in range(2):  # the second does nothing
        observations = env.step(np.full(16, HOLD))[0]
        np.testing.assert_array_equal(observations[:, 432:439].argmax(1), kinds[0])
        np.testing.assert_array_equal(observations[:, 400:407].argmax(1), kinds[1])
        assert not observations[:, 439].any()
    assert (env.step(np.full(16, HARD_DROP))[0][:, 439] == 1).all()
    observations = env.step(np.full(16, HOLD))[0]
    np.testing.assert_array_equal(observations[:, 400:407].argmax(1), kinds[0])
