"""Snake: its rules on small maps laid out by hand, and whole games against a slow model of them in Python."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import envs
from envs.vector import VecEnv

STRAIGHT, UP, DOWN, LEFT, RIGHT = range(5)
FOOD, EMPTY, DEADLY = 1, 0, -1
STEPS = {UP: (-1, 0), DOWN: (1, 0), LEFT: (0, -1), RIGHT: (0, 1)}  # row, column
MOVES, _, _, WAITS = range(4)  # fates between steps
AGENTS, CELLS = 256, (256 + 14) * (256 + 7) + 16

# `Snake` in ocean_c/snake.h.
STATE = np.dtype(
    [
        ("rng", "u8"),
        *((name, "i4") for name in ("food", "waiting")),
        *((name, "i4", AGENTS) for name in ("head", "tail", "next", "eaten", "steps")),
        *((name, "u1", AGENTS) for name in ("direction", "eats", "fate")),
        ("log", "f4", 9),
        ("map", "i1", CELLS),
        ("way", "u1", CELLS),
    ],
    align=True,
)
PER_SNAKE = ("head", "tail", "eaten", "steps", "direction", "fate")

Cell = tuple[int, int]


def started(copies: int = 1, seed: int = 0, **config) -> VecEnv:
    env = envs.make("snake", copies, config=config)
    env.reset(seed=seed)
    return env


def states_of(env: VecEnv) -> np.ndarray:
    return env.save()["states"].view(STATE)[:, 0]


def load_states(env: VecEnv, states: np.ndarray) -> None:
    env.load(env.save() | {"states": states.view(np.uint8).reshape(env.copies, -1)})


def field(env: VecEnv, layer: np.ndarray) -> np.ndarray:
    """A view [height, width] of the map or the ways between the walls."""
    width, height, vision = (env.config[knob] for knob in ("width", "height", "vision"))
    stride = width + vision
    return layer[vision * stride : (vision + height) * stride].reshape(height, stride)[:, vision:]


def cell_index(env: VecEnv, cell: Cell) -> int:
    vision = env.config["vision"]
    return (cell[0] + vision) * (env.config["width"] + vision) + cell[1] + vision


def cell_of(env: VecEnv, index: int) -> Cell:
    vision = env.config["vision"]
    row, column = divmod(int(index), env.config["width"] + vision)
    return row - vision, column - vision


def after(cell: Cell, direction: int) -> Cell:
    return cell[0] + STEPS[direction][0], cell[1] + STEPS[direction][1]


def lay_out(env: VecEnv, snakes: list[tuple[str, Cell]], food: list[Cell] = (), eaten: int = 0) -> None:
    """Puts a map into the first copy: snakes as the way from tail to head, in letters, and the head."""
    letters = {"u": UP, "d": DOWN, "l": LEFT, "r": RIGHT}
    states = states_of(env).copy()
    state = states[0]
    area, ways = field(env, state["map"]), field(env, state["way"])
    area[:] = EMPTY
    for cell in food:
        area[cell] = FOOD
    state["food"], state["waiting"] = len(food), 0
    assert len(snakes) == env.agents
    for agent, (way, head) in enumerate(snakes):
        cell = head
        for letter in reversed(way):
            row, column = STEPS[letters[letter]]
            cell = cell[0] - row, cell[1] - column
        state["tail"][agent] = cell_index(env, cell)
        area[cell] = DEADLY
        for letter in way:
            ways[cell] = letters[letter] - 1
            cell = after(cell, letters[letter])
            area[cell] = DEADLY
        assert cell == head
        state["head"][agent], state["direction"][agent] = cell_index(env, cell), letters[way[-1]] - 1
        state["fate"][agent], state["steps"][agent], state["eaten"][agent] = MOVES, 0, eaten
    load_states(env, states)


def bodies(env: VecEnv, state: np.ndarray) -> list[list[Cell]]:
    """The cells of every snake from tail to head; none for one that waits."""
    found, ways = [], field(env, state["way"])
    for agent in range(env.agents):
        if state["fate"][agent] == WAITS:
            found.append([])
            continue
        cells, head = [cell_of(env, state["tail"][agent])], cell_of(env, state["head"][agent])
        while cells[-1] != head:
            cells.append(after(cells[-1], int(ways[cells[-1]]) + 1))
            assert len(cells) <= env.config["width"] * env.config["height"]
        found.append(cells)
    return found


def lives(env: VecEnv) -> list[list[Cell]]:
    return bodies(env, states_of(env)[0])


def foods(env: VecEnv) -> set[Cell]:
    return set(map(tuple, np.argwhere(field(env, states_of(env)[0]["map"]) == FOOD).tolist()))


def arena(agents: int, **config) -> VecEnv:
    """Room for maps laid out by hand: 9 x 9, no food but what is laid out, none of the dead."""
    return started(**{"agents": agents, "width": 9, "height": 9, "food": 0, "corpse_food": 0.0} | config)


def check_map(env: VecEnv, state: np.ndarray) -> list[list[Cell]]:
    """Every cell of a body is marked once, nothing else is; walls stand; counts are right. The bodies."""
    snakes, area = bodies(env, state), field(env, state["map"])
    cells = [cell for body in snakes for cell in body]
    assert len(cells) == len(set(cells))
    assert sorted(cells) == sorted(map(tuple, np.argwhere(area == DEADLY).tolist()))
    assert state["food"] == (area == FOOD).sum()
    assert state["waiting"] == sum(not body for body in snakes)
    walls = state["map"].copy()
    field(env, walls)[:] = DEADLY
    assert (walls == DEADLY).all()
    return snakes


# The rules, by hand.


def test_straight_on_turns_and_no_way_back():
    env = arena(1)
    for action, head in ((STRAIGHT, (4, 5)), (LEFT, (4, 5)), (RIGHT, (4, 5)), (UP, (3, 4)), (DOWN, (5, 4))):
        lay_out(env, [("rr", (4, 4))])
        _, rewards, terminals, truncations, _ = env.step(np.array([action]))
        assert lives(env) == [[(4, 3), (4, 4), head]]
        assert not (rewards.any() or terminals.any() or truncations.any())


def test_food_is_eaten_and_makes_longer():
    env = arena(1, food_reward=0.25)
    lay_out(env, [("rr", (4, 4))], food=[(4, 5), (0, 0)])
    assert env.step(np.array([RIGHT]))[1] == 0.25
    assert lives(env) == [[(4, 2), (4, 3), (4, 4), (4, 5)]] and foods(env) == {(0, 0)}
    assert env.step(np.array([RIGHT]))[1] == 0
    assert lives(env) == [[(4, 3), (4, 4), (4, 5), (4, 6)]]
    assert states_of(env)["eaten"][0, 0] == 1


def test_a_full_grown_snake_eats_and_stays_as_long():
    env = arena(1, max_length=4, food_reward=0.25, max_steps=3)
    lay_out(env, [("rr", (4, 2))], food=[(4, 3), (4, 4), (4, 5)])
    lengths = []
    for _ in range(3):
        _, rewards, _, truncations, _ = env.step(np.array([RIGHT]))
        assert rewards == 0.25
        lengths += [len(lives(env)[0])] if not truncations else []
    assert lengths == [4, 4]
    log = env.log()
    assert (log["score"], log["length"], log["episode_return"]) == (3, 4, 0.75)


def test_walls_kill():
    for action, way, head in (
        (UP, "uu", (0, 4)),
        (DOWN, "dd", (8, 4)),
        (LEFT, "ll", (4, 0)),
        (RIGHT, "rr", (4, 8)),
    ):
        env = arena(1, death_reward=-2.0)
        lay_out(env, [(way, head)])
        _, rewards, terminals, truncations, _ = env.step(np.array([action]))
        assert rewards == -2 and terminals and not truncations
        log = env.log()
        assert log["hit_wall"] == 1 and log["hit_self"] == log["hit_other"] == 0
        assert (log["score"], log["episode_return"], log["episode_length"], log["length"]) == (0, -2, 1, 3)
        assert len(lives(env)[0]) == 3  # lives again


def test_the_own_body_kills():
    env = arena(1)
    lay_out(env, [("rrdl", (4, 3))], eaten=2)
    _, rewards, terminals, _, _ = env.step(np.array([UP]))
    assert rewards == -1 and terminals
    log = env.log()
    assert log["hit_self"] == 1 and (log["score"], log["length"]) == (2, 5)


def test_the_own_tail_leaves_in_time():
    env = arena(1)
    lay_out(env, [("rdl", (5, 4))], eaten=1)
    for action in (UP, RIGHT, DOWN, LEFT) * 3:
        assert not env.step(np.array([action]))[2]
    assert len(lives(env)[0]) == 4


def test_another_body_kills_and_its_tail_leaves_in_time():
    for eats in (False, True):
        env = arena(2)
        lay_out(env, [("uu", (3, 4)), ("rr", (5, 3))], food=[(2, 4)] if eats else [])
        _, rewards, terminals, _, _ = env.step(np.array([UP, RIGHT]))  # the second enters the first's tail
        assert terminals.tolist() == [False, eats]
        np.testing.assert_array_equal(rewards, np.float32([0.2 * eats, -1 * eats]))
        assert env.log().get("hit_other", 0) == eats
    lay_out(env, [("uu", (3, 4)), ("rr", (4, 3))])
    env.step(np.array([UP, RIGHT]))  # the middle does not
    assert env.terminals.tolist() == [False, True]
    log = env.log()
    assert log["hit_other"] == 1 and log["hit_self"] == 0


def test_heads_that_meet_die_and_leave_the_food():
    for count in (2, 3):
        env = arena(count)
        snakes = [("rr", (4, 3)), ("ll", (4, 5)), ("dd", (3, 4))][:count]
        lay_out(env, snakes, food=[(4, 4)])
        _, rewards, terminals, _, _ = env.step(np.full(count, STRAIGHT))
        assert (rewards == -1).all() and terminals.all()
        assert foods(env) == {(4, 4)}
        log = env.log()
        assert log["n"] == count and log["hit_other"] == 1 and log["score"] == 0 and log["length"] == 3
        check_map(env, states_of(env)[0])


def test_heads_that_face_each_other_die():
    env = arena(2)
    lay_out(env, [("rr", (4, 3)), ("ll", (4, 4))])
    env.step(np.array([STRAIGHT, STRAIGHT]))
    assert env.terminals.all() and env.log()["hit_other"] == 1


def test_the_dead_become_food():
    env = arena(1, corpse_food=1.0)
    lay_out(env, [("rrr", (4, 8))], eaten=1)
    env.step(np.array([RIGHT]))
    assert env.terminals.all()
    assert foods(env) == {(4, 6), (4, 7), (4, 8)}  # the tail had left (4, 5)
    env = started(64, agents=8, width=32, height=32, food=0, corpse_food=0.25)
    cells = sum(2 * int(env.step(env.action_space.sample())[2].sum()) for _ in range(100))
    # Without food a body has 3 cells, of which the tail leaves before death.
    share = sum(int(state["food"]) for state in states_of(env))
    eaten = sum(int(state["eaten"].sum()) for state in states_of(env))
    assert 0.1 * cells < share + eaten < 0.3 * cells


def test_a_cut_life_vanishes_and_the_others_go_on():
    env = arena(2, max_steps=5, corpse_food=1.0)
    lay_out(env, [("rr", (2, 4)), ("rr", (6, 4))])
    states = states_of(env).copy()
    states["steps"][0, 1] = 4
    load_states(env, states)
    observations, rewards, terminals, truncations, infos = env.step(np.array([STRAIGHT, UP]))
    assert truncations.tolist() == [False, True] and not terminals.any() and not rewards.any()
    last = infos["final_obs"][1].copy()
    assert (last[5, 5], last[6, 5], last[6, 4], last[5, 4], last[6, 6]) == (-1, -1, -1, 0, 0)
    assert lives(env)[0] == [(2, 3), (2, 4), (2, 5)] and len(lives(env)[1]) == 3 and not foods(env)
    assert not np.array_equal(observations[1], last)
    log = env.log()
    assert (log["n"], log["episode_length"], log["score"]) == (1, 5, 0)
    assert log["hit_wall"] == log["hit_self"] == log["hit_other"] == 0
    assert states_of(env)["steps"][0, :2].tolist() == [1, 0]


def test_the_score_is_food_and_not_time():
    env = arena(1, max_length=10)
    lay_out(env, [("rdl", (5, 4))], eaten=1)
    for action in (UP, RIGHT, DOWN, LEFT) * 25:
        env.step(np.array([action]))
    assert env.log() == {"n": 0}
    while not env.step(np.array([LEFT]))[2]:
        pass
    log = env.log()
    assert log["score"] == 1 and log["perf"] == pytest.approx(1 / 40)
    assert log["episode_length"] == 105 and log["episode_return"] == pytest.approx(-0.8)


def test_the_head_is_in_the_middle_of_the_window():
    env = arena(1, vision=2)
    lay_out(env, [("rru", (1, 6))], food=[(0, 6), (1, 8), (3, 4), (4, 6)], eaten=1)
    env.step(np.array([UP]))  # eats
    wall, head = [-1] * 5, [0, 0, -1, 0, 0]
    assert env.observations[0].tolist() == [wall, wall, head, [0, 0, -1, 0, 1], [-1, -1, -1, 0, 0]]
    env.step(np.array([RIGHT]))
    env.step(np.array([RIGHT]))
    edge = [-1, -1]
    assert env.observations[0].tolist() == [
        wall,
        wall,
        [-1, -1, -1, *edge],
        [-1, 0, 1, *edge],
        [-1, 0, 0, *edge],
    ]


# The same result for any order of the rows.


@pytest.mark.parametrize("corpse_food", [0.0, 1.0])
def test_the_order_of_the_rows_does_not_matter(corpse_food):
    config = {"agents": 24, "width": 16, "height": 14, "food": 30, "corpse_food": corpse_food}
    env, other = started(8, **config), started(8, **config)
    rng, deaths, met = np.random.default_rng(0), 0, 0
    for _ in range(400):
        actions = careless(env, rng)
        order = np.stack([rng.permutation(env.agents) for _ in range(env.copies)])
        states = states_of(env).copy()
        for state, rows in zip(states, order, strict=True):
            for name in PER_SNAKE:
                state[name][: env.agents] = state[name][rows]
        load_states(other, states)
        env.step(actions)
        other.step(np.take_along_axis(actions.reshape(env.copies, -1), order, 1).ravel())
        by_copy = [array.reshape(env.copies, -1) for array in (env.rewards, env.terminals, env.truncations)]
        for array, mixed in zip(by_copy, (other.rewards, other.terminals, other.truncations), strict=True):
            np.testing.assert_array_equal(np.take_along_axis(array, order, 1).ravel(), mixed)
        # New lives are placed in the order of the rows, but where does not depend on whose they are.
        now, then = states_of(env), states_of(other)
        np.testing.assert_array_equal(now["map"], then["map"])
        np.testing.assert_array_equal(now["food"], then["food"])
        deaths += env.terminals.sum()
        met += int((now["rng"] != then["rng"]).sum())
    assert deaths > 1000 and met == 0


# Whole games.


def careless(env: VecEnv, rng: np.random.Generator) -> np.ndarray:
    """Actions that mostly go for food next to the head and avoid what kills there, so that bodies grow."""
    vision = env.config["vision"]
    around = env.observations[
        :, [vision - 1, vision + 1, vision, vision], [vision, vision, vision - 1, vision + 1]
    ]
    wish = around + rng.random(around.shape) * np.where(rng.random((len(around), 1)) < 0.05, 9, 0.9)
    actions = wish.argmax(1) + 1
    return np.where(rng.random(len(actions)) < 0.1, STRAIGHT, actions)


class Model:
    """One map, from the rules and without a thought for speed. What is random is taken from the real one."""

    def __init__(self, env: VecEnv, state: np.ndarray):
        self.config, self.env = env.config, env
        self.bodies, self.food = check_map(env, state), foods_of(env, state)
        self.eaten, self.steps = [0] * env.agents, [0] * env.agents
        self.directions = [int(direction) + 1 for direction in state["direction"][: env.agents]]

    def inside(self, cell: Cell) -> bool:
        return 0 <= cell[0] < self.config["height"] and 0 <= cell[1] < self.config["width"]

    def step(self, actions: list[int], state: np.ndarray) -> tuple[list, list, list]:
        """Rewards, terminals and truncations; compares the map after it with the state."""
        config, alive = self.config, [i for i, body in enumerate(self.bodies) if body]
        opposite = {UP: DOWN, DOWN: UP, LEFT: RIGHT, RIGHT: LEFT}
        heads = {}
        for i in alive:
            if actions[i] != STRAIGHT and actions[i] != opposite[self.directions[i]]:
                self.directions[i] = actions[i]
            heads[i] = after(self.bodies[i][-1], self.directions[i])
            if not (heads[i] in self.food and len(self.bodies[i]) < config["max_length"]):
                self.bodies[i] = self.bodies[i][1:]
        taken, wanted = {cell for body in self.bodies for cell in body}, Counter(heads.values())
        dead = [i for i in alive if not self.inside(heads[i]) or heads[i] in taken or wanted[heads[i]] > 1]
        ate = [i for i in alive if i not in dead and heads[i] in self.food]
        self.steps = [steps + 1 for steps in self.steps]
        rewards = [0.0] * len(self.bodies)
        for i in ate:
            rewards[i], self.eaten[i] = config["food_reward"], self.eaten[i] + 1
        for i in alive:
            if i not in dead:
                self.bodies[i] = [*self.bodies[i], heads[i]]
                self.food.discard(heads[i])
        corpses = set()
        for i in dead:
            rewards[i] = config["death_reward"]
            corpses |= set(self.bodies[i])
        cut = [i for i, steps in enumerate(self.steps) if i not in dead and steps >= config["max_steps"]]
        for i in dead + cut:
            self.bodies[i], self.eaten[i], self.steps[i] = [], 0, 0

        # What was random, if it could have been.
        real, food = check_map(self.env, state), foods_of(self.env, state)
        born = [i for i, body in enumerate(self.bodies) if not body and real[i]]
        for i in born:
            self.bodies[i], self.directions[i] = real[i], int(state["direction"][i]) + 1
            assert len(real[i]) == 3 and all(
                cell == after(before, self.directions[i])
                for before, cell in zip(real[i], real[i][1:], strict=False)
            )
        assert self.bodies == real
        # Food lost beneath a new body may have been added in the step, so there is at least what is not.
        beneath = {cell for i in born for cell in real[i]}
        certain = (self.food | corpses if config["corpse_food"] == 1 else self.food) - beneath
        possible = self.food | corpses if config["corpse_food"] else self.food
        assert certain <= food
        assert len(food - possible) <= max(0, config["food"] - len(certain))
        assert len(food) <= max(config["food"], len(possible))
        self.food = food
        assert state["eaten"][: len(real)].tolist() == self.eaten
        assert state["steps"][: len(real)].tolist() == self.steps
        rows = range(len(real))
        return rewards, [i in dead for i in rows], [i in cut for i in rows]

    def window(self, i: int) -> np.ndarray:
        vision = self.config["vision"]
        window = np.zeros((2 * vision + 1, 2 * vision + 1), np.int8)
        if not self.bodies[i]:
            return window
        taken, (row, column) = {cell for body in self.bodies for cell in body}, self.bodies[i][-1]
        for y, x in np.ndindex(window.shape):
            cell = row + y - vision, column + x - vision
            window[y, x] = DEADLY if not self.inside(cell) or cell in taken else cell in self.food
        return window


def foods_of(env: VecEnv, state: np.ndarray) -> set[Cell]:
    return set(map(tuple, np.argwhere(field(env, state["map"]) == FOOD).tolist()))


GAMES = {
    "roomy": {"agents": 6, "width": 24, "height": 20, "food": 40, "max_length": 30},
    "corpses": {"agents": 8, "width": 20, "height": 12, "food": 10, "corpse_food": 1.0},
    "crowded": {"agents": 16, "width": 12, "height": 9, "food": 20, "corpse_food": 0.5, "vision": 2},
    "short lives": {"agents": 5, "width": 9, "height": 15, "food": 30, "max_steps": 13, "corpse_food": 0.0},
    "alone": {"agents": 1, "width": 7, "height": 6, "food": 12, "vision": 7, "max_length": 64},
    "full grown": {"agents": 4, "width": 16, "height": 16, "food": 60, "max_length": 6, "vision": 1},
    "full": {"agents": 40, "width": 5, "height": 7, "food": 9, "corpse_food": 1.0, "max_steps": 50},
}


@pytest.mark.parametrize("game", GAMES)
def test_games_against_the_model(game):
    env = started(seed=1, **GAMES[game])
    model, rng, longest = Model(env, states_of(env)[0]), np.random.default_rng(0), 0
    for _ in range(1500):
        actions = careless(env, rng)
        observations, *results, _ = env.step(actions)
        state = states_of(env)[0]
        for got, expected in zip(results, model.step(actions.tolist(), state), strict=True):
            np.testing.assert_array_equal(got, np.asarray(expected, got.dtype))
        for i in rng.integers(0, env.agents, 3).tolist():
            np.testing.assert_array_equal(observations[i], model.window(i))
        longest = max(longest, *map(len, model.bodies))
    assert longest >= (5 if game in ("full", "full grown", "short lives") else 10)
    assert env.log()["n"] > 10


def play(env: VecEnv, steps: int) -> Iterator[tuple]:
    rng = np.random.default_rng(0)
    for _ in range(steps):
        yield env.step(careless(env, rng))


def test_big_maps_hold_together():
    env = started(2, agents=256, width=256, height=256, food=2000, vision=7, corpse_food=1.0)
    for _ in play(env, 200):
        pass
    for state in states_of(env):
        check_map(env, state)
        assert state["food"] >= 2000 and not state["waiting"]


def test_food_is_kept_at_its_count():
    env = started(4, food=77, corpse_food=0.0, max_steps=31)  # new lives begin on food, too
    for _ in play(env, 200):
        assert (states_of(env)["food"] == 77).all()


def test_a_full_map_makes_snakes_wait():
    env = started(4, agents=256, width=4, height=4, food=65536, max_steps=40)
    waited, lived = 0, 0
    for observations, rewards, terminals, truncations, _ in play(env, 500):
        states = states_of(env)
        waits = (states["fate"] == WAITS).ravel()
        assert not observations[waits].any() and observations[~waits].any((1, 2)).all()
        # Who goes on waiting gets nothing, until its life is cut like any other.
        assert not rewards[waits & ~terminals & ~truncations].any()
        waited += waits.sum()
        lived += (~waits).sum()
    for state in states_of(env):
        check_map(env, state)
    assert waited > lived > 0
    log = env.log()
    assert 1 <= log["episode_length"] <= 40 and log["length"] < 3


def test_every_life_is_an_episode_of_gymnasium():
    env = started(3, agents=12, width=16, height=12, food=40, max_steps=25)
    statistics = RecordEpisodeStatistics(env, buffer_length=1_000_000)
    statistics.reset(seed=1)
    rng = np.random.default_rng(0)
    for _ in range(1500):
        statistics.step(careless(env, rng))
    log = env.log()
    assert log["n"] == len(statistics.return_queue) > 100
    assert log["episode_return"] == pytest.approx(np.mean(statistics.return_queue), rel=1e-4)
    assert log["episode_length"] == pytest.approx(np.mean(statistics.length_queue), rel=1e-5)
    assert 0 < log["hit_wall"] + log["hit_self"] + log["hit_other"] < 1
    assert log["score"] * 0.2 - (log["hit_wall"] + log["hit_self"] + log["hit_other"]) == pytest.approx(
        log["episode_return"], rel=1e-3
    )


def test_keys_play_the_actions():
    spec = envs.spec("snake")
    assert spec.idle == STRAIGHT
    keys = spec.keys({})
    assert [keys[key] for key in ("up", "down", "left", "right")] == [UP, DOWN, LEFT, RIGHT]
    assert [keys[key] for key in "wsad"] == [UP, DOWN, LEFT, RIGHT]
