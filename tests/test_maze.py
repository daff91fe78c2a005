"""The rules of the maze, as a player who sees all of a small one relies on them."""

from collections import deque

import numpy as np
import pytest

import envs
from envs.vector import VecEnv

COPIES = 64
SMALL = {"rooms": 3, "vision": 5}  # the view holds all of it from everywhere
SIDE, VIEW = 7, 11
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))  # up, down, left, right
WALL, GOAL = 1, -1


def started(config: dict, copies: int = COPIES, seed: int = 0) -> VecEnv:
    env = envs.make("maze", copies, seed, config=config)
    env.reset()
    return env


def read(observation: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """The maze [side, side] and the agent's cell."""
    view, place = observation[: VIEW * VIEW].reshape(VIEW, VIEW), observation[VIEW * VIEW :]
    assert np.isin(view, (WALL, 0, GOAL)).all() and (place.sum(), len(place)) == (2, 2 * SIDE)
    row, column = int(place[:SIDE].argmax()), int(place[SIDE:].argmax())
    top, left = VIEW // 2 - row, VIEW // 2 - column
    outside = np.ones_like(view, bool)
    outside[top : top + SIDE, left : left + SIDE] = False
    assert (view[outside] == WALL).all()
    return view[top : top + SIDE, left : left + SIDE], (row, column)


def ways(maze: np.ndarray, start: tuple[int, int]) -> dict[tuple[int, int], list[int]]:
    """The actions of the shortest way to every cell that can be reached."""
    found, waiting = {start: []}, deque([start])
    while waiting:
        cell = waiting.popleft()
        for action, (down, right) in enumerate(MOVES):
            there = cell[0] + down, cell[1] + right
            if maze[there] != WALL and there not in found:
                found[there] = [*found[cell], action]
                waiting.append(there)
    return found


def test_there_is_one_way_to_every_room_and_the_longest_leads_to_the_goal():
    env, starts = started(SMALL), set()
    for observation in env.observations:
        maze, start = read(observation)
        assert (maze[::2, ::2] == WALL).all() and (maze[1::2, 1::2] != WALL).all()
        assert (maze[0] == WALL).all() and (maze[:, 0] == WALL).all()
        found = ways(maze, start)
        assert len(found) == (maze != WALL).sum() == 2 * 9 - 1  # 9 rooms and 8 doors: a tree
        (goal,) = map(tuple, np.argwhere(maze == GOAL).tolist())
        assert len(found[goal]) == max(map(len, found.values()))
        starts.add(start)
    assert starts == {(row, column) for row in (1, 3, 5) for column in (1, 3, 5)}
    assert len({read(x)[0].tobytes() for x in env.observations}) > COPIES // 2


def test_the_way_to_the_goal_is_paid_at_its_end():
    env = started(SMALL)
    mazes, lengths = env.observations.copy(), []
    plans = []
    for observation in mazes:
        maze, start = read(observation)
        plans.append(ways(maze, start)[tuple(np.argwhere(maze == GOAL)[0].tolist())])
    left = np.array([len(plan) for plan in plans])
    for step in range(left.max()):
        going = left > step
        actions = [plan[step] if step < len(plan) else 0 for plan in plans]
        _, rewards, terminals, truncations, _ = env.step(np.array(actions))
        reached = left == step + 1
        np.testing.assert_array_equal(rewards[going], reached[going])
        np.testing.assert_array_equal(terminals[going], reached[going])
        assert not truncations.any()
        for copy in np.flatnonzero(reached):
            log = env.log(copy, copy + 1)
            assert log["score"] == log["perf"] == log["episode_return"] == log["n"] == 1
            lengths.append(log["episode_length"])
    assert sorted(lengths) == sorted(left)


@pytest.mark.parametrize("action", range(4))
def test_a_wall_stops_a_step(action):
    env = started(SMALL)
    down, right = MOVES[action]
    for _ in range(8):
        before = [read(x) for x in env.observations.copy()]
        _, _, terminals, _, _ = env.step(np.full(COPIES, action))
        for (maze, (row, column)), ended, now in zip(before, terminals, env.observations, strict=True):
            there = row + down, column + right
            if not ended:
                assert read(now)[1] == ((row, column) if maze[there] == WALL else there)
                np.testing.assert_array_equal(read(now)[0], maze)


def test_the_view_is_cut_from_the_maze():
    """What a short-sighted agent sees is the middle of what a far-sighted one does."""
    far, near = started({"rooms": 6, "vision": 4}), started({"rooms": 6, "vision": 1})
    rng = np.random.default_rng(0)
    for _ in range(100):
        wide = far.observations[:, :81].reshape(-1, 9, 9)[:, 3:6, 3:6]
        np.testing.assert_array_equal(wide.reshape(-1, 9), near.observations[:, :9])
        np.testing.assert_array_equal(far.observations[:, 81:], near.observations[:, 9:])
        actions = rng.integers(0, 4, COPIES)
        far.step(actions), near.step(actions)


def test_an_episode_is_cut():
    env = started({"max_steps": 10, "rooms": 8})
    for step in range(1, 31):
        _, rewards, terminals, truncations, _ = env.step(np.zeros(COPIES, int))
        assert not rewards.any() and not terminals.any()
        assert truncations.all() if step % 10 == 0 else not truncations.any()
    assert env.log() == {"score": 0, "perf": 0, "episode_return": 0, "episode_length": 10, "n": 3 * COPIES}
