"""The tuner on synthetic tasks whose maximum and ideal front are known, beside Optuna's samplers.

    python benchmarks/sweep.py                                      every sampler, every task, ten seeds
    python benchmarks/sweep.py --noise 0.05                         scores observed with 5 % noise
    python benchmarks/sweep.py --samplers optuna-tpe --tasks rl     some of them
    python benchmarks/sweep.py --target                             the least time to a target score
    python benchmarks/sweep.py --times                              seconds of suggest(), by observations
    python benchmarks/sweep.py --calibration                        predictions against held-out trials

A task draws its optimum and its search centre anew for every seed, independently of each other and within the
inner part of the ranges, so that no sampler can be tuned to them. Money is counted in full-cost runs: the
cheapest run that attains the maximum costs 1. All figures of quality are of noise-free scores:

best         the highest score among the trials, as a share of the maximum
incumbent    the score of the trial that was observed best
hypervolume  the integral of the front, scores below 0 counted as 0, over log cost from the cheapest run there
             is to a full-cost run, as a share of that of the ideal front
picked       the same of the trials that one would pick by what was observed
within       of the trials until the budget was spent, which samplers know and nobody enforces
runs         what all trials cost; "to 80 %" what had been spent when a trial first reached that much
"""

import argparse
import concurrent.futures
import itertools
import json
import math
import multiprocessing
import os
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

import sweep

INNER = 0.6  # optima and centres lie within this part of a parameter's range, which is [-1, 1]
SHARES = (0.8, 0.9, 0.95)  # of the maximum, whose price is told
COUNTS = (100, 200, 1000)  # observations at which a suggestion is timed


def parameter(distribution: str, low: float, high: float) -> dict:
    return {"distribution": distribution, "min": low, "max": high, "mean": None, "scale": "auto"}


def timesteps(low: int, high: int) -> dict:
    return parameter("log_normal", low, high) | {"scale": "time"}


def unit(parameter: dict, value: np.ndarray | float) -> np.ndarray:
    """Where values lie between a parameter's bounds, in [-1, 1]; the tuner's own mapping is not used here."""
    bend = {"log_normal": np.log, "uniform_pow2": np.log, "logit_normal": lambda x: -np.log1p(-x)}
    bend = bend.get(parameter["distribution"], np.asarray)
    low, high = bend(parameter["min"]), bend(parameter["max"])
    return 2 * (bend(value) - low) / (high - low) - 1


def value(parameter: dict, x: np.ndarray | float) -> np.ndarray:
    """The reverse of unit, rounded where the parameter is whole, as plain numbers of its bounds."""
    low, high, share = parameter["min"], parameter["max"], (np.asarray(x) + 1) / 2
    match parameter["distribution"]:
        case "uniform_pow2":
            return 2 ** np.rint(np.log2(low) + share * np.log2(high / low)).astype(int)
        case "int_uniform":
            return np.rint(low + share * (high - low)).astype(int)
        case "log_normal":
            result = np.clip(low * (high / low) ** share, low, high)
            return np.rint(result).astype(int) if isinstance(low, int) else result
        case "logit_normal":
            return np.clip(1 - (1 - low) * ((1 - high) / (1 - low)) ** share, low, high)
    return low + share * (high - low)


def bell(distance: np.ndarray | float, width: float) -> np.ndarray:
    return np.exp(-((distance / width) ** 2))


@dataclass
class Task:
    """A function of parameters with a known maximum. All functions take arrays as well as numbers.

    score and cost: noise-free, of a dict of parameters. fails: whether a run fails; it then has no score and
    stops after FAILED_COST of its cost. optimum: the cheapest parameters that attain the maximum. trade: all
    values of the parameters beside total_timesteps by which money can be saved at the price of score. follow:
    sets what is best set otherwise once they are traded. noise: standard deviation of an observed score, as a
    share of the maximum.
    """

    FAILED_COST = 0.3

    name: str
    space: dict[str, dict]
    optimum: dict
    score: Callable[[dict], np.ndarray]
    cost: Callable[[dict], np.ndarray]
    trade: dict[str, list[int]] = field(default_factory=dict)
    follow: Callable[[dict], dict] = lambda params: params
    fails: Callable[[dict], np.ndarray] = lambda params: np.zeros(np.shape(params["total_timesteps"]), bool)
    noise: float = 0.0

    @property
    def maximum(self) -> float:
        return float(self.score(self.optimum))

    @property
    def full_cost(self) -> float:
        return float(self.cost(self.optimum))

    def evaluate(self, params: dict) -> tuple[float, float, bool]:
        """Noise-free score (nan where the run fails), cost, and whether it fails."""
        failed = self.fails(params)
        score = np.where(failed, np.nan, self.score(params))
        cost = self.cost(params) * np.where(failed, self.FAILED_COST, 1.0)
        return (score, cost, failed) if score.ndim else (float(score), float(cost), bool(failed))

    @cached_property
    def _traded(self) -> tuple[dict, np.ndarray]:
        """Every setting of the traded parameters, the rest at its best, and the cost of its shortest run."""
        rows = np.array(list(itertools.product(*self.trade.values())))  # [settings, traded]
        params = {name: np.full(len(rows), at) for name, at in self.optimum.items()}
        params |= {name: rows[:, i] for i, name in enumerate(self.trade)}
        params["total_timesteps"] = np.full(len(rows), float(self.space["total_timesteps"]["min"]))
        return self.follow(params), self.cost(params)

    @property
    def lowest_cost(self) -> float:
        """The cost of the cheapest run there is."""
        return float(self._traded[1].min())

    @property
    def free(self) -> bool:
        """Whether every run costs the same; the front is one point then."""
        return self.lowest_cost == self.full_cost

    def ideal(self, costs: np.ndarray) -> np.ndarray:
        """The best noise-free score that a run of at most that cost can have, for an array of costs."""
        params, cheapest = self._traded
        costs = np.atleast_1d(costs)[:, None]  # [costs, 1]
        low, high = self.space["total_timesteps"]["min"], self.space["total_timesteps"]["max"]
        dearest = self.cost(params | {"total_timesteps": np.full(len(cheapest), float(high))})
        # Cost is proportional to time, or nothing at all, and score never falls with it: spend all there is.
        longest = np.where(dearest > cheapest, np.clip(low * costs / cheapest, low, high), high)
        scores = self.score(params | {"total_timesteps": longest})
        return np.where(costs >= cheapest * (1 - 1e-12), scores, 0.0).max(1)

    @cached_property
    def ideal_area(self) -> float:
        """The integral of the ideal front over log cost, from the lowest to the full cost."""
        edges = np.linspace(math.log(self.lowest_cost), math.log(self.full_cost), 4001)
        return float(self.ideal(np.exp((edges[1:] + edges[:-1]) / 2)).mean() * (edges[-1] - edges[0]))


def draw(rng: np.random.Generator, space: dict[str, dict]) -> dict:
    """Sets the search centres, and returns an optimum, in the inner part of the ranges.

    The centre of total_timesteps is in the shorter half of it: a default is a run one can afford.
    """
    optimum = {}
    for name, parameter in space.items():
        optimum[name] = value(parameter, rng.uniform(-INNER, INNER)).item()
        highest = 0.0 if name == "total_timesteps" else INNER
        parameter["mean"] = value(parameter, rng.uniform(-INNER, highest)).item()
    return optimum


def distances(space: dict[str, dict], params: dict, optimum: dict, *names: str) -> list:
    return [unit(space[name], params[name]) - unit(space[name], optimum[name]) for name in names]


def rl(name: str, rng: np.random.Generator) -> Task:
    """An RL run: longer is better, larger batches are better, seven parameters have an optimum each, the
    number of copies matters for cost only."""
    space = {
        "total_timesteps": timesteps(50_000_000, 10_000_000_000),
        "batch_size": parameter("uniform_pow2", 2**16, 2**22),
        "minibatch_size": parameter("uniform_pow2", 2**10, 2**16),
        "update_epochs": parameter("int_uniform", 1, 8),
        "horizon": parameter("uniform_pow2", 8, 256),
        "gamma": parameter("logit_normal", 0.8, 0.9999),
        "gae_lambda": parameter("logit_normal", 0.6, 0.995),
        "learning_rate": parameter("log_normal", 1e-5, 0.1),
        "ent_coef": parameter("log_normal", 1e-5, 0.2),
        "num_envs": parameter("uniform_pow2", 64, 8192),
    }
    most = {at: space[at]["max"] for at in ("total_timesteps", "batch_size", "num_envs")}
    optimum = draw(rng, space) | most
    tuned = [at for at in space if at not in most]

    def score(params: dict) -> np.ndarray:
        base = math.prod(bell(d, 1.0) for d in distances(space, params, optimum, *tuned))
        return base * (np.log2(params["total_timesteps"] / 5e7) + 1) * np.sqrt(params["batch_size"])

    def cost(params: dict) -> np.ndarray:
        epochs = (1 + params["update_epochs"]) / 2
        small = (1 + 1024 / params["minibatch_size"]) * (1 + 128 / params["num_envs"])
        return params["total_timesteps"] / 5e7 * epochs * small

    trade = {"minibatch_size": [2**i for i in range(10, 17)], "update_epochs": list(range(1, 9))}
    task = Task(name, space, optimum, score, cost, trade)
    if name == "rl-no-cost":
        task.cost = lambda params: np.ones(np.shape(params["total_timesteps"]))
    if name == "rl-noise":
        task.noise = 0.05
    if name == "rl-fails":
        angle = rng.uniform(0, 2 * math.pi)

        def beyond(params: dict) -> np.ndarray:  # how far in a drawn direction, from the optimum
            rate, horizon = distances(space, params, optimum, "learning_rate", "horizon")
            return math.cos(angle) * rate + math.sin(angle) * horizon

        centre = {at: space[at]["mean"] for at in space}
        side = -1 if beyond(centre) > 0.15 else 1  # the search centre does not fail
        task.fails = lambda params: side * beyond(params) > 0.15
    return task


def ridge(name: str, rng: np.random.Generator) -> Task:
    """The best learning rate moves with the batch: a sharp ridge with wide skirts. Small batches are slow."""
    space = {
        "total_timesteps": timesteps(1_000_000, 100_000_000),
        "learning_rate": parameter("log_normal", 1e-5, 0.1),
        "batch_size": parameter("uniform_pow2", 2**10, 2**18),
        "gae_lambda": parameter("logit_normal", 0.6, 0.995),
    }
    optimum = draw(rng, space) | {"total_timesteps": 100_000_000}
    slope = rng.choice([-1, 1]) * rng.uniform(0.5, 1)

    def score(params: dict) -> np.ndarray:
        rate, batch, trace = distances(space, params, optimum, "learning_rate", "batch_size", "gae_lambda")
        base = bell(batch, 0.8) * bell(trace, 0.8) / (1 + ((rate - slope * batch) / 0.15) ** 2)
        return base * (params["total_timesteps"] / 1e8) ** 0.4

    def cost(params: dict) -> np.ndarray:
        return params["total_timesteps"] / 1e6 * (1 + 8192 / params["batch_size"])

    def follow(params: dict) -> dict:
        (batch,) = distances(space, params, optimum, "batch_size")
        best = unit(space["learning_rate"], optimum["learning_rate"]) + slope * batch
        return params | {"learning_rate": value(space["learning_rate"], np.clip(best, -1, 1))}

    return Task(name, space, optimum, score, cost, {"batch_size": [2**i for i in range(10, 19)]}, follow)


def basin(name: str, rng: np.random.Generator) -> Task:
    """A small basin in two parameters on a plateau, three irrelevant ones, and runs that can be too long."""
    space = {
        "total_timesteps": timesteps(1_000_000, 200_000_000),
        "learning_rate": parameter("log_normal", 1e-5, 0.1),
        "gamma": parameter("logit_normal", 0.8, 0.9999),
        "vf_coef": parameter("uniform", 0, 5),
        "clip_coef": parameter("uniform", 0.01, 1),
        "update_epochs": parameter("int_uniform", 1, 8),
    }
    optimum = draw(rng, space)
    enough = int(value(space["total_timesteps"], rng.uniform(0.2, 0.8)))
    optimum["total_timesteps"] = enough

    def score(params: dict) -> np.ndarray:
        rate, gamma = distances(space, params, optimum, "learning_rate", "gamma")
        found = 0.1 + 0.9 * bell(np.hypot(rate, gamma), 0.2)
        return 500 * found * np.minimum(1, params["total_timesteps"] / enough) ** 0.5

    return Task(name, space, optimum, score, lambda params: params["total_timesteps"] / 1e6)


def linear(name: str, rng: np.random.Generator) -> Task:
    """The score equals the cost at the optimum of two parameters; there are two ways of spending."""
    space = {
        "total_timesteps": timesteps(1_000_000, 100_000_000),
        "hidden_size": parameter("uniform_pow2", 32, 256),
        "learning_rate": parameter("log_normal", 1e-5, 0.1),
        "max_grad_norm": parameter("uniform", 0, 5),
    }
    optimum = draw(rng, space) | {"total_timesteps": 100_000_000, "hidden_size": 256}

    def cost(params: dict) -> np.ndarray:
        return params["total_timesteps"] / 1e6 * params["hidden_size"] / 32

    def score(params: dict) -> np.ndarray:
        rate, norm = distances(space, params, optimum, "learning_rate", "max_grad_norm")
        return cost(params) * bell(rate, 0.5) * bell(norm, 0.5)

    return Task(name, space, optimum, score, cost, {"hidden_size": [32, 64, 128, 256]})


FAMILIES = {"rl": rl, "rl-no-cost": rl, "rl-noise": rl, "rl-fails": rl}
FAMILIES |= {"ridge": ridge, "basin": basin, "linear": linear}
TASKS = list(FAMILIES)


def make_task(name: str, seed: int) -> Task:
    """The task drawn with this seed; the tasks of one family share their optima and centres."""
    family = FAMILIES[name]
    return family(name, np.random.default_rng([seed, zlib.crc32(family.__name__.encode())]))


class Peer:
    """One of Optuna's samplers, all its settings as they come, behind the interface of sweep.make_sampler.

    It searches positions in [-1, 1] and starts at the search centre, as ours do. Those of one objective are
    blind to cost; the others minimise its logarithm. A failed run counts as the lowest score seen.
    """

    def __init__(self, name: str, space: dict[str, dict], seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = getattr(optuna.samplers, PEERS[name])(seed=seed)
        self.directions = ["maximize"] if name in ("optuna-tpe", "optuna-gp") else ["maximize", "minimize"]
        self.study = optuna.create_study(directions=self.directions, sampler=sampler)
        self.space, self.lowest, self.trial, self.begun = space, math.inf, None, False

    def suggest(self, at: dict | None = None) -> dict:
        if not self.begun and at is None:
            at = {name: spec["mean"] for name, spec in self.space.items()}
        if at:
            fixed = {name: np.clip(unit(spec, at[name]), -1, 1).item() for name, spec in self.space.items()}
            self.study.enqueue_trial(fixed)
        self.begun, self.trial = True, self.study.ask()
        positions = {name: self.trial.suggest_float(name, -1, 1) for name in self.space}
        return {name: value(spec, positions[name]).item() for name, spec in self.space.items()}

    def observe(self, params: dict, score: float | None, cost: float, failed: bool = False) -> None:
        if self.trial is None:  # never suggested
            self.suggest(params)
        if failed:
            score = self.lowest if math.isfinite(self.lowest) else 0.0
        self.lowest = min(self.lowest, score)
        self.study.tell(self.trial, [score, math.log(cost)][: len(self.directions)])
        self.trial = None


PEERS = {"optuna-tpe": "TPESampler", "optuna-motpe": "TPESampler", "optuna-nsga2": "NSGAIISampler"}
PEERS |= {"optuna-gp": "GPSampler"}


def make_sampler(label: str, task: Task, seed: int, budget: float | None, trials: int):
    """A peer, or one of ours as `name` or `name:rule`; budget in full-cost runs, None if unknown."""
    if label in PEERS:
        return Peer(label, task.space, seed)
    name, _, rule = label.partition(":")
    money = None if budget is None or task.free else budget * task.full_cost
    return sweep.make_sampler(name, task.space, seed=seed, rule=rule or None, budget=money, max_trials=trials)


def play(task: Task, sampler, noise: float, trials: int, seed: int) -> tuple[list[dict], np.ndarray]:
    """Suggestions, and [trials, 4]: noise-free score, observed score (nan: failed), cost, seconds taken."""
    rng = np.random.default_rng([seed, zlib.crc32(task.name.encode()), 1])
    suggested, rows = [], []
    for error in rng.normal(size=trials):  # of trial i, the same for every sampler
        began = time.perf_counter()
        params = sampler.suggest()
        seconds = time.perf_counter() - began
        for name, spec in task.space.items():
            if not spec["min"] <= params[name] <= spec["max"]:
                raise ValueError(f"{name} = {params[name]} was suggested, outside of its bounds")
        score, cost, failed = task.evaluate(params)
        observed = score + noise * task.maximum * error
        began = time.perf_counter()
        sampler.observe(params, None if failed else observed, cost, failed)
        suggested.append(params)
        rows.append((score, observed, cost, seconds + time.perf_counter() - began))
    return suggested, np.array(rows)


def measures(task: Task, score: np.ndarray, observed: np.ndarray, cost: np.ndarray) -> dict[str, float]:
    """The shares named at the top of this file, of trials that ran: [trials] each."""
    order = np.argsort(cost, kind="stable")
    score, observed, cost = score[order], observed[order], cost[order]
    leader = [observed[: i + 1].argmax() for i in range(len(observed))]  # what one would pick up to that cost
    shares = {"best": score.max() / task.maximum, "incumbent": score[leader[-1]] / task.maximum}
    front, picked = np.maximum.accumulate(np.maximum(score, 0)), np.maximum(score[leader], 0)
    if task.free:
        shares |= {"hypervolume": front[-1] / task.maximum, "picked": picked[-1] / task.maximum}
    else:
        edges = np.clip(np.append(cost, task.full_cost), task.lowest_cost, task.full_cost)
        width = np.diff(np.log(edges))  # none for what costs more than a full-cost run
        shares |= {"hypervolume": front @ width / task.ideal_area, "picked": picked @ width / task.ideal_area}
    return {name: float(share) for name, share in shares.items()}


def run(task_name: str, label: str, seed: int, options: argparse.Namespace) -> dict:
    """One sweep: its measures, those of what it did within the budget, and every trial."""
    task = make_task(task_name, seed)
    noise = options.noise or task.noise
    sampler = make_sampler(label, task, seed, options.budget, options.trials)
    _, trials = play(task, sampler, noise, options.trials, seed)
    spent = np.cumsum(trials[:, 2]) / task.full_cost
    result = {"task": task_name, "sampler": label, "seed": seed, "noise": noise}
    limit = math.inf if options.budget is None or task.free else options.budget
    for suffix, most in (("", math.inf), (" within", limit)):
        ran = (spent <= most) & np.isfinite(trials[:, 0])
        result |= {name + suffix: share for name, share in measures(task, *trials[ran, :3].T).items()}
    result |= {"runs": spent[-1], "s": float(np.median(trials[:, 3]))}
    for share in SHARES:
        there = np.flatnonzero(trials[:, 0] >= share * task.maximum)
        result[f"to {share:.0%}"] = spent[there[0]] if len(there) else math.inf
    scale = [task.maximum, task.maximum, task.full_cost, 1]
    return result | {"free": task.free, "trials": (trials / scale).round(6).tolist()}


def predict(sampler: sweep.Bayesian, params: list[dict]) -> tuple[np.ndarray, ...]:
    """What the default sampler's processes believe of trials: mean and standard deviation of an observed
    score, noise included, and of the logarithm of cost: four arrays [len(params)]."""
    points, scores, costs = sampler.successes()
    sampler.learn(points, scores, costs)
    new, score, cost = np.array([sampler.space.to_unit(at) for at in params]), sampler.score, sampler.cost
    # A normal z is predicted; how far a score is above the lowest is sinh z times the stretch.
    z, deviation = score.predict(new)
    variance, stretch = deviation**2 + score.h["noise"].item(), score.unit * score.h["warp"].item()
    mean, square = np.exp(variance / 2) * np.sinh(z), (np.exp(2 * variance) * np.cosh(2 * z) - 1) / 2
    mean, deviation = scores.max() - score.unit + stretch * mean, stretch * np.sqrt(square - mean**2)
    log_cost, log_deviation = cost.predict(new)
    return mean, deviation, log_cost, np.sqrt(log_deviation**2 + cost.h["noise"].item() * cost.unit**2)


def held_out(task_name: str, label: str, seed: int, options: argparse.Namespace) -> dict | None:
    """Every fifth trial of a sweep, predicted from the others; None if the sampler has no model."""
    task = make_task(task_name, seed)
    noise = options.noise or task.noise
    sampler, fresh = (make_sampler(label, task, seed, options.budget, options.trials) for _ in range(2))
    if not isinstance(sampler, sweep.Bayesian):
        return None
    params, trials = play(task, sampler, noise, options.trials, seed)
    ran, test = np.isfinite(trials[:, 0]), np.arange(len(trials)) % 5 == 4
    for i in np.flatnonzero(~test):
        fresh.observe(params[i], trials[i, 1] if ran[i] else None, trials[i, 2], not ran[i])
    test = np.flatnonzero(test & ran)
    mean, deviation, log_mean, log_deviation = predict(fresh, [params[i] for i in test])
    observed, log_cost = trials[test, 1] / task.maximum, np.log(trials[test, 2])
    result = {"task": task_name, "sampler": label, "seed": seed, "noise": noise, "observed": observed}
    result |= {"predicted": mean / task.maximum, "deviation": deviation / task.maximum, "log cost": log_cost}
    result |= {"predicted log cost": log_mean, "log deviation": log_deviation}
    return {key: at.tolist() if isinstance(at, np.ndarray) else at for key, at in result.items()}


def suggestion_times(label: str, observations: int) -> np.ndarray:
    """Seconds of six suggestions in turn on task rl, the first after so many observations at once."""
    task, rng = make_task("rl", 1), np.random.default_rng(1)
    sampler = make_sampler(label, task, 1, None, observations + 10)
    for i in range(observations):
        params = {}
        for name, spec in task.space.items():  # every other one round the centre
            x = rng.uniform(-1, 1) if i % 2 else unit(spec, spec["mean"]) + 0.3 * rng.normal()
            params[name] = value(spec, np.clip(x, -1, 1)).item()
        sampler.observe(params, *task.evaluate(params))
    return play(task, sampler, 0.0, 6, 1)[1][:, 3]


class Race:
    """A run that learns within so many steps, the more the farther its settings are from an optimum, and
    ends when it scores 20; one that is to end before stays below. Widths, epochs and copies trade steps for
    seconds, and a second is start-up."""

    target = 20.0
    longest = 60.0  # seconds of a run

    def __init__(self, seed: int) -> None:
        self.space = {
            "total_timesteps": timesteps(200_000, 20_000_000),
            "learning_rate": parameter("log_normal", 3e-4, 0.3),
            "gamma": parameter("logit_normal", 0.8, 0.9999),
            "gae_lambda": parameter("logit_normal", 0.6, 0.995),
            "num_envs": parameter("uniform_pow2", 32, 4096),
            "hidden_size": parameter("uniform_pow2", 16, 128),
            "update_epochs": parameter("log_normal", 0.25, 8.0),
        }
        self.optimum = draw(np.random.default_rng([seed, zlib.crc32(b"race")]), self.space)
        sizes = itertools.product(*([2**i for i in range(*ends)] for ends in ((5, 13), (4, 8))), range(1, 33))
        self.best = min(
            self.seconds(self.optimum | {"num_envs": envs, "hidden_size": width, "update_epochs": i / 4})
            for envs, width, i in sizes
        )

    def steps(self, params: dict) -> float:
        """Until it scores 20."""
        away = distances(self.space, params, self.optimum, "learning_rate", "gamma", "gae_lambda")
        epochs, narrow = params["update_epochs"], max(0.0, math.log2(32 / params["hidden_size"]))
        factor = (1 + params["num_envs"] / 512) * (1 + narrow / 2) * epochs**-0.5 * (1 + (epochs / 8) ** 2)
        return 1e6 * math.exp(2 * sum(d**2 for d in away)) * factor

    def seconds(self, params: dict, steps: float | None = None) -> float:
        work = 0.1 + 80 / params["num_envs"] + 0.2 * (params["hidden_size"] / 32) ** 1.2
        return 1 + 1e-6 * (self.steps(params) if steps is None else steps) * work * (
            1 + 2 * params["update_epochs"]
        )

    def run(self, params: dict, luck: float, limit: float) -> tuple[float, float]:
        """Score and seconds, with `luck` a factor of the steps that are needed."""
        needed = luck * self.steps(params)
        steps = min(
            needed, params["total_timesteps"], needed * (limit - 1) / (self.seconds(params, needed) - 1)
        )
        score = self.target if steps >= needed else -21 + 40 * (steps / needed) ** 3
        return score, self.seconds(params, steps)


def race(_: str, label: str, seed: int, options: argparse.Namespace) -> dict:
    """A sweep for the least time: when a trial first reached the target, and the time, as a multiple of the
    best there is, of the best of the trials that `--promote` would run again, by quarters of the money."""
    task, rng, budget = Race(seed), np.random.default_rng([seed, 1]), 900.0
    known = {"target": task.target, "max_cost": task.longest, "budget": budget}
    name, _, rule = label.partition(":")
    sampler = sweep.make_sampler(name, task.space, seed=seed, rule=rule or None, **known)
    spent, first, reached, quarters = 0.0, math.inf, [], []
    while spent < budget:
        params = sampler.suggest()
        limit = min(task.longest, sweep.PATIENCE * min((cost for cost, _ in reached), default=math.inf))
        score, cost = task.run(params, math.exp(0.15 * rng.normal()), limit)
        sampler.observe(params, score, cost)
        spent += cost
        if score >= task.target:
            reached.append((cost, task.seconds(params) / task.best))
            first = min(first, spent)
        while len(quarters) < min(4, int(4 * spent / budget)):
            quarters.append(min((time for _, time in sorted(reached)[: sweep.RACERS]), default=math.inf))
    return {"sampler": label, "trials": len(sampler.paid), "first reached, s": first} | {
        f"best after {budget * (i + 1) / 4:.0f} s": time for i, time in enumerate(quarters)
    }


def print_races(results: list[dict]) -> None:
    rows = []
    for label in dict.fromkeys(result["sampler"] for result in results):
        runs = [result for result in results if result["sampler"] == label]
        keys = [key for key in runs[0] if key != "sampler"]
        rows.append(
            [label, *(number([run[key] for run in runs], True, 2 if "best" in key else 0) for key in keys)]
        )
    table(f"Least time to a target, {len(runs)} seeds: median (quartiles)", ["sampler", *keys], rows)


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def number(values: list[float], quartiles: bool, digits: int) -> str:
    """Median, with quartiles if asked for; - where it is infinite."""
    ends = np.quantile(np.nan_to_num(values, posinf=1e9), [0.25, 0.5, 0.75])
    low, middle, high = ("-" if x >= 1e6 else f"{x:.{digits}f}" for x in ends)
    return middle + (f" ({low}, {high})" if quartiles and middle != "-" else "")


def print_results(results: list[dict]) -> None:
    """A table for every task, and the means over the tasks of the medians over seeds."""
    shares = ["best", "incumbent", "hypervolume", "picked"]
    keys = [*shares, "best within", "hypervolume within", "runs", *(f"to {s:.0%}" for s in SHARES), "s"]
    labels = list(dict.fromkeys(r["sampler"] for r in results))
    digits = {"s": 4, "runs": 1}
    for noise in sorted({r["noise"] for r in results}):
        tasks = list(dict.fromkeys(r["task"] for r in results if r["noise"] == noise))
        medians: dict[str, list[dict]] = {label: [] for label in labels}
        for task in tasks:
            rows = []
            for label in labels:
                runs = [r for r in results if (r["task"], r["sampler"], r["noise"]) == (task, label, noise)]
                of = {key: [r[key] for r in runs] for key in keys}
                rows.append([label] + [number(of[k], k in (*shares, "runs"), digits.get(k, 2)) for k in keys])
                medians[label].append({k: np.median(of[k]) for k in keys} | {"free": runs[0]["free"]})
            table(
                f"{task}, noise {noise:.0%}, {len(runs)} seeds: median (quartiles)", ["sampler", *keys], rows
            )
        rows = []
        for label, of in medians.items():
            row = [f"{np.mean([m[k] for m in of]):.2f}" for k in keys[:6]]
            row += [f"{np.mean([m['runs'] for m in of if not m['free']] or [math.nan]):.1f}"]
            row += [f"{min(m[k] for m in of):.2f}" for k in ("best", "hypervolume")]
            rows.append([label, *row, f"{np.mean([m['s'] for m in of]):.4f}"])
        columns = ["sampler", *keys[:6], "runs (tasks with a cost)", "lowest best", "lowest hypervolume", "s"]
        table(f"Mean over {len(tasks)} tasks with noise {noise:.0%} of the medians over seeds", columns, rows)


def print_calibration(results: list[dict]) -> None:
    rows = []
    for label, task in dict.fromkeys((r["sampler"], r["task"]) for r in results):
        runs = [r for r in results if (r["sampler"], r["task"]) == (label, task)]
        row = []
        for what, deviation in (("observed", "deviation"), ("log cost", "log deviation")):
            names = (what, "predicted" + what.removeprefix("observed").replace("log", " log"), deviation)
            observed, predicted, deviations = (np.concatenate([r[name] for r in runs]) for name in names)
            error = observed - predicted
            row += [f"{np.mean(np.abs(error) < 1.645 * deviations):.0%}", f"{np.median(np.abs(error)):.3f}"]
            varies = observed.std() and predicted.std()
            row += [f"{np.corrcoef(observed, predicted)[0, 1]:.3f}" if varies else "-"]
        rows.append([label, task, str(len(observed)), *row])
    columns = ["sampler", "task", "held out", "score in its 90 % interval", "median error / maximum"]
    columns += ["correlation", "log cost in its 90 % interval", "median error", "correlation"]
    table("Held-out trials, predicted against observed", columns, rows)


def money(text: str) -> float | None:
    return None if text == "none" else float(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    samplers, rules = [*sweep.SAMPLERS, *PEERS], list(sweep.RULES)
    default = samplers[0]
    parser.add_argument("--tasks", nargs="+", choices=TASKS, help="all; with --noise all but rl-noise")
    parser.add_argument("--samplers", nargs="+", choices=samplers, default=samplers)
    parser.add_argument("--rules", nargs="*", metavar="RULE", help=f"of {default}; all, if none follows")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--noise", type=float, default=0.0, help="of every score, as a share of the maximum")
    parser.add_argument(
        "--budget", type=money, default=12.0, help="full-cost runs, or none: told to samplers"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write measures and trials to this file")
    parser.add_argument("--calibration", action="store_true", help="predict held-out trials instead")
    parser.add_argument("--target", action="store_true", help="seek the least time to a score instead")
    parser.add_argument("--times", action="store_true", help="time suggestions instead")
    options = parser.parse_args()
    labels = [label for label in options.samplers if label != default or options.rules is None]
    if options.rules is not None and default in options.samplers:
        labels = [f"{default}:{rule}" for rule in options.rules or rules] + labels
    try:
        for rule in options.rules or ():
            sweep.make_sampler(default, make_task(TASKS[0], 1).space, rule=rule)
    except ValueError as error:
        parser.error(str(error))
    tasks = options.tasks or [task for task in TASKS if not (options.noise and task == "rl-noise")]

    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # of the workers, which are started anew
    processes = 1 if options.times else options.processes
    with concurrent.futures.ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        if options.times:
            rows = []
            for label, count in itertools.product(labels, COUNTS):
                first, *more = pool.submit(suggestion_times, label, count).result()
                rows.append([label, str(count), *(f"{x:.3f}" for x in (np.median(more), max(more), first))])
            columns = [
                "sampler",
                "observations",
                "seconds a suggestion",
                "most of five",
                "the first, from nothing",
            ]
            table("suggest and observe in 10 dimensions on one core", columns, rows)
            return
        work = race if options.target else held_out if options.calibration else run
        if options.target:
            tasks, labels = ["race"], [label for label in labels if label not in PEERS]
        jobs = itertools.product(tasks, labels, range(1, options.seeds + 1))
        pending, results = [pool.submit(work, *job, options) for job in jobs], []
        for future in pending:
            results.append(future.result())
            if sys.stderr.isatty():
                print(f"\r{len(results)} of {len(pending)} sweeps ", end="", file=sys.stderr, flush=True)
    results = [result for result in results if result]
    if options.json:
        options.json.write_text(json.dumps(results))
    (print_races if options.target else print_calibration if options.calibration else print_results)(results)


if __name__ == "__main__":
    main()
