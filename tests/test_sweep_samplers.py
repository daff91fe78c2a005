"""What every sampler and rule of the tuner promises, and what each of them is."""

import copy
import functools
import json
import math
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch

import sweep
import trials
from variants import samplers

ROOT = Path(__file__).resolve().parent.parent
SPACE = {
    "learning_rate": {"distribution": "log_normal", "min": 1e-5, "max": 0.1, "mean": 0.001},
    "gamma": {"distribution": "logit_normal", "min": 0.8, "max": 0.9999, "mean": 0.98},
    "batch": {"distribution": "uniform_pow2", "min": 512, "max": 65536, "mean": 4096},
    "total_timesteps": {"distribution": "log_normal", "min": 10_000, "max": 10_000_000, "mean": 300_000},
}
TUNED = sweep.Space(SPACE)
DEFAULT = sweep.SAMPLERS[0]
MODELS = [(DEFAULT, rule) for rule in sweep.RULES]
MODELS += [(DEFAULT, "growth,resample=6"), (DEFAULT, "conservative,warp=quantile")]
TRAINED: dict[str, tuple] = {}
ALL = MODELS + [(name, None) for name in sweep.SAMPLERS[1:]]
each = functools.partial(pytest.mark.parametrize, "label", ids=lambda label: label[1] or label[0])
ALL_OF_THEM, THOSE_WITH_MODELS = each(argvalues=ALL), each(argvalues=MODELS)


def make(label: tuple[str, str | None], **known) -> sweep.Sampler:
    return sweep.make_sampler(label[0], SPACE, rule=label[1], **({"seed": 1} | known))


def cost(params: dict) -> float:
    """In seconds; 0.01 to 10, and 0.3 at the centre."""
    return params["total_timesteps"] / 1e6


def score(params: dict) -> float:
    """Between 0 and 1; best at a learning rate of 0.01, a long run."""
    rate, gamma, _, length = TUNED.to_unit(params)
    return math.exp(-4 * (rate - 0.5) ** 2 - gamma**2) * (1 + length) / 2


def observations(count: int, width: float = 0.4) -> list[tuple[dict, float, float]]:
    """Of runs round the centre."""
    points = TUNED.centre + width * np.random.default_rng(0).standard_normal((count, 4))
    runs = [TUNED.from_unit(point) for point in (TUNED.centre, TUNED.centre, *points[2:])]
    return [(params, score(params), cost(params)) for params in runs]


def told(label: tuple[str, str | None], seen: list[tuple], **known) -> sweep.Sampler:
    """A sampler that has observed these. What its processes learn of them is learned once for all rules."""
    sampler = make(label, **known)
    for observation in seen:
        sampler.observe(*observation)
    if label in MODELS and len(sampler.successes()[0]) > 1:
        key = repr((seen, known.get("goal"), "warp" in (label[1] or "")))
        if key not in TRAINED:
            sampler.learn(*sampler.successes())
            TRAINED[key] = sampler.score, sampler.cost, sampler.failure
        sampler.score, sampler.cost, sampler.failure = copy.deepcopy(TRAINED[key])
    return sampler


def play(sampler: sweep.Sampler, count: int) -> list[dict]:
    suggestions = []
    for _ in range(count):
        suggestions.append(sampler.suggest())
        sampler.observe(suggestions[-1], score(suggestions[-1]), cost(suggestions[-1]))
    return suggestions


def check(params: dict) -> None:
    assert list(params) == list(SPACE)
    assert all(type(value) in (int, float) for value in params.values())
    assert all(SPACE[name]["min"] <= value <= SPACE[name]["max"] for name, value in params.items()), params


def test_names_are_those_there_are():
    assert {*sweep.RULES[1:]} == {*samplers.RULES} and sweep.RULES[0] == "growth"
    assert {*sweep.SAMPLERS[1:]} == {*samplers.OTHERS}
    assert all(sampler.__doc__ for sampler in samplers.OTHERS.values())
    assert all(rule.__doc__ for rule in samplers.RULES.values())


def test_the_default_needs_no_variant():
    code = f"import sweep, sys; sweep.make_sampler('bayesian', {SPACE}, rule='growth').suggest()\n"
    code += "print('variants' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


@ALL_OF_THEM
def test_begins_at_the_centre_repeats_with_its_seed_and_goes_on_as_if_never_stopped(label):
    sampler = make(label)
    suggestions = play(sampler, 8)
    assert suggestions[0] == {name: p["mean"] for name, p in SPACE.items()}
    for params in suggestions:
        check(params)
    assert play(make(label), 8) == suggestions
    assert play(make(label, seed=2), 5)[4] != suggestions[4]
    for count in (4, 7):
        fresh = told(label, [(params, score(params), cost(params)) for params in suggestions[:count]])
        assert fresh.suggest() == suggestions[count]


def test_what_is_told_again_is_learned_as_at_first():
    """Of 17 observations as of one after another, hyperparameters are the same to the last bit."""
    seen = observations(17)
    seen[14] = seen[14][0], -3.0, seen[14][2]  # the lowest score, from which others count, comes late
    first, again = make((DEFAULT, None)), make((DEFAULT, None))
    for count, observation in enumerate(seen, 1):
        first.observe(*observation)
        again.observe(*observation)
        if count > 8:
            first.learn(*first.successes())
    again.learn(*again.successes())
    for name in ("score", "cost"):
        for one, other in zip(getattr(first, name).h.values(), getattr(again, name).h.values(), strict=True):
            assert torch.equal(one, other)


@ALL_OF_THEM
def test_what_is_never_suggested_may_be_observed_and_counts(label):
    seen = observations(8)
    suggestion = told(label, seen).suggest()
    assert suggestion != make(label).suggest()
    check(suggestion)


STRANGE = {
    "failures": lambda i, params: (None, cost(params), True),
    "one success": lambda i, params: (1.0, cost(params), i != 3),
    "equal scores": lambda i, params: (7.0, cost(params)),
    "equal costs": lambda i, params: (score(params), 1.0),
    "huge": lambda i, params: (score(params) * 1e200, cost(params) * 1e100),
    "tiny": lambda i, params: (score(params) * 1e-200, cost(params) * 1e-100),
    "negative": lambda i, params: (-1e9 * score(params) - 1e12, cost(params)),
    "one disaster": lambda i, params: (-1e100 if i == 3 else score(params), cost(params)),
    "one point": lambda i, params: (float(i), 1.0 + i),
}


@pytest.mark.parametrize("kind", STRANGE)
@ALL_OF_THEM
def test_strange_results_are_survived(label, kind):
    runs = [params for params, *_ in observations(9)]
    runs = [TUNED.from_unit(TUNED.centre)] * 9 if kind == "one point" else runs
    sampler = told(label, [(params, *STRANGE[kind](i, params)) for i, params in enumerate(runs)])
    suggestions = [sampler.suggest() for _ in range(2)]
    for params in suggestions:
        check(params)
    assert kind == "one point" or suggestions[0] != suggestions[1]


@ALL_OF_THEM
def test_a_failure_has_no_score(label):
    seen = observations(8)
    suggestions = []
    for nothing in (None, math.nan, math.inf, -math.inf, 12.0):
        sampler = told(label, seen)
        sampler.observe(TUNED.from_unit(TUNED.centre + 0.1), nothing, 1.0, failed=True)
        suggestions.append(sampler.suggest())
    assert all(params == suggestions[0] for params in suggestions)


@pytest.mark.parametrize("wrong", [(None, 1.0), (math.nan, 1.0), (math.inf, 1.0), (1.0, 0.0), (1.0, -1.0),
                                   (1.0, math.inf), (1.0, None), (True, 1.0)])  # fmt: skip
def test_what_is_no_result_is_refused(wrong):
    sampler = make((DEFAULT, None))
    with pytest.raises(ValueError, match=r"score|cost"):
        sampler.observe(sampler.suggest(), *wrong)
    assert not sampler.costs


@ALL_OF_THEM
def test_minimising_is_maximising_the_negative(label):
    seen = observations(9)
    best = told(label, seen, goal="minimize").suggest()
    assert best == told(label, [(params, -x, c) for params, x, c in seen]).suggest()
    if label[0] not in ("random-centre", "random-uniform", "random-full-cost", "halving"):
        assert best != told(label, seen).suggest()  # the goal does matter


@ALL_OF_THEM
def test_global_random_states_and_parameters_are_left_alone(label):
    torch.manual_seed(5), np.random.seed(5), random.seed(5), pyro.clear_param_store()
    play(make(label), 6)
    drawn = [torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()]
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    assert drawn == [torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()]
    assert not pyro.get_param_store().keys()


def test_processes_have_parameters_of_their_own():
    """One that depends on its first input, one on its second: their length scales differ, and the second does
    not change what the first believes."""
    x = np.random.default_rng(0).uniform(-1, 1, (40, 2))
    first, second = sweep.Process(2), sweep.Process(2)
    first.fit(x, np.sin(5 * x[:, 0]))
    before, believed = {k: v.clone() for k, v in first.h.items()}, first.predict(x[:5] + 0.1)
    second.fit(x, np.sin(5 * x[:, 1]))
    assert all(torch.equal(first.h[name], value) for name, value in before.items())
    assert np.array_equal(first.predict(x[:5] + 0.1), believed)
    assert first.h["length"][0] < 0.5 * first.h["length"][1]
    assert second.h["length"][1] < 0.5 * second.h["length"][0]
    error = first.predict(x + 0.05)[0] - np.sin(5 * (x[:, 0] + 0.05))
    assert np.abs(error).max() < 0.1


@ALL_OF_THEM
def test_parallel_suggestions_differ(label):
    sampler = told(label, observations(9))
    suggestions = [sampler.suggest() for _ in range(5)]
    assert len({json.dumps(params) for params in suggestions}) == 5
    assert sampler.running == suggestions


@THOSE_WITH_MODELS
def test_what_is_running_counts(label):
    """The five best runs that one can think of, or the worst: what comes next is not the same."""
    suggestions, anywhere = [], np.random.default_rng(0).uniform(-1, 1, (1000, 4))
    for choose in (lambda means: means.argsort()[-5:], lambda means: means.argsort()[:5]):
        sampler = told(label, observations(20))
        sampler.learn(*sampler.successes())
        sampler.running += [TUNED.from_unit(anywhere[i]) for i in choose(sampler.look(anywhere).mean)]
        suggestions.append(sampler.suggest())
    assert suggestions[0] != suggestions[1]


def test_the_same_as_what_is_running_gains_nothing():
    sampler = told((DEFAULT, None), observations(20))
    good = sampler.suggest()
    sampler.running.clear()
    gains = []
    for running in ([], [good]):
        sampler.running[:] = running
        sampler.learn(*sampler.successes())
        gains.append(sampler.growth(sampler.look(TUNED.to_unit(good)[None]), 2.0).item())
    assert gains[1] < gains[0] - 1


@THOSE_WITH_MODELS
def test_nothing_is_suggested_that_is_expected_to_cost_too_much(label):
    sampler = told(label, observations(20))
    limit = np.median([cost(sampler.suggest()) for _ in range(6)])
    sampler = told(label, observations(20), max_cost=limit)
    assert max(cost(sampler.suggest()) for _ in range(6)) < limit * 1.1


@THOSE_WITH_MODELS
def test_where_runs_fail_is_avoided(label):
    """High learning rates fail, just where scores would be best."""
    seen = [(TUNED.to_unit(params)[0], params, x, c) for params, x, c in observations(40, 1.0)]
    sampler = told(label, [(params, x + rate, c, bool(rate > 0.2)) for rate, params, x, c in seen])
    assert 10 < np.isnan(sampler.scores).sum() < 20
    rates = [TUNED.to_unit(sampler.suggest())[0] for _ in range(8)]
    assert np.mean(np.array(rates) > 0.3) <= 0.25


def test_the_default_finds_the_best_at_a_known_cost():
    sampler = make((DEFAULT, None), budget=60, max_trials=40)
    suggestions = play(sampler, 40)
    assert max(map(score, suggestions)) > 0.93
    assert sum(map(cost, suggestions)) < 75
    assert np.median([*map(cost, suggestions)]) < 1.5  # most runs are cheap ones


@pytest.mark.parametrize(
    "name, rule, message",
    [
        ("carbs", None, "unknown sampler 'carbs'; there are bayesian, pareto"),
        (DEFAULT, "carb", "unknown rule 'carb'; there are growth, capped, carbs"),
        (DEFAULT, "", "unknown rule ''; there are growth"),
        (DEFAULT, "resample=5", "unknown rule 'resample=5'"),
        (DEFAULT, "growth,warp", "unknown option 'warp' of rule growth; there are resample=N and warp"),
        (DEFAULT, "growth,warp=log", "unknown option 'warp=log'"),
        (DEFAULT, "growth,warp=5", "unknown option 'warp=5'"),
        (DEFAULT, "carbs,resample=0", "unknown option 'resample=0' of rule carbs"),
        (DEFAULT, "growth,resample=x", "unknown option 'resample=x'"),
        (DEFAULT, "growth,", "unknown option ''"),
        ("pareto", "growth", "rule 'growth' is for the sampler bayesian, not for pareto"),
    ],
)  # fmt: skip
def test_a_wrong_name_is_one_line_that_says_what_there_is(name, rule, message):
    with pytest.raises(ValueError) as error:
        sweep.make_sampler(name, SPACE, rule=rule)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["halving", "random-full-cost"])
def test_samplers_of_lengths_need_a_length(name):
    space = {key: p for key, p in SPACE.items() if key != "total_timesteps"}
    with pytest.raises(ValueError, match="needs total_timesteps"):
        sweep.make_sampler(name, space)
    sweep.make_sampler("random-uniform", space).suggest()
    space["total_timesteps"] = {"distribution": "uniform", "min": 0, "max": 10, "mean": 5}
    with pytest.raises(ValueError, match="needs a total_timesteps min above 0"):
        sweep.make_sampler(name, space)


def test_halving_runs_the_best_third_three_times_as_long():
    sampler = make(("halving", None))
    suggestions = play(sampler, 61)[1:]
    shortest = 10_000_000 / 3**6
    runs = {}  # of each setting, their lengths in turn
    for params in suggestions:
        steps = params.pop("total_timesteps")
        runs.setdefault(json.dumps(params), []).append(round(math.log(steps / shortest, 3), 3))
    assert all(lengths == list(range(len(lengths))) for lengths in runs.values())
    counts = [sum(len(lengths) > rung for lengths in runs.values()) for rung in range(4)]
    assert counts[0] > 35
    for rung in range(3):
        assert counts[rung] // 3 - 1 <= counts[rung + 1] <= counts[rung] // 2  # nobody waits
    by_score = sorted(runs, key=lambda params: -score(json.loads(params) | {"total_timesteps": 20_000}))
    assert len(runs[by_score[0]]) > 2 and len(runs[by_score[-1]]) == 1


def test_halving_does_not_repeat_itself_where_lengths_are_repaired():
    space = sweep.Space(SPACE, ["total_timesteps <= 20_000 * (batch / 4096 + 14)"])
    sampler = sweep.make_sampler("halving", space, seed=3)
    suggestions = [json.dumps(params) for params in play(sampler, 40)]
    assert len({*suggestions}) == 40


def test_full_cost_is_full_cost_and_anywhere():
    suggestions = play(make(("random-full-cost", None)), 30)[1:]
    assert {params["total_timesteps"] for params in suggestions} == {10_000_000}
    rates = [params["learning_rate"] for params in suggestions]
    assert min(rates) < 1e-4 and max(rates) > 0.01


def test_the_model_free_one_goes_round_the_pareto_points():
    good, bad = np.full(4, 0.5), np.full(4, -0.5)
    seen = [(TUNED.from_unit(bad), 0.0, 2.0)] * 9 + [(TUNED.from_unit(good), 1.0, 1.0)]
    found = [TUNED.to_unit(told(("pareto", None), seen, seed=i).suggest()) for i in range(40)]
    assert np.abs(np.mean(found, 0) - 0.45).max() < 0.2
    assert np.std(found, 0).min() > 0.2


def front() -> samplers.Ranked:
    """With two Pareto points, of score 1 at a log cost of 0 and of 2 at 2, in the middle of [-1, 1] and
    beside."""
    sampler = make((DEFAULT, "carbs"))
    sampler.rng, sampler.made = np.random.default_rng(0), 2
    sampler.costs = sampler.paid = [1.0, math.exp(2)]
    sampler.points = np.array([[0.0, 0, 0, 0], [0.5, 0, 0, 0]])
    sampler.front, sampler.steps = np.array([1.0, 2.0]), np.array([0.0, 2.0])
    sampler.floor, sampler.base, sampler.top = 0.0, 0.0, math.inf
    sampler.noise, sampler.waiting, sampler.parents = 0.1, 0.0, np.array([0, 1, 1])
    sampler.curve = lambda costs: 1 + costs / 2
    return sampler


def ranked(rule: str, sampler=None, **changes) -> np.ndarray:
    """Values of three candidates: score 2 and 3 at a log cost of 1, 3 at 2."""
    given = {"points": np.zeros((3, 4)), "mean": [2.0, 3, 3], "deviation": [0.5, 0.5, 0.5]}
    given |= {"cost": [1.0, 1, 2], "success": np.ones(3)} | changes
    return samplers.RULES[rule](
        sampler or front(), sweep.Candidates(**{k: np.array(v) for k, v in given.items()})
    )


def test_each_rule_is_what_it_says():
    np.testing.assert_allclose(ranked("conservative"), [0, 1, 0.5])
    np.testing.assert_allclose(ranked("conservative-product"), [0, 2.5, 1.25])
    np.testing.assert_allclose(ranked("own-point"), [0.5, 0.5, 0.5])
    np.testing.assert_allclose(ranked("nearest-cheaper"), [1, 2, 1])
    np.testing.assert_allclose(ranked("nearest-cheaper", cost=[-1, 1, 3]), [2, 2, 1])  # below all: the floor
    np.testing.assert_allclose(ranked("per-cost"), [0, 1 / math.e, 0.5 / math.e**2])
    poor, half = ranked("carbs-no-density", mean=[-9, -9, -9]), ranked("carbs-no-density", success=[0.5] * 3)
    assert np.all((poor >= 0) & (poor < 1e-6))
    np.testing.assert_allclose(half, ranked("carbs-no-density") / 2)
    sure = ranked(
        "carbs-no-density", deviation=[1e-9] * 3
    )  # the improvement itself, at or above the drawn cost
    drawn = front().rng.uniform(0, 2)
    np.testing.assert_allclose(
        sure, np.maximum(np.array([2, 3, 3]) - 1 - np.maximum([1, 1, 2], drawn) / 2, 0)
    )
    far = ranked("carbs", points=[[0.0] * 4, [0.9] * 4, [0.0] * 4]) / ranked("carbs-no-density")
    assert far[0] == pytest.approx((1 + math.exp(-0.5)) / 2) and far[1] < 0.1 * far[0]
    dear = [ranked("protein", s, mean=[1.0] * 3, cost=[0.0, 1, 2]).argmax() for s in seeded(1000)]
    shares = np.bincount(dear, minlength=3) / 1000  # a target up to 1.25 of the range
    np.testing.assert_allclose(shares, [0.2, 0.4, 0.4], atol=0.05)
    scores = ranked("protein", mean=[1.0, 2, 3], cost=[1.0] * 3)  # not their asinh
    np.testing.assert_allclose(scores / scores[0], np.sinh([1, 2, 3]) / np.sinh(1))


def seeded(count: int):
    for seed in range(count):
        sampler = front()
        sampler.rng = np.random.default_rng(seed)
        yield sampler


def test_the_cap_goes_up_to_five_times_what_each_trial_has_left():
    """Of candidates as good at every cost, the one chosen is below the cap, which is anywhere in its
    range."""
    costs = np.linspace(-2, 4, 200)
    for budget, most in ((None, 2 + math.log(3)), (11.0 + math.exp(2), math.log(5))):
        chosen = []
        for sampler in seeded(100):
            sampler.budget, sampler.max_trials = budget, 12
            found = {"points": np.zeros((200, 4)), "mean": np.linspace(1, 5, 200), "success": np.ones(200)}
            chosen.append(
                costs[ranked("capped", sampler, **found, cost=costs, deviation=np.full(200, 0.1)).argmax()]
            )
        assert -0.3 < min(chosen) < 0.1 and most - 0.4 < max(chosen) <= most
        assert np.mean(chosen) == pytest.approx(most / 2, abs=0.3)


def test_what_is_looked_at_can_be_run():
    """A batch between two powers of two is predicted to be what neither is."""
    sampler = told((DEFAULT, None), observations(20))
    sampler.suggest()
    for point in sampler.candidates().points[:100]:
        assert np.allclose(TUNED.to_unit(TUNED.from_unit(point)), point, atol=1e-6)


def test_candidates_of_the_ledger_are_round_the_front():
    for rule, most in (("conservative", 1.5), ("uniform-noise", math.sqrt(3) / 2)):
        sampler = told((DEFAULT, rule), observations(20))
        sampler.suggest()
        found = sampler.noise_round_front()
        moved = (found.points - sampler.points[sampler.parents])[np.abs(found.points) < 1]
        assert len(found.points) == 1000 and {*sampler.parents} == {*range(len(sampler.front))}
        assert moved.std() == pytest.approx(0.45, abs=0.07)  # of 0.5, some of it cut off
        assert most / 1.3 < np.abs(moved).max() < most * 1.3


def test_the_front_as_a_curve_goes_through_its_points():
    sampler = front()
    del sampler.curve
    between = sampler.curve(np.array([0.0, 1.0, 2.0]))
    assert between[0] == pytest.approx(1, abs=0.1) and between[2] == pytest.approx(2, abs=0.1)
    assert 1.2 < between[1] < 1.8


def test_pareto_points_with_few_samples_are_tried_again():
    sampler = told((DEFAULT, "growth,resample=4"), observations(16))
    first = sampler.suggest()
    others = [sampler.suggest() for _ in range(3)]
    second = sampler.suggest()
    seen = [params for params, *_ in observations(16)]
    assert first in seen and second in seen and first != second  # each has one sample more now
    assert not any(params in seen for params in others)


def test_quantiles_of_scores_are_those_of_a_normal_distribution():
    drawn = np.random.default_rng(0).standard_normal(400)
    warped = samplers.quantile_normal(np.exp(5 * drawn))
    assert np.all(np.diff(warped[np.argsort(drawn)]) > -1e-12)
    assert abs(warped.mean()) < 0.1 and 0.8 < warped.std() < 1.2 and np.abs(warped).max() < 4
    assert np.abs(samplers.quantile_normal(np.full(7, 3.0))).max() < 1e-9
    equal = samplers.quantile_normal(np.append(np.repeat(np.arange(5.0), 5), 1e9))
    assert np.all(np.ptp(equal[:25].reshape(5, 5), 1) == 0)
    assert np.all(np.diff(equal[::5]) > 0) and equal[-1] < 2.1


def test_options_change_what_is_suggested():
    seen = observations(20)
    plain = told((DEFAULT, "growth"), seen).suggest()
    assert told((DEFAULT, "growth,warp=quantile"), seen).suggest() != plain
    assert told((DEFAULT, "growth,resample=5,warp=quantile"), seen).suggest() != plain
    assert told((DEFAULT, "growth,resample=3"), seen).suggest() == plain  # after 20 it is not the turn


def metrics(folder: Path, lines: list[dict]) -> Path:
    (folder / "run").mkdir()
    (folder / "run" / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def test_points_of_a_curve_are_evenly_apart_and_shorter_than_the_run(tmp_path):
    lines = [{"step": 100 * i, "score": i / 10, "seconds": i} for i in range(11)]
    folder = metrics(tmp_path, lines)
    assert trials.curve(folder, 2, 100, 1000) == [(400, 0.4, 4), (700, 0.7, 7)]
    assert trials.curve(folder, 9, 100, 1000) == [(100 * i, i / 10, i) for i in range(1, 10)]
    assert trials.curve(folder, 3, 300, 500) == [(300, 0.3, 3), (400, 0.4, 4)]
    assert trials.curve(folder, 3, 2000, 3000) == []
    assert trials.curve(tmp_path / "none", 3, 0, 500) == []


def test_lines_of_a_curve_that_say_nothing_are_left_out(tmp_path):
    good = [{"steps": 200, "score": 1, "seconds": 2, "loss": 0.1}, {"step": 300, "score": 1.5, "seconds": 3}]
    bad = [{"step": 100, "score": None, "seconds": 1}, {"step": 200}, {"score": 1, "seconds": 0, "step": 150}]
    folder = metrics(tmp_path, [bad[0], good[0], bad[1], bad[2], good[1]])
    with open(folder / "run" / "metrics.jsonl", "a") as file:
        file.write('{"step": 400, "sco')  # the run was killed
    assert trials.curve(folder, 2, 1, 1000) == [(200, 1, 2), (300, 1.5, 3)]


TRAINER = """
import json, pathlib, sys
args = dict(zip((word.lstrip("-") for word in sys.argv[1::2]), sys.argv[2::2]))
run, steps = pathlib.Path(args["run-dir"]), int(args["total_timesteps"])
run.mkdir(parents=True)
lines = [{"step": steps * i // 10, "score": i, "seconds": i} for i in range(1, 11)]
(run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
status = "diverged" if float(args["learning_rate"]) < 0.0005 else "ok"
(run / "summary.json").write_text(json.dumps({"status": status, "score": 10, "cost": 10}))
"""


def test_a_sweep_observes_points_of_its_trials_curves(tmp_path, monkeypatch, capsys):
    (tmp_path / "trainer.py").write_text(TRAINER)
    lines = [
        f"{name} = {{ {', '.join(f'{k} = {json.dumps(v)}' for k, v in p.items())} }}"
        for name, p in SPACE.items()
    ]
    (tmp_path / "space.toml").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    words = ["--command", f"{sys.executable} trainer.py", "--space=space.toml", "--sweep-dir=s", "--seed=1"]
    made, make = [], sweep.make_sampler
    monkeypatch.setattr(
        sweep, "make_sampler", lambda *args, **known: made.append(make(*args, **known)) or made[-1]
    )
    words += ["--budget=1000", "--sampler=random-uniform", "--curve-points=4"]
    assert sweep.main([*words, "--max-trials=4"]) == 0
    worked = int(np.sum(~np.isnan(made[0].scores))) // 5
    assert 0 < worked < 4 and len(made[0].scores) == 4 + 4 * worked  # a failed trial has no curve
    assert made[0].scores[:5] == [2, 4, 6, 8, 10] and made[0].costs[:5] == [2, 4, 6, 8, 10]
    lengths = [TUNED.from_unit(unit)["total_timesteps"] for unit in made[0].units[:5]]
    assert lengths == pytest.approx([60_000, 120_000, 180_000, 240_000, 300_000], rel=1e-4)
    assert made[0].paid == [10] * 4 and made[0].made == 3  # a point is no trial, and takes no money
    shutil.copytree("s", "copy")
    assert sweep.main(["--resume=copy", "--max-trials=5"]) == 0  # goes on, and reads the curves again
    assert np.allclose(made[1].units[: len(made[0].units)], made[0].units)
    assert sweep.main([*words[:-1], "--max-trials=5"]) == 2  # other settings
    assert "curve_points" in capsys.readouterr().err
    assert sweep.main([*words[:2], "--space=space.toml", "--only=gamma", "--curve-points=1"]) == 2
    assert "--curve-points needs total_timesteps" in capsys.readouterr().err
    for wrong in ("-1", "1.5", "x"):
        assert sweep.main(["--env=pong", f"--curve-points={wrong}"]) == 2


def reached(count: int, target: float) -> list[tuple[dict, float, float]]:
    """Observations of runs that end at a target."""
    return [(params, min(x, target), c) for params, x, c in observations(count, 0.6)]


def test_beyond_a_target_only_costs_count():
    seen = observations(30, 0.6)
    above = [(params, 3 * x if x > 0.2 else x, c) for params, x, c in seen]
    first, second = (told((DEFAULT, None), runs, target=0.2) for runs in (seen, above))
    assert sum(x >= 0.2 for _, x, _ in seen) > 3
    assert first.suggest() == second.suggest()
    first.learn(*first.successes())
    best = sweep.Candidates(np.zeros((1, 4)), *np.array([[first.top + 2], [0.1], [0.0], [1.0]]))
    assert first.improvement(best, first.top) == 0 < first.improvement(best, first.base)
    assert np.sinh(first.base) == pytest.approx(sweep.CLOSE * sweep.NEAR * np.sinh(first.top))


def test_a_belief_in_more_than_a_target_hides_nothing(monkeypatch):
    """Processes rise beyond the target where runs have reached it; what reaches it sooner still counts."""
    sampler = told((DEFAULT, None), reached(30, 0.2), target=0.2)
    sampler.suggest()
    predict = sampler.score.predict
    monkeypatch.setattr(sampler.score, "predict", lambda x: (predict(x)[0] + 0.3, predict(x)[1]))
    sampler.learn(*sampler.successes())
    assert sampler.base < sampler.top
    assert sampler.growth(sampler.candidates(), sampler.steps[-1]).max() > -10


def test_near_a_target_is_not_there():
    """Cheap runs end a hundredth below the target: the front ends where one has reached it."""
    _, scores, costs = zip(*observations(40), strict=True)
    least, bad = np.median(costs), np.quantile(scores, 0.25)
    seen = [(p, 1.0 if c > least else 0.99 if x > bad else 0.0, c) for p, x, c in observations(40)]
    sampler = told((DEFAULT, None), seen, target=1.0)
    sampler.learn(*sampler.successes())
    assert sampler.steps[0] < np.log(least) < sampler.steps[-1]
    assert sampler.front[0] <= np.arcsinh(sweep.NEAR * np.sinh(sampler.top)) < sampler.front[-1]


def test_the_least_time_to_a_target_is_found():
    """No run of less than 0.04 s scores 0.2."""
    sampler = told((DEFAULT, None), reached(20, 0.2), target=0.2, budget=60)
    assert min(c for _, x, c in reached(20, 0.2) if x == 0.2) > 0.07
    played = play(sampler, 25)
    assert 0.0398 < min(cost(params) for params in played if score(params) >= 0.2) < 0.045


def test_a_target_that_all_reach():
    sampler = told((DEFAULT, None), [(params, 5.0, c) for params, _, c in observations(12)], target=5)
    costs = [cost(sampler.suggest()) for _ in range(6)]
    assert min(costs) < min(sampler.costs) and np.median(costs) < np.median(sampler.costs)


def test_differences_that_are_nothing_on_the_way_to_a_target_lead_nowhere():
    """Scores rise a little with gamma, far below the target: the search goes on in all directions."""
    seen = [(p, -21 + 1e-3 * TUNED.to_unit(p)[1], c) for p, _, c in observations(20)]
    sampler = told((DEFAULT, None), seen, target=20.0, max_trials=100, budget=50)
    gammas = []
    for _ in range(12):
        params = sampler.suggest()
        gammas.append(TUNED.to_unit(params)[1])
        sampler.observe(params, -21 + 1e-3 * gammas[-1], cost(params))
    assert min(gammas) < -0.2 and max(gammas) > 0.2


def test_noise_that_a_model_fits_is_not_taken_for_a_signal(monkeypatch):
    """Scores of noise alone are not predicted when they are left out, so that the search stays wide; scores
    that depend on a parameter are, and it goes where they rise."""
    monkeypatch.setattr(sweep.Bayesian, "grope", lambda *_: "wide")
    wide = {"noise": 0, "signal": 0}
    for seed in range(5):
        rng = np.random.default_rng(seed)
        units = rng.uniform(-1, 1, (30, len(SPACE)))
        for kind, scores in (("noise", rng.normal(size=30)), ("signal", np.exp(units[:, 0]))):
            sampler = make((DEFAULT, None))
            for unit, score in zip(units, scores, strict=True):
                sampler.observe(TUNED.from_unit(unit), float(score), 1.0)
            sampler.made, sampler.rng = 30, np.random.default_rng(0)
            wide[kind] += isinstance(sampler.propose(), str)
    assert wide == {"noise": 5, "signal": 0}


def test_scores_that_are_all_alike_explain_nothing():
    sampler = make((DEFAULT, None))
    for unit in np.random.default_rng(0).uniform(-1, 1, (12, len(SPACE))):
        sampler.observe(TUNED.from_unit(unit), -21.0, 1.0)
    sampler.suggest()
    assert math.isfinite(sampler.score.explained)
