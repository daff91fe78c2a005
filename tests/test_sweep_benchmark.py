"""The tuner's synthetic tasks: their maxima, ideal fronts and measures are what benchmarks/sweep.py says."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sweep
from benchmarks import sweep as bench

ROOT = Path(__file__).resolve().parent.parent
SEEDS = (1, 2, 3)


def samples(task: bench.Task, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Uniform parameters, with some at their bounds, which are in the space too."""
    return {
        name: bench.value(spec, np.clip(rng.uniform(-1.1, 1.1, count), -1, 1))
        for name, spec in task.space.items()
    }


def near(task: bench.Task, params: dict, width: float, rng: np.random.Generator, count: int) -> dict:
    """Parameters round those given, normal noise of that width."""
    return {
        name: bench.value(
            spec, np.clip(bench.unit(spec, params[name]) + width * rng.normal(size=count), -1, 1)
        )
        for name, spec in task.space.items()
    }


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", bench.TASKS)
def test_no_sample_exceeds_the_maximum_and_the_optimum_attains_it_at_full_cost(name, seed):
    task, rng = bench.make_task(name, seed), np.random.default_rng(seed)
    assert task.evaluate(task.optimum) == (task.maximum, task.full_cost, False)
    most = task.maximum * (1 + 1e-9)
    params = samples(task, rng, 100_000)
    score = np.nan_to_num(task.evaluate(params)[0])
    assert score.max() < most
    best = {at: values[score.argmax()] for at, values in params.items()}
    for centre, reached in (
        (best, 0.5),
        (task.optimum, 0.9),
    ):  # local searches: from the best, from the optimum
        for width in 0.5 ** np.arange(1, 30):
            params = near(task, centre, width, rng, 300)
            score, cost, _ = task.evaluate(params)
            score = np.nan_to_num(score)
            assert score.max() < most
            assert not np.any((score > task.maximum * (1 - 1e-9)) & (cost < task.full_cost * (1 - 1e-6)))
            if score.max() > np.nan_to_num(task.evaluate(centre)[0]):
                centre = {at: values[score.argmax()] for at, values in params.items()}
        assert task.evaluate(centre)[0] > reached * task.maximum  # the searches do climb


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", bench.TASKS)
def test_the_ideal_front_rises_to_the_maximum_and_no_sample_is_above_it(name, seed):
    task, rng = bench.make_task(name, seed), np.random.default_rng(seed)
    costs = np.geomspace(task.lowest_cost, task.full_cost, 50)
    front = task.ideal(costs)
    assert np.all(np.diff(front) >= 0)
    assert front[-1] == pytest.approx(task.maximum)
    assert task.free or front[0] < 0.2 * task.maximum
    for width in (2.0, 0.5, 0.1):  # the closer to the optimum, the closer to the front
        params = near(task, task.optimum, width, rng, 20_000)
        params["total_timesteps"] = samples(task, rng, 20_000)["total_timesteps"]  # of any cost
        score, cost, _ = task.evaluate(params)
        gap = task.ideal(cost) - np.nan_to_num(score)
        assert gap.min() > -1e-6 * task.maximum
        assert cost.min() >= task.lowest_cost * 0.3  # failed runs stop earlier
    assert np.quantile(gap, 0.02) < 0.15 * task.maximum  # nor is it far above all of them


@pytest.mark.parametrize("name", bench.TASKS)
def test_longer_runs_score_more_and_cost_more(name):
    task = bench.make_task(name, 1)
    low, high = task.space["total_timesteps"]["min"], task.optimum["total_timesteps"]
    length = np.geomspace(low, high, 20)
    scores, costs, _ = task.evaluate(
        {at: np.full(20, v) for at, v in task.optimum.items()} | {"total_timesteps": length}
    )
    assert np.all(np.diff(scores) > 0)
    assert scores[0] < 0.3 * scores[-1]
    np.testing.assert_allclose(costs, 1.0 if task.free else task.full_cost * length / high)


def test_the_imitation_of_an_rl_run_is_the_formula():
    task = bench.make_task("rl", 5)
    assert task.maximum == pytest.approx((math.log2(200) + 1) * math.sqrt(2**22))
    halves = [task.optimum | {"batch_size": 2**20}, task.optimum | {"total_timesteps": 100_000_000}]
    assert task.evaluate(halves[0])[0] == pytest.approx(task.maximum / 2)
    assert task.evaluate(halves[1])[0] == pytest.approx(2 * math.sqrt(2**22))
    few, many = (task.evaluate(task.optimum | {"num_envs": count}) for count in (64, 4096))
    assert few[0] == many[0] and few[1] == pytest.approx(many[1] * 3 / (1 + 1 / 32))


@pytest.mark.parametrize("name", bench.TASKS)
def test_optima_and_centres_differ_by_seed_lie_inside_and_the_centre_runs_at_a_low_price(name):
    centres, optima, prices = [], [], []
    for seed in range(20):
        task = bench.make_task(name, seed)
        space = sweep.Space(task.space)
        centre = {at: spec["mean"] for at, spec in task.space.items()}
        score, cost, failed = task.evaluate(centre)
        assert not failed and 0 < score < 0.9 * task.maximum
        prices.append(cost / task.full_cost)
        centres.append(space.centre)
        optima.append(space.to_unit(task.optimum))
        assert np.abs(space.centre).max() < 0.75  # 0.6, rounded to whole numbers
        again = space.from_unit(optima[-1])  # the tuner can suggest the optimum
        assert task.evaluate(again)[0] == pytest.approx(task.maximum, rel=1e-6)
        np.testing.assert_allclose(  # both map alike
            space.centre, [bench.unit(spec, spec["mean"]) for spec in task.space.values()], atol=1e-6
        )
    varies = np.std(optima, 0) > 0.1  # what is best at its bound does not
    assert np.abs(np.transpose(optima)[varies]).max() < 0.85
    assert varies.sum() >= 2 and np.all(np.std(centres, 0) > 0.1)
    both = np.corrcoef(np.transpose(optima)[varies].ravel(), np.transpose(centres)[varies].ravel())
    assert abs(both[0, 1]) < 0.4  # independent
    assert np.median(prices) < 0.2 or task.free


@pytest.mark.parametrize("seed", SEEDS)
def test_failures_are_beside_the_optimum_and_leave_room(seed):
    task, rng = bench.make_task("rl-fails", seed), np.random.default_rng(seed)
    score, _, failed = task.evaluate(samples(task, rng, 20_000))
    assert 0.05 < failed.mean() < 0.65
    assert np.all(np.isnan(score) == failed)
    beside = task.evaluate(near(task, task.optimum, 0.3, rng, 2000))[2]
    assert 0.05 < beside.mean() < 0.6
    params = {at: values[:1].item() for at, values in samples(task, rng, 1).items()}
    assert len(task.evaluate(params)) == 3


class Fixed:
    """A sampler that suggests what it was given, and keeps what it is told."""

    def __init__(self, suggestions: list[dict]) -> None:
        self.suggestions, self.seen = suggestions, []

    def suggest(self) -> dict:
        return self.suggestions[len(self.seen)]

    def observe(self, params: dict, score: float, cost: float, failed: bool = False) -> None:
        self.seen.append((score, cost, failed))


def test_noise_is_of_the_observed_score_and_as_large_as_said():
    task = bench.make_task("ridge", 1)
    sampler = Fixed([task.optimum] * 4000)
    _, trials = bench.play(task, sampler, 0.05, 4000, 1)
    score, observed, cost, _ = trials.T
    assert np.all(score == task.maximum) and np.all(cost == task.full_cost)
    # of 4000 draws: standard error of the deviation 1.1 %, of the mean 1.6 % of it
    assert np.std(observed) == pytest.approx(0.05 * task.maximum, rel=0.05)
    assert np.mean(observed) == pytest.approx(task.maximum, abs=0.004 * task.maximum)
    np.testing.assert_array_equal(observed, [seen[0] for seen in sampler.seen])
    assert bench.make_task("rl-noise", 1).noise == 0.05 and bench.make_task("rl", 1).noise == 0


def test_measures():
    task = bench.make_task("linear", 1)
    costs = np.geomspace(task.lowest_cost, task.full_cost, 300)
    perfect = bench.measures(task, task.ideal(costs), task.ideal(costs), costs)
    # steps of 300 points lose half a step each: log(800) / 600 is 1.1 %
    assert perfect["best"] == perfect["incumbent"] == 1
    assert perfect["hypervolume"] == perfect["picked"] == pytest.approx(1, abs=0.015)
    # one run at a tenth of the full cost, scoring half of the maximum, holds from there on
    tenth = np.array([task.full_cost / 10])
    single = bench.measures(task, np.array([task.maximum / 2]), np.array([1.0]), tenth)
    area = task.maximum - task.lowest_cost  # of the ideal front, score = cost, over log cost
    assert single["hypervolume"] == pytest.approx(task.maximum / 2 * math.log(10) / area, rel=1e-3)
    # a dearer run that scores less changes nothing
    worse = bench.measures(task, task.maximum * np.array([0.5, 0.2]), np.array([2.0, 1.0]), tenth * [1, 2])
    assert worse["hypervolume"] == pytest.approx(single["hypervolume"]) == worse["picked"]
    # what looks best and is not: found, but not picked; above the full cost nothing counts
    score, observed = np.array([0.5, 0.9, 1.0]) * task.maximum, np.array([2.0, 1.0, 3.0])
    mixed = bench.measures(task, score, observed, task.full_cost * np.array([0.01, 0.1, 2]))
    assert (mixed["best"], mixed["incumbent"]) == (1.0, 1.0)
    of = np.array([[0.5, 0.9], [0.5, 0.5]]) @ [math.log(10), math.log(10)] * task.maximum / area
    assert [mixed["hypervolume"], mixed["picked"]] == pytest.approx(list(of), rel=1e-3)


@pytest.mark.parametrize("peer", bench.PEERS)
def test_peers_start_at_the_centre_and_learn(peer):
    task = bench.make_task("rl-fails", 3)
    sampler = bench.make_sampler(peer, task, 3, 12, 15)
    suggested, trials = bench.play(task, sampler, 0.0, 15, 3)
    centre = {at: spec["mean"] for at, spec in task.space.items()}
    assert suggested[0] == pytest.approx(centre)
    assert len({tuple(params.values()) for params in suggested}) == 15
    told = [trial.values[0] for trial in sampler.study.trials]
    lowest = np.nanmin(trials[:, 1])
    ran = np.isfinite(trials[:, 1])
    np.testing.assert_allclose(np.array(told)[ran], trials[ran, 1])
    assert all(score >= lowest for score in told)
    sampler.observe(task.optimum, task.maximum, task.full_cost)  # never suggested
    assert sampler.study.trials[-1].values[0] == task.maximum


def test_the_script_prints_its_tables(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "sweep.py"),
        "--samplers",
        "optuna-tpe",
        "--seeds",
        "2",
    ]
    command += [
        "--trials",
        "12",
        "--tasks",
        "ridge",
        "rl-no-cost",
        "--noise",
        "0.05",
        "--json",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ridge, noise 5%, 2 seeds" in done.stdout and "Mean over 2 tasks with noise 5%" in done.stdout
    assert (tmp_path / "out").stat().st_size > 1000


@pytest.mark.parametrize("seed", SEEDS)
def test_a_race(seed):
    """Nothing is sooner than the best; a run ends at the target, at its last step or at the limit."""
    task, rng = bench.Race(seed), np.random.default_rng(seed)
    drawn = samples(task, rng, 300)
    for i in range(300):
        params = {name: at[i].item() for name, at in drawn.items()}
        assert task.seconds(params) > 0.99 * task.best  # epochs are tried in quarters
        needed = task.steps(params)
        score, cost = task.run(params | {"total_timesteps": 2 * needed}, 1.0, math.inf)
        assert score == task.target and cost == pytest.approx(task.seconds(params))
        short, less = task.run(params | {"total_timesteps": 0.9 * needed}, 1.0, math.inf)
        assert -21 < short < task.target - 1 and less < cost
        capped, limit = task.run(params | {"total_timesteps": 2 * needed}, 1.0, 1 + (cost - 1) / 2)
        assert capped < short and limit == pytest.approx(1 + (cost - 1) / 2)
