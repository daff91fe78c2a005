"""Go: the rules and the opponent's conduct, against a slow and plain Go in Python."""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

import build
import envs

AGENT, OPPONENT = 1, -1
SCALARS = 6


# Go in Python: a board is a dict from (row, column) to 1, -1 or 0.


def empty_board(size: int) -> dict:
    return {(row, column): 0 for row in range(size) for column in range(size)}


def neighbours(board: dict, point: tuple) -> list:
    return beside(math.isqrt(len(board)), *point)


@functools.cache
def beside(size: int, row: int, column: int) -> list:
    points = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
    return [(r, c) for r, c in points if 0 <= r < size and 0 <= c < size]


def group(board: dict, point: tuple) -> tuple[set, set]:
    """The connected points of one colour (or empty), and the points of others beside them."""
    inside, border, todo = {point}, set(), [point]
    while todo:
        for near in neighbours(board, todo.pop()):
            if board[near] != board[point]:
                border.add(near)
            elif near not in inside:
                inside.add(near)
                todo.append(near)
    return inside, border


def liberties(board: dict, point: tuple) -> set:
    return {near for near in group(board, point)[1] if board[near] == 0}


def played(board: dict, point: tuple, colour: int) -> tuple[dict, set]:
    """The board after a move on an empty point, and the stones it took; the move may be a suicide."""
    after = dict(board)
    after[point] = colour
    captured = set()
    for near in neighbours(board, point):
        if after[near] == -colour and not liberties(after, near):
            captured |= group(after, near)[0]
    after.update(dict.fromkeys(captured, 0))
    return after, captured


def ko_after(board: dict, point: tuple, captured: set) -> tuple | None:
    """The point where a single stone that was just taken by a single stone could take it back."""
    alone = len(group(board, point)[0]) == 1 and liberties(board, point) == captured
    return next(iter(captured)) if len(captured) == 1 and alone else None


def legal(board: dict, colour: int, ko: tuple | None) -> set:
    points = {point for point, stone in board.items() if stone == 0 and point != ko}
    sure = {point for point in points if any(board[near] == 0 for near in neighbours(board, point))}
    return sure | {p for p in points - sure if liberties(played(board, p, colour)[0], p)}


def area(board: dict, colour: int) -> int:
    points = sum(stone == colour for stone in board.values())
    rest = {point for point, stone in board.items() if stone == 0}
    while rest:
        inside, border = group(board, next(iter(rest)))
        rest -= inside
        points += len(inside) * ({board[point] for point in border} == {colour})
    return points


def conduct(board: dict, ko: tuple | None) -> list[set]:
    """Sets of points of which the opponent plays one of the first that is not empty."""
    points = legal(board, OPPONENT, ko)
    after = {point: played(board, point, OPPONENT) for point in points}
    captures = {point for point in points if after[point][1]}
    breathing = {point for point in points if len(liberties(after[point][0], point)) > 1}
    own = {p: len(liberties(board, p)) for p, stone in board.items() if stone == OPPONENT}
    agents = {p: len(liberties(board, p)) for p, stone in board.items() if stone == AGENT}
    escapes = {p for p in breathing if any(own.get(near) == 1 for near in neighbours(board, p))}
    enclosed = {p for p in points if all(near in own for near in neighbours(board, p))}
    sensible = breathing - enclosed
    threats = {p for p in sensible if any(agents.get(near) == 2 for near in neighbours(board, p))}
    dull = {
        p for p in sensible if len(neighbours(board, p)) < 4 and not any(map(board.get, neighbours(board, p)))
    }
    return [captures, escapes, threats, sensible - dull, dull]


# The functions in C, for positions that are set up.

DECLARATIONS = """
typedef struct { uint64_t word[6]; } GoBits;
typedef struct { int size, words; } GoShape;
typedef struct { uint64_t state; } Rng;
typedef struct { Rng rng; GoBits empty, stones[2], atari[2], two[2]; int ko; ...; } Go;
GoBits go_legal(const Go *go, int side, GoShape shape);
void go_play(Go *go, int side, int bit, GoShape shape);
void go_area(const Go *go, int area[2], GoShape shape);
int go_choose(Go *go, GoShape shape);
"""
SIDES = {AGENT: 0, OPPONENT: 1}


class Position:
    """A position in C."""

    def __init__(self, size: int, seed: int = 0):
        module = build.load("go", DECLARATIONS)
        self.ffi, self.lib = module.ffi, module.lib
        self.size = size
        self.shape = {"size": size, "words": (size * (size + 1) + 63) // 64}
        self.go = self.ffi.new("Go *")
        self.go.rng.state = seed
        self.go.ko = -1
        for point in empty_board(size):
            self.go.empty.word[self.bit(point) // 64] |= 1 << self.bit(point) % 64

    def bit(self, point: tuple) -> int:
        return point[0] * (self.size + 1) + point[1]

    def point(self, bit: int) -> tuple | None:
        return None if bit < 0 else divmod(bit, self.size + 1)

    def points(self, bits) -> set:
        number = sum(bits.word[i] << 64 * i for i in range(6))
        return {self.point(bit) for bit in range(64 * 6) if number >> bit & 1}

    def play(self, point: tuple, colour: int) -> None:
        self.lib.go_play(self.go, SIDES[colour], self.bit(point), self.shape)

    def legal(self, colour: int) -> set:
        return self.points(self.lib.go_legal(self.go, SIDES[colour], self.shape))

    def area(self) -> tuple[int, int]:
        areas = self.ffi.new("int[2]")
        self.lib.go_area(self.go, areas, self.shape)
        return tuple(areas)

    def choose(self) -> tuple | None:
        return self.point(self.lib.go_choose(self.go, self.shape))

    def board(self) -> dict:
        board = empty_board(self.size)
        for colour, side in SIDES.items():
            board.update(dict.fromkeys(self.points(self.go.stones[side]), colour))
        return board


def set_up(*lines: str) -> Position:
    """A position from a picture: # the agent's stones, O the opponent's; the rest of the board is empty."""
    position = Position(7)
    for row, line in enumerate(lines):
        for column, stone in enumerate(line.replace(" ", "")):
            if stone != ".":
                position.play((row, column), AGENT if stone == "#" else OPPONENT)
    assert sum(map(abs, position.board().values())) == sum(
        line.count("#") + line.count("O") for line in lines
    )
    return position


@pytest.mark.parametrize(
    "size, games, every",
    [(7, 80, 2), (8, 10, 3), (9, 30, 4), (11, 6, 10), (13, 4, 15), (16, 2, 25), (19, 2, 30)],
)
def test_rules_on_random_boards(size, games, every):
    """Random moves of either side, in any order, against the Go above; the position at every few moves."""
    rng = np.random.default_rng(size)
    kos = suicides = 0
    for game in range(games):
        position, board = Position(size, game), empty_board(size)
        for move in range(int(1.5 * size * size)):
            colour = int(rng.choice((AGENT, OPPONENT)))
            choice = sorted(position.legal(colour))
            if not choice:
                break
            point = choice[rng.integers(len(choice))]
            board, captured = played(board, point, colour)
            position.play(point, colour)
            ko = ko_after(board, point, captured)
            assert position.board() == board
            assert position.point(position.go.ko) == ko
            kos += ko is not None
            if move % every and ko is None:
                continue
            counts = {p: len(liberties(board, p)) for p, stone in board.items() if stone}
            for side_colour, side in SIDES.items():
                expected = legal(board, side_colour, ko)
                assert position.legal(side_colour) == expected
                empties = sum(stone == 0 for stone in board.values())
                suicides += empties - len(expected) - (ko is not None)
                for stones, number in ((position.go.atari[side], 1), (position.go.two[side], 2)):
                    of_side = {p for p, n in counts.items() if n == number and board[p] == side_colour}
                    assert position.points(stones) == of_side
            assert position.area() == (area(board, AGENT), area(board, OPPONENT))
    assert kos and suicides


def test_ko():
    position = set_up(
        ". # O .",
        "# . # O",
        ". # O .",
    )
    position.play((1, 1), OPPONENT)  # takes nothing: it is a legal move only as the capture of (1, 2)
    assert position.board()[1, 2] == 0 and position.board()[1, 1] == OPPONENT
    assert (1, 2) not in position.legal(AGENT)
    position.play((6, 6), AGENT)
    position.play((6, 0), OPPONENT)
    assert (1, 2) in position.legal(AGENT)
    position.play((1, 2), AGENT)
    assert position.board()[1, 1] == 0 and (1, 1) not in position.legal(OPPONENT)


def test_taking_back_two_stones_is_no_ko():
    position = set_up(
        ". O O # .",
        "O # # . #",
        ". O O # .",
    )
    position.play((1, 3), OPPONENT)
    assert position.board()[1, 1] == position.board()[1, 2] == 0 and position.go.ko == -1
    assert (1, 2) in position.legal(AGENT)
    position.play((1, 2), AGENT)
    assert position.board()[1, 3] == 0


def test_snapback():
    position = set_up(
        ". # # # .",
        "# O O . #",
        "# O # O #",
        ". # . # .",
    )
    position.play((1, 3), AGENT)  # leaves the group of (1, 1) without a liberty
    assert position.board()[1, 1] == 0


def test_suicide_is_illegal_unless_it_captures():
    position = set_up(
        ". O . . .",
        "O O . . .",
    )
    assert (0, 0) not in position.legal(AGENT) and (0, 0) in position.legal(OPPONENT)
    for point in ((0, 2), (1, 2), (2, 0), (2, 1)):
        position.play(point, AGENT)
    assert (0, 0) in position.legal(AGENT)
    position.play((0, 0), AGENT)
    assert not [point for point, stone in position.board().items() if stone == OPPONENT]


def test_suicide_of_a_group_is_illegal():
    position = set_up(
        "# . O",
        "O O O",
    )
    assert (0, 1) not in position.legal(AGENT)


def test_shared_liberties_are_nobodys():
    """As in a seki: two groups with the same two liberties, which the opponent leaves alone."""
    position = set_up(
        "# # . O O # .",
        ". # . O O # .",
        "# # # O O # .",
        ". # O O O # .",
        "# # # # # # .",
    )
    board = position.board()
    assert position.area() == (area(board, AGENT), area(board, OPPONENT))
    empties = {point for point, stone in board.items() if stone == 0}
    assert position.area()[0] + position.area()[1] == 49 - 2 and {(0, 2), (1, 2)} <= empties
    for _ in range(50):
        assert position.choose() not in {(0, 2), (1, 2)}


def test_an_empty_board_is_nobodys():
    assert Position(9).area() == (0, 0)
    position = Position(9)
    position.play((4, 4), OPPONENT)
    assert position.area() == (0, 81)


def test_opponent_takes_saves_and_threatens():
    take = set_up(
        "# O . . .",
        ". . . . .",
    )
    assert {take.choose() for _ in range(50)} == {(1, 0)}
    save = set_up(
        ". # . .",
        "# O . .",
        ". # . .",
    )
    assert {save.choose() for _ in range(50)} == {(1, 2)}
    threaten = set_up(
        ". . . . .",
        ". O . . .",
        "O # . . .",
    )
    assert {threaten.choose() for _ in range(50)} == {(2, 2), (3, 1)}


def test_opponent_gives_up_what_cannot_be_saved():
    position = set_up(
        "O . # . .",
        "# # . . .",
    )
    assert (0, 1) not in {position.choose() for _ in range(200)}


# The environment.


def to_board(row: np.ndarray, size: int) -> dict:
    stones = row[: size * size].reshape(size, size)
    return {(r, c): int(stones[r, c]) for r in range(size) for c in range(size)}


def random_actions(flags: np.ndarray, rng: np.random.Generator, astray: float = 0.05) -> np.ndarray:
    """Legal points; a pass where there is none; and a share of actions of any kind."""
    actions = (
        rng.random(flags.shape) * flags - 2 * (np.arange(flags.shape[1]) == flags.shape[1] - 1)
    ).argmax(1)
    actions[~flags[:, :-1].any(1)] = flags.shape[1] - 1
    return np.where(rng.random(len(flags)) < astray, rng.integers(0, flags.shape[1], len(flags)), actions)


@dataclass
class Step:
    copy: int
    colour: int  # of the agent: 1 black, -1 white
    board: dict  # after the agent's move
    ko: tuple | None  # what the agent's move forbids to the opponent
    passed: bool  # the agent's move was a pass
    had_passed: bool  # the move before it was one
    answer: tuple | None  # the opponent's move; None also where the game ended, and it cannot be seen
    reward: float
    ended: bool
    scalars: list  # observed before the agent's move


def play(size: int, copies: int, steps: int, **config) -> Iterator[Step]:
    """Random games of the environment, in which every observation is checked against a board in Python."""
    env = envs.make("go", copies, config={"size": size} | config)
    env.reset(seed=0)
    n, rng = size * size, np.random.default_rng(0)
    mask = envs.spec("go").action_mask(env.config)
    ko: list = [None] * copies
    for _ in range(steps):
        before = env.observations.copy()
        flags = before[:, mask] == 1
        actions = random_actions(flags, rng)
        after, rewards, terminals, truncations, _ = env.step(actions)
        assert not truncations.any()
        for copy, action in enumerate(actions.tolist()):
            board = to_board(before[copy], size)
            points = legal(board, AGENT, ko[copy])
            assert flags[copy].tolist() == [divmod(cell, size) in points for cell in range(n)] + [True]
            moved, forbidden, answer = divmod(action, size) in points, None, None
            if moved:
                board, captured = played(board, divmod(action, size), AGENT)
                forbidden = ko_after(board, divmod(action, size), captured)
            ko[copy] = None
            if not terminals[copy]:
                seen = to_board(after[copy], size)
                new = [p for p in seen if seen[p] == OPPONENT and board[p] != OPPONENT]
                follow = board
                if new:
                    answer = new[0]
                    assert answer in legal(board, OPPONENT, forbidden)
                    follow, captured = played(board, answer, OPPONENT)
                    ko[copy] = ko_after(follow, answer, captured)
                assert follow == seen
                assert after[copy, n + 1] == (not new)
            scalars = before[copy, n : n + SCALARS].tolist()
            yield Step(
                copy,
                scalars[0],
                board,
                forbidden,
                not moved,
                scalars[1] == 1,
                answer,
                float(rewards[copy]),
                bool(terminals[copy]),
                scalars,
            )


@pytest.mark.parametrize(
    "size, copies, steps", [(7, 16, 120), (9, 8, 80), (12, 2, 80), (13, 2, 80), (19, 2, 60)]
)
def test_play_follows_the_rules_and_the_opponent_its_own(size, copies, steps):
    komi = envs.spec("go").config["komi"][0]
    ends, kinds = set(), [0] * 5
    for step in play(size, copies, steps):
        choices = conduct(step.board, step.ko)
        margin = area(step.board, AGENT) - area(step.board, OPPONENT) - step.colour * komi
        if step.ended:
            assert step.passed and step.reward == np.sign(margin)
            assert step.had_passed or margin < 0 or not any(choices)
            ends |= {"a second pass" if step.had_passed else "passed back", "won" if margin > 0 else "lost"}
            continue
        assert step.reward == 0 and not (step.passed and (step.had_passed or margin < 0))
        kind = next((i for i, choice in enumerate(choices) if choice), None)
        if step.answer is None:
            assert kind is None
        else:
            assert step.answer in choices[kind]
            kinds[kind] += 1
    assert all(kinds[:4]), kinds
    if size == 7:
        assert ends >= {"passed back", "lost"}


def test_move_limit_is_a_true_end_that_is_scored_and_seen_coming():
    size, moves, ends, early = 7, {}, 0, 0
    for step in play(size, 32, 60, move_limit=1):
        made = moves.get(step.copy, int(step.colour == -1))
        left = size * size - made
        assert left > 0 and step.scalars[2:] == [left < 32, left < 16, left < 8, left < 4]
        moves[step.copy] = made + 2
        if step.ended:
            del moves[step.copy]
            if left == 1:  # the last move was the agent's, so the board is known
                margin = area(step.board, AGENT) - area(step.board, OPPONENT) - step.colour * 5.5
                assert step.reward == np.sign(margin)
            ends += left <= 2
            early += left > 2 and not step.passed
        else:
            assert left > 2
    assert ends and not early


def test_winning_pays_and_is_counted():
    """With a komi that decides every game, for the side that the agent has."""
    for komi in (-361.0, 361.0):
        env = envs.make("go", 64, config={"komi": komi, "move_limit": 1})
        env.reset(seed=0)
        rng = np.random.default_rng(0)
        wins = n = illegal = 0
        for _ in range(200):
            colour, flags = env.observations[:, 49].copy(), env.observations[:, 55:] == 1
            actions = random_actions(flags, rng)
            illegal += int((~flags[np.arange(64), actions]).sum())
            _, rewards, terminals, _, _ = env.step(actions)
            np.testing.assert_array_equal(rewards[terminals], -np.sign(komi) * colour[terminals])
            wins += int((rewards == 1).sum())
            n += int(terminals.sum())
        log = env.log()
        assert 0.3 < wins / n < 0.7  # the agent's colour is random
        assert log["n"] == n and log["score"] == log["perf"] == pytest.approx(wins / n)
        assert log["episode_return"] == pytest.approx(2 * wins / n - 1, abs=1e-5)
        assert 0 < log["illegal_moves"] * n <= illegal
        assert 0 < log["limited"] < 1


def test_without_legal_moves_the_point_of_a_ko_is_shown():
    flagged, plain = (envs.make("go", 64, config={"legal_moves": flags}) for flags in (1, 0))
    flagged.reset(seed=0)
    plain.reset(seed=0)
    assert envs.spec("go").action_mask(plain.config) is None
    rng, kos = np.random.default_rng(0), 0
    for _ in range(150):
        np.testing.assert_array_equal(flagged.observations[:, :55], plain.observations[:, :55])
        flags, shown = flagged.observations[:, 55:104] == 1, plain.observations[:, 55:]
        assert shown.sum(1).max() <= 1 and not (shown & flags).any()
        for row, cell in np.argwhere(shown):
            board = to_board(plain.observations[row], 7)
            points = {divmod(int(legal_cell), 7) for legal_cell in np.flatnonzero(flags[row])}
            assert legal(board, AGENT, None) == points | {divmod(int(cell), 7)}
            kos += 1
        actions = random_actions(flagged.observations[:, 55:] == 1, rng)
        flagged.step(actions)
        plain.step(actions)
    assert kos


def test_what_play_by_hand_asks_for():
    spec = envs.spec("go")
    for size in (7, 19):
        env = envs.make("go", 1, config={"size": size})
        env.reset(seed=0)
        assert spec.keys(env.config) == {"p": size * size} and spec.idle is None
        board = spec.board(env.config)
        assert board["rows"] == board["columns"] == size
        # A stone appears where the board says: in a picture of 64 pixels a unit, which has no margins.
        width, height = (int(64 * side) for side in board["view"])
        before = env.render(0, width, height)
        action = next(a for a in range(size, size * size) if env.observations[0, a] == 0)
        env.step(np.array([action]))
        x, y = (
            64 * (board["origin"][i] + board["pitch"] * (action % size, action // size)[i]) for i in (0, 1)
        )
        after = env.render(0, width, height)
        assert (before[int(y), int(x)] != after[int(y), int(x)]).any()
