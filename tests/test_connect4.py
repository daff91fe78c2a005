"""Connect four: the rules and the opponent's conduct, against a plain board in Python."""

from collections.abc import Iterator

import numpy as np
import pytest

import envs

COPIES = 64
LINES = np.array(  # the cells, counted from the upper left, of every row of four: [69, 4]
    [
        [(row + i * down) * 7 + column + i * right for i in range(4)]
        for row in range(6)
        for column in range(7)
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1))
        if row + 3 * down < 6 and 0 <= column + 3 * right < 7
    ]
)
AGENT, OPPONENT = 1, -1


def has_four(board: np.ndarray, disc: int) -> bool:
    return bool((board.ravel()[LINES] == disc).all(1).any())


def landing(board: np.ndarray, column: int) -> int:
    """The row, counted from the top, where a disc comes to lie; -1 in a full column."""
    return int((board[:, column] == 0).sum()) - 1


def dropped(board: np.ndarray, column: int, disc: int) -> np.ndarray:
    after = board.copy()
    after[landing(board, column), column] = disc
    return after


def open_columns(board: np.ndarray) -> list[int]:
    return np.flatnonzero(board[0] == 0).tolist()


def wins(board: np.ndarray, disc: int) -> list[int]:
    """Columns where this side completes four at once: the missing cells of lines that hold three."""
    lines = LINES[board.ravel()[LINES].sum(1) == 3 * disc]
    missing = {int(cell) for cell in lines.ravel() if board.ravel()[cell] == 0}
    return sorted({cell % 7 for cell in missing if landing(board, cell % 7) == cell // 7})


def games(config: dict, steps: int, seed: int = 0) -> Iterator[tuple]:
    """Play by agents that mostly look one move ahead, so that games end in all ways.

    Yields copy, board before, action, reward, whether it ended, board after.
    """
    env = envs.make("connect4", COPIES, config=config)
    env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        before = env.observations[:, :6].copy()
        actions = rng.integers(0, 7, COPIES)
        for copy in np.flatnonzero(rng.random(COPIES) < 0.95):
            board = before[copy]
            actions[copy] = rng.choice(wins(board, AGENT) or wins(board, OPPONENT) or open_columns(board))
        after, rewards, terminals, truncations, _ = env.step(actions)
        assert not truncations.any()
        yield from zip(range(COPIES), before, actions, rewards, terminals, after[:, :6].copy(), strict=True)


@pytest.mark.parametrize("randomness", [0.0, 0.3, 1.0])
def test_rules_and_opponent(randomness):
    seen = dict.fromkeys(("won", "lost", "full column", "draw", "blocked", "careful", "careless"), 0)
    for _, before, action, reward, ended, after in games({"opponent_randomness": randomness}, 700):
        if before[0, action]:
            seen["full column"] += 1
            assert ended and reward == -1
            continue
        board = dropped(before, action, AGENT)
        if has_four(board, AGENT):
            seen["won"] += 1
            assert ended and reward == 1
            continue
        columns = open_columns(board)
        if not columns:
            seen["draw"] += 1
            assert ended and reward == 0
            continue
        winning, blocking = wins(board, OPPONENT), wins(board, AGENT)
        if ended and reward == -1:
            seen["lost"] += 1
            assert winning
            continue
        if randomness == 0:
            assert not winning
        if ended:
            seen["draw"] += 1
            assert reward == 0 and len(columns) == 1 and (board == 0).sum() == 1
            continue
        assert reward == 0
        changed = np.argwhere(after != board)
        column = changed[0, 1]
        assert len(changed) == 1 and (after == dropped(board, column, OPPONENT)).all()
        if blocking:
            seen["blocked" if column in blocking else "careless"] += 1
            continue
        safe = [c for c in columns if not wins(dropped(board, c, OPPONENT), AGENT)]
        if safe and len(safe) < len(columns):
            seen["careful" if column in safe else "careless"] += 1
    wanted = set(seen) if randomness else set(seen) - {"careless"}
    assert {what for what, count in seen.items() if count} == wanted, seen


def test_winning_columns_are_those_where_a_disc_makes_four():
    for _, before, *_ in games({}, 30, seed=1):
        for disc in (AGENT, OPPONENT):
            columns = [c for c in open_columns(before) if has_four(dropped(before, c, disc), disc)]
            assert wins(before, disc) == columns


def test_who_begins_is_random_and_the_first_move_leans_to_the_middle():
    env = envs.make("connect4", 20_000)
    first = env.reset(seed=0)[0][:, :6]
    assert not first[:, :5].any() and (first[:, 5] != AGENT).all()
    begun = first[:, 5].any(1)
    assert (first[:, 5].sum(1) == -begun.astype(int)).all()
    assert 0.48 < begun.mean() < 0.52
    shares = (first[begun, 5] == OPPONENT).mean(0)
    np.testing.assert_allclose(shares, np.array([1, 2, 3, 4, 3, 2, 1]) / 16, atol=0.02)


def test_log_counts_how_games_end():
    env = envs.make("connect4", COPIES)
    env.reset(seed=0)
    counts = {"score": 0, "draws": 0, "full_columns": 0, "n": 0}
    rng = np.random.default_rng(0)
    for _ in range(3000):
        full = env.observations[np.arange(COPIES), 0]
        actions = rng.integers(0, 7, COPIES)
        # Half of the copies step round full columns, so that some boards fill up.
        for copy in range(0, COPIES, 2):
            board = env.observations[copy, :6]
            actions[copy] = (wins(board, OPPONENT) or [actions[copy]])[0]
            if board[0, actions[copy]]:
                actions[copy] = open_columns(board)[0]
        counts["full_columns"] += int((full[np.arange(COPIES), actions] != 0).sum())
        _, rewards, terminals, _, _ = env.step(actions)
        counts["score"] += int((rewards == 1).sum())
        counts["draws"] += int((terminals & (rewards == 0)).sum())
        counts["n"] += int(terminals.sum())
    log = env.log()
    n = counts.pop("n")
    assert log["n"] == n and all(counts.values()), counts
    for field, count in counts.items():
        assert log[field] == pytest.approx(count / n), field
    assert log["perf"] == log["score"]


def test_threats_are_the_cells_that_would_make_four():
    env, seen = envs.make("connect4", COPIES), 0
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(60):
        for boards in env.step(env.action_space.sample())[0]:
            for disc, threats in ((AGENT, boards[6:12]), (OPPONENT, boards[12:18])):
                for cell in np.ndindex(6, 7):
                    with_it = boards[:6].copy()
                    with_it[cell] = disc
                    assert threats[cell] == (boards[cell] == 0 and has_four(with_it, disc))
            seen += boards[6:18].any()
    assert seen


def test_the_mask_is_the_columns_that_are_not_full():
    env = envs.make("connect4", COPIES)
    env.reset(seed=0)
    env.action_space.seed(0)
    full = 0
    for _ in range(1000):
        observations = env.step(env.action_space.sample())[0]
        legal = observations.reshape(COPIES, -1)[:, env.action_mask]
        np.testing.assert_array_equal(legal, observations[:, 0] == 0)
        full += (legal == 0).sum()
    assert full


def test_keys_are_the_columns():
    spec = envs.spec("connect4")
    assert spec.keys({}) == {"1": 0, "2": 1, "3": 2, "4": 3, "5": 4, "6": 5, "7": 6} and spec.idle is None
