"""The tuner on synthetic tasks whose maximum and ideal front are known, beside Optuna's samplers.

    python benchmarks/sweep.py                                      every sampler, every task, ten seeds
    python benchmarks/sweep.py --noise 0.05                         scores observed with 5 % noise

A task draws its optimum and its search centre anew for every seed, independently of each other and within the
inner part of the ranges, so that no sampler can be tuned to them. Money is counted in full-cost runs: the
cheapest run that attains the maximum costs 1.
"""

import itertools
import math
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

INNER = 0.6  # optima and centres lie within this part of a parameter's range, which is [-1, 1]
LOWEST, HIGHEST = -1.0, 1.0


def parameter(distribution: str, low: float, high: float) -> dict:
    return {"distribution": distribution, "min": low, "max": high, "mean": None, "scale": "auto"}


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
            return np.clip(low * (high / low) ** share, low, high)
        case "logit_normal":
            return np.clip(1 - (1 - low) * ((1 - high) / (1 - low)) ** share, low, high)
    return low + share * (high - low)


def bell(distance: np.ndarray | float, width: float) -> np.ndarray:
    return np.exp(-((distance / width) ** 2))


@dataclass
class Task:
    """A function of parameters with a known maximum. All functions take arrays as well as numbers.

    score and cost: noise-free, of a dict of parameters. fails: whether a run fails; it then has no score and
    stops after FAILED_COST of its cost. optimum: the cheapest parameters that attain the maximum. trade: the
    parameters beside total_timesteps by which money can be saved at the price of score. follow: sets what is
    best set otherwise once they are traded. noise: standard deviation of an observed score, as a share of the
    maximum.
    """

    FAILED_COST = 0.3

    name: str
    space: dict[str, dict]
    optimum: dict
    score: Callable[[dict], np.ndarray]
    cost: Callable[[dict], np.ndarray]
    trade: list[str] = field(default_factory=list)
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
        grids = []
        for name in self.trade:
            low, high = self.space[name]["min"], self.space[name]["max"]
            pow2 = self.space[name]["distribution"] == "uniform_pow2"
            grids.append(
                [2**i for i in range(int(math.log2(low)), int(math.log2(high)) + 1)]
                if pow2
                else range(low, high + 1)
            )
        rows = np.array(list(itertools.product(*grids)))  # [settings, traded]
        params = {name: np.full(len(rows), at) for name, at in self.optimum.items()}
        params |= {name: rows[:, i] for i, name in enumerate(self.trade)}
        params["total_timesteps"] = np.full(len(rows), float(self.space["total_timesteps"]["min"]))
        return self.follow(params), self.cost(params)

    @property
    def lowest_cost(self) -> float:
        """The cost of the cheapest run of the space."""
        return float(self._traded[1].min())

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
        "total_timesteps": parameter("log_normal", 5e7, 1e10),
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
    optimum = draw(rng, space) | {
        at: space[at]["max"] for at in ("total_timesteps", "batch_size", "num_envs")
    }
    tuned = [at for at in space if at not in ("total_timesteps", "batch_size", "num_envs")]

    def score(params: dict) -> np.ndarray:
        base = math.prod(bell(d, 0.85) for d in distances(space, params, optimum, *tuned))
        return base * (np.log2(params["total_timesteps"] / 5e7) + 1) * np.sqrt(params["batch_size"])

    def cost(params: dict) -> np.ndarray:
        epochs = (1 + params["update_epochs"]) / 2
        small = (1 + 1024 / params["minibatch_size"]) * (1 + 128 / params["num_envs"])
        return params["total_timesteps"] / 5e7 * epochs * small

    task = Task(name, space, optimum, score, cost, ["minibatch_size", "update_epochs"])
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
    """The best learning rate moves with the batch; small batches are slow."""
    space = {
        "total_timesteps": parameter("log_normal", 1e6, 1e8),
        "learning_rate": parameter("log_normal", 1e-5, 0.1),
        "batch_size": parameter("uniform_pow2", 2**10, 2**18),
        "gae_lambda": parameter("logit_normal", 0.6, 0.995),
    }
    optimum = draw(rng, space) | {"total_timesteps": 1e8}
    slope = rng.choice([-1, 1]) * rng.uniform(0.5, 1)

    def score(params: dict) -> np.ndarray:
        rate, batch, trace = distances(space, params, optimum, "learning_rate", "batch_size", "gae_lambda")
        base = bell(rate - slope * batch, 0.15) * bell(batch, 0.5) * bell(trace, 0.5)
        return base * (params["total_timesteps"] / 1e8) ** 0.4

    def cost(params: dict) -> np.ndarray:
        return params["total_timesteps"] / 1e6 * (1 + 8192 / params["batch_size"])

    def follow(params: dict) -> dict:
        (batch,) = distances(space, params, optimum, "batch_size")
        best = unit(space["learning_rate"], optimum["learning_rate"]) + slope * batch
        return params | {"learning_rate": value(space["learning_rate"], np.clip(best, -1, 1))}

    return Task(name, space, optimum, score, cost, ["batch_size"], follow)


def basin(name: str, rng: np.random.Generator) -> Task:
    """A small basin in two parameters on a plateau, three irrelevant ones, and runs that can be too long."""
    space = {
        "total_timesteps": parameter("log_normal", 1e6, 2e8),
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
        "total_timesteps": parameter("log_normal", 1e6, 1e8),
        "hidden_size": parameter("uniform_pow2", 32, 256),
        "learning_rate": parameter("log_normal", 1e-5, 0.1),
        "max_grad_norm": parameter("uniform", 0, 5),
    }
    optimum = draw(rng, space) | {"total_timesteps": 1e8, "hidden_size": 256}

    def cost(params: dict) -> np.ndarray:
        return params["total_timesteps"] / 1e6 * params["hidden_size"] / 32

    def score(params: dict) -> np.ndarray:
        rate, norm = distances(space, params, optimum, "learning_rate", "max_grad_norm")
        return cost(params) * bell(rate, 0.5) * bell(norm, 0.5)

    return Task(name, space, optimum, score, cost, ["hidden_size"])


FAMILIES = {"rl": rl, "rl-no-cost": rl, "rl-noise": rl, "rl-fails": rl}
FAMILIES |= {"ridge": ridge, "basin": basin, "linear": linear}
TASKS = list(FAMILIES)


def make_task(name: str, seed: int) -> Task:
    """The task drawn with this seed; the tasks of one family share their optima and centres."""
    family = FAMILIES[name]
    return family(name, np.random.default_rng([seed, zlib.crc32(family.__name__.encode())]))
