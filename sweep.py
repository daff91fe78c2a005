"""The tuner: finds better hyperparameters of a program, and minds what each try costs.

    python sweep.py --env pong --stop-score 20 --max-seconds 1800   least time to score 20
    python sweep.py --env breakout --budget 3600                    highest score, an hour of training in all
    python sweep.py --status DIR                                    what a sweep has found so far
    python sweep.py --promote DIR, then --baseline DIR              its best, the defaults, on fresh seeds
    python sweep.py --help                                          all options, from docs/tuner.md

It knows nothing of a trainer but its command line (`--name value`) and the run folder it writes. The map:

    spaces/__init__.py          Space: parameters to [-1, 1] and back, constraints between them; space files
    Sampler, make_sampler       suggest() what to try next, observe() what came of it
    Process, Bayesian           what is believed of scores and costs, and what is made of it: read this first
    variants/samplers.py        other samplers, and other rules for this one
    trials.py                   Sweep: its folder, with sweep.json, trials.jsonl, a run folder for each trial;
                                Trial: a run of the command, as a process that cannot outlive the sweep
    run, promote, describe      suggest, run, observe; the best and the defaults on fresh seeds; what is shown
    parse, configure, main      the command line

How the default sampler chooses, and why. What is bought with a trial is a better front: the best score for
every cost. So Gaussian processes predict a candidate's score, log cost and chance to fail, and it is worth
the expected growth of the area under the front over log cost: a score that is new at its cost counts, and one
that others reach for less does not. The front is that of predicted scores: the best of many noisy ones is
luck. Candidates are taken from every range of cost, then one of them with chances that fall with its cost
just so fast that the money lasts, spent slowly while much is to be learned; of the late trials every third
seeks the highest score alone. While no score stands out of the noise, a front would be a front of noise and
cheap trials would show nothing: then trials go round the centre, at what can be afforded, until scores
that are left out are predicted from the others: what fits all of them may be their noise. Where the least
time to a target score is sought, near is not there: a score below it is worth three quarters of its way, and
the front counts from a little below the best of these up to the target; no trial seeks a higher one.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from difflib import get_close_matches
from heapq import nlargest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import spaces
from spaces import Space, is_number, parse_value, require
from trials import Sweep, Trial, curve, outcome, row, supervise

COMMANDS = ("resume", "status", "promote", "baseline")
SETTINGS = ("env", "command", "space", "only", "range", "fix", "objective", "sampler", "rule", "seed",
            "curve_points")
LIMITS = ("max_trials", "workers", "budget", "trial_cost", "trial_seconds", "max_seconds")  # may be changed
OPTIONS = (*COMMANDS, *SETTINGS, *LIMITS, "sweep_dir", "trial", "seeds", "steps")
WHOLE = ("max_trials", "workers", "seed", "trial", "seeds", "curve_points")  # other limits and steps are any
ROOT = Path(__file__).resolve().parent

SEARCH_WIDTH = 0.5  # of the noise round a good point, in units of a parameter's scale
GROPE_WIDTHS = 0.4, 0.7  # of the noise round the centre, while no score stands out: without, with a target
CANDIDATES = 1000  # looked at in each of three rounds
SIGNAL = 3.0  # standard deviations of noise above which a score counts as seen,
EXPLAINED = 0.3  # where so much of the variance of scores that are left out is predicted
GREED = 2.0  # the power of the growth with which costs are drawn
SHARE = 0.4  # of the money left, what a trial may cost
LATE = 3  # of so many late trials one seeks the highest score
CLOSE, NEAR = 0.9, 0.75  # with a target: what below it is worth is NEAR; from CLOSE of the best it counts
PATIENCE = 2.0  # a trial may take so many times the least time to the target
RACERS = 4  # of the best trials, how many are run again to find the one that was not lucky
TRAINED = 256  # observations that train hyperparameters, at most


class Sampler(ABC):
    """Suggests what to try next, and is told what came of it.

    Scores are maximised, or minimised (one sign, applied here); a cost is above 0, in any unit. Every
    suggestion has a generator of its own, seeded by the sweep's seed and the number of suggestions before it:
    a sweep that is told again what it has seen goes on as if it had never ended.
    """

    def __init__(self, space: Space, seed: int, goal: str, max_cost: float | None, budget: float | None,
                 max_trials: int | None, target: float | None = None):
        self.space, self.dimensions, self.seed = space, len(space.names), seed
        self.sign = 1 if goal == "maximize" else -1
        self.max_cost, self.budget, self.max_trials = max_cost or math.inf, budget, max_trials
        self.target = math.inf if target is None else self.sign * target
        self.running: list[dict[str, Any]] = []  # suggested and not yet observed
        self.units: list[np.ndarray] = []  # what was observed: parameters in [-1, 1],
        self.scores: list[float] = []  # the higher the better, nan where a run failed,
        self.costs: list[float] = []
        self.paid: list[float] = []  # costs of whole trials

    def suggest(self) -> dict[str, Any]:
        """Parameters of the next trial. The first are the search centre."""
        self.made = len(self.paid) + len(self.running)
        self.rng = np.random.default_rng((self.seed, self.made))
        params = self.space.from_unit(self.propose() if self.made else self.space.centre)
        self.running.append(params)
        return params

    def observe(self, params: dict[str, Any], score: float | None, cost: float, failed: bool = False,
                part: bool = False) -> None:
        """Of parameters suggested or not. With `failed` the score is ignored. A `part` of a trial, a point of
        its learning curve, is no trial of its own and takes no money. Raises ValueError."""
        require(is_number(cost) and cost > 0, f"cost {cost!r} is not a number above 0")
        require(failed or is_number(score), f"score {score!r} is not a finite number, and failed is not set")
        self.units.append(self.space.to_unit(params))
        self.scores.append(math.nan if failed else min(self.sign * float(score), self.target))
        self.costs.append(float(cost))
        self.paid += [] if part else [float(cost)]
        if params in self.running:
            self.running.remove(params)

    @abstractmethod
    def propose(self) -> np.ndarray:
        """The next point of [-1, 1]^dimensions."""

    def around(self, points: np.ndarray, width: float | np.ndarray = SEARCH_WIDTH) -> np.ndarray:
        """Normal noise round points [..., dimensions], clipped: near a bound, rejection may find nothing."""
        noise = self.rng.standard_normal(np.shape(points))
        return np.clip(points + width * self.space.scale * noise, -1, 1)

    def successes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points [n, dimensions], scores [n] and log costs [n] of the runs that did not fail."""
        ok, points = ~np.isnan(self.scores), np.reshape(self.units, (-1, self.dimensions))
        return points[ok], np.array(self.scores)[ok], np.log(self.costs)[ok]


def pareto(scores: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Indices of the Pareto points, cheapest first: nothing cheaper scores as much."""
    order = np.lexsort((-scores, costs))
    best = np.maximum.accumulate(scores[order])
    return order[np.append(True, best[1:] > best[:-1])]


class Process:
    """A Gaussian process: constant, linear and quadratic trends, a Matérn 5/2 kernel with a length scale for
    every dimension, noise. Hyperparameters are maximum a posteriori: L-BFGS on their logarithms.

    With warp it is one of asinh(y / s): logarithmic in large values, linear in those as small as the noise.
    s is learned, the more freely the larger warp is. Noise has a variance of `least` or more.

    Of Pyro, distributions and log densities are used and the parameter store is not: it is global and goes by
    name, so that a second process would share the first one's parameters.
    """

    def __init__(self, dimensions: int, warp: float = 0, least: float = 1e-6):
        global MultivariateNormal, Normal, poutine, pyro, torch  # imported here: they take a second
        import pyro
        import torch
        from pyro import poutine
        from pyro.distributions import MultivariateNormal, Normal

        def prior(median: float, spread: float, *shape: int) -> tuple[torch.Tensor, float]:
            return torch.full(shape, math.log(median), dtype=torch.double), spread

        self.warp, self.least, self.fits = warp, least, {}
        self.priors = {  # of logarithms: mean and standard deviation. Variances, but for length and warp
            "length": prior(0.6 * dimensions**0.5, 1, dimensions), "matern": prior(1, 1),
            "constant": prior(1, 1), "linear": prior(0.4, 1.5), "quadratic": prior(0.4, 1.5),
            "noise": prior(0.01, 2)}
        if warp:
            self.priors["warp"] = prior(0.2, warp)

    def kernel(self, a: torch.Tensor, b: torch.Tensor, h: dict) -> torch.Tensor:
        """Covariance of points [n, dimensions] and [m, dimensions]: [n, m]."""
        u, v = a / h["length"], b / h["length"]
        squared = (u * u).sum(1)[:, None] + (v * v).sum(1) - 2 * u @ v.T
        r = (5 * squared.clamp(min=0) + 1e-10).sqrt()
        trends = h["constant"] + h["linear"] * (a @ b.T) + h["quadratic"] * ((a * a) @ (b * b).T)
        return trends + h["matern"] * (1 + r + r * r / 3) * (-r).exp()

    def factor(self, x: torch.Tensor, h: dict) -> torch.Tensor:
        noise = (h["noise"] + self.least) * torch.eye(len(x), dtype=x.dtype)
        return torch.linalg.cholesky(self.kernel(x, x, h) + noise)

    def model(self, x: torch.Tensor, y: torch.Tensor) -> None:
        h = {name: pyro.sample(name, Normal(mean, spread).to_event(mean.dim())).exp()
             for name, (mean, spread) in self.priors.items()}
        if self.warp:  # with the logarithm of asinh's derivative
            pyro.factor("warped", -0.5 * (y * y + h["warp"] ** 2).log().sum())
            y = (y / h["warp"]).asinh()
        pyro.sample("y", MultivariateNormal(torch.zeros_like(y), scale_tril=self.factor(x, h)), obs=y)

    def optimise(self, x: torch.Tensor, y: torch.Tensor, start: dict, steps: int) -> dict:
        logs = {name: value.clone().requires_grad_() for name, value in start.items()}
        lbfgs = torch.optim.LBFGS(logs.values(), max_iter=steps, max_eval=steps + 4, history_size=10,
                                  tolerance_change=1e-3, line_search_fn="strong_wolfe")
        best = [math.inf, start]

        def loss() -> torch.Tensor:
            lbfgs.zero_grad()
            loss = -poutine.trace(poutine.condition(self.model, logs)).get_trace(x, y).log_prob_sum()
            loss.backward()
            if loss.item() < best[0]:
                best[:] = loss.item(), {name: value.detach().clone() for name, value in logs.items()}
            return loss

        with suppress(torch.linalg.LinAlgError, ValueError):  # a step into nowhere ends the search
            lbfgs.step(loss)
        return best[1]

    def fit(self, x: np.ndarray, y: np.ndarray, scale: Callable | None = None) -> None:
        """To y [n], observed at x [n, dimensions]. scale(y) is what is taken from it (with warp, none is
        negative then) and what it is divided by. What is learned depends on these alone: training begins anew
        at every tenth observation, with those before it, and goes on from there. Of many, a sample trains
        hyperparameters."""
        n, tens = len(x), len(x) // 10 * 10
        if tens not in (0, n, *self.fits):
            self.fit(x[:tens], y[:tens], scale)
        x, y = torch.tensor(x), torch.tensor(y)
        shift, unit = scale(y.numpy()) if scale else (y.mean(), (y - y.mean()).abs().max() / 2)
        self.shift, self.unit = float(shift), max(float(unit), 1e-9)
        y = (y - self.shift) / self.unit
        y = y.clamp(min=0) if self.warp else y
        if n not in self.fits:
            sample = torch.tensor(np.random.default_rng(0).permutation(n)[:TRAINED])
            start = {name: mean for name, (mean, _) in self.priors.items()}
            if n == tens:
                self.fits = {n: self.optimise(x[sample], y[sample], start, 15)}
            self.fits[n] = self.optimise(x[sample], y[sample], self.fits.get(tens, start), 5 if tens else 15)
        self.x, self.h = x, {name: value.exp() for name, value in self.fits[n].items()}
        self.cholesky, z = self.factor(x, self.h), (y / self.h["warp"]).asinh() if self.warp else y
        self.weights = torch.cholesky_solve(z[:, None], self.cholesky)[:, 0]
        missed = self.weights / torch.cholesky_inverse(self.cholesky).diagonal()  # z, each left out in turn
        spread = (z - z.mean()).square().sum().clamp(min=1e-9)  # 0 where all scores are alike
        self.explained = 1 - (missed.square().sum() / spread).item()

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation [m], without the noise, of y at x [m, dimensions]; with warp, of asinh
        of scaled y."""
        x, h = torch.tensor(x), self.h
        cross, squares = self.kernel(x, self.x, h), x * x
        prior = h["matern"] + h["constant"]
        prior = prior + h["linear"] * squares.sum(1) + h["quadratic"] * (squares**2).sum(1)
        known = torch.linalg.solve_triangular(self.cholesky, cross.T, upper=False).square().sum(0)
        mean, deviation = cross @ self.weights, (prior - known).clamp(min=1e-10).sqrt()
        scale, shift = (1, 0) if self.warp else (self.unit, self.shift)
        return mean.numpy() * scale + shift, deviation.numpy() * scale


class Candidates(NamedTuple):
    """What the processes say of m points. Costs are logarithms; scores are in the score process's asinh."""
    points: np.ndarray  # [m, dimensions]
    mean: np.ndarray  # of the score
    deviation: np.ndarray  # its standard deviation
    cost: np.ndarray  # expected
    success: np.ndarray  # probability


class Bayesian(Sampler):
    """The default, explained at the top of the file. Other rules are in variants/samplers.py."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        small = {"warp": 0.1, "least": 4e-4} if self.target < math.inf else {"warp": 1.5}
        self.score = Process(self.dimensions, **small)  # what is small on the way to a target does not count
        self.cost, self.failure = Process(self.dimensions), Process(self.dimensions)

    def propose(self) -> np.ndarray:
        if self.made < 4 or len(self.successes()[0]) < 2:
            return self.around(self.space.centre)
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1)  # more would wait for each other: the matrices are small
            self.learn(*self.successes())
            return self.choose()
        finally:
            torch.set_num_threads(threads)

    def learn(self, points: np.ndarray, scores: np.ndarray, costs: np.ndarray) -> None:
        """Trains the processes, and finds the front of the scores they believe, noise taken off: `points`,
        `front`, their scores, and `steps`, their log costs. Scores count from `base` up to `top`."""
        goal, worst = self.target < math.inf, self.scale(scores)[0]
        worth = np.where(goal & (scores < self.target), NEAR, 1.0)
        self.score.fit(points, np.where(worth < 1, worst + worth * (scores - worst), scores), self.scale)
        self.top = math.asinh(1 / self.score.h["warp"].item()) if goal else math.inf
        self.cost.fit(points, costs)
        if np.isnan(self.scores).any():
            self.failure.fit(np.array(self.units), np.isnan(self.scores).astype(float))
        means = np.minimum(self.score.predict(points)[0], np.arcsinh(worth * np.sinh(self.top)))
        self.noise = (self.score.h["noise"].item() + self.score.least) ** 0.5
        self.floor, self.waiting = 0.0 if goal else means.min(), 0.0
        if self.running:  # as if it had come out as expected, so that nothing is gained by the same again
            waiting = self.look(np.array([self.space.to_unit(params) for params in self.running]))
            points, means = np.concatenate((points, waiting.points)), np.concatenate((means, waiting.mean))
            costs, self.waiting = np.concatenate((costs, waiting.cost)), np.exp(waiting.cost).sum()
        front = pareto(means := np.minimum(means, self.top), costs)  # beliefs go beyond what is enough
        best = min(means.max(), np.arcsinh(NEAR * np.sinh(self.top)))
        self.base = min(np.arcsinh(CLOSE * np.sinh(best)), best) if goal else self.floor
        front = front[means[front] >= self.base]
        self.points, self.front, self.steps = points[front], means[front], costs[front]

    def scale(self, scores: np.ndarray) -> tuple[float, float]:
        """The score from which others count, and from there to the best or to the target."""
        low, median = np.quantile(scores, (0.1, 0.5))
        worst = max(scores.min(), low - 3 * (median - low))  # one disaster is not the measure of all scores
        worst = min(worst, self.target - 1e-6 * (abs(self.target) or 1))
        return worst, (scores.max() if self.target == math.inf else self.target) - worst

    def look(self, points: np.ndarray) -> Candidates:
        """What is believed of points, moved to where whole parameters can be: a power of two that is not one
        would promise what no trial can keep."""
        points = self.space.snap(points)
        failed = self.failure.predict(points)[0] if np.isnan(self.scores).any() else np.zeros(len(points))
        cost, _ = self.cost.predict(points)
        return Candidates(points, *self.score.predict(points), cost, (1 - failed).clip(1e-3, 1))

    def candidates(self) -> Candidates:
        """Round the Pareto points, with noise of many widths in some or all dimensions; of some, one anew."""
        points = self.points[self.rng.integers(len(self.front), size=CANDIDATES)]
        width = SEARCH_WIDTH * 2.0 ** self.rng.uniform(-3, 0, (CANDIDATES, 1))
        share = self.rng.choice((0.3, 0.6, 1.0), (CANDIDATES, 1))
        points = self.around(points, width * (self.rng.random(points.shape) < share))
        anew, axis = self.rng.random(CANDIDATES) < 0.25, self.rng.integers(self.dimensions, size=CANDIDATES)
        points[anew, axis[anew]] = self.rng.uniform(-1, 1, anew.sum())
        return self.look(points)

    def improvement(self, c: Candidates, step: float) -> np.ndarray:
        """E[(min(score, target) - step)+] P(success), of scores and not of their asinh: score = sinh z, z
        normal."""
        deviation = np.minimum(c.deviation, 1)  # the mean of sinh of a wide one is all tail

        def above(step: float) -> np.ndarray:
            d = (c.mean - step) / deviation
            up, down = (np.exp(s * c.mean + deviation**2 / 2) * normal(d + s * deviation) for s in (1, -1))
            return np.maximum((up - down) / 2 - np.sinh(step) * normal(d), 0)

        return np.maximum(above(step) - (above(self.top) if self.top < math.inf else 0), 0) * c.success

    def growth(self, c: Candidates, high: float) -> np.ndarray:
        """Log of the expected growth of the area under the front over log cost, up to beyond `high`: the sum
        over the steps of the front of how wide each is above a candidate's cost, times its improvement."""
        ends = np.append(self.steps, max(high, self.steps[-1]) + 1)
        area = np.maximum(ends[0] - c.cost, 0) * self.improvement(c, self.base)
        for step, begin, end in zip(self.front, ends, ends[1:], strict=False):
            area += np.maximum(end - np.maximum(begin, c.cost), 0) * self.improvement(c, step)
        return np.log(area + 1e-300)

    def choose(self) -> np.ndarray:
        """The point to try next, at a cost that is worth it and can be paid."""
        trials = self.max_trials or max(100, self.made + 20)
        left = max(trials - self.made, 1)
        money = max(self.budget - sum(self.paid) - self.waiting, 1e-9) if self.budget else math.inf
        share = SHARE if self.target == math.inf else 1  # less than the least time is of no use
        limit = math.log(min(share * money, self.max_cost))
        cheapest, found = self.successes()[2].min(), self.candidates()
        seen = self.front > self.floor + SIGNAL * self.noise
        lucky = self.score.explained < EXPLAINED and self.target == math.inf  # near a target none is by luck
        if lucky or not seen.any():  # nothing stands out of the noise
            low = math.log(money / left) if self.budget else (cheapest + min(limit, found.cost.max())) / 2
            return self.grope(max(low - 0.7, cheapest - 0.5), limit)
        high = min(self.steps[-1] + math.log(3), limit)
        low = max(cheapest - 0.7, min(self.steps[seen.argmax()] - math.log(3), high - 1))
        edges = np.linspace(low, max(high, low + 0.2), 2 + int(max(high - low, 0) / 0.35))
        mean = 2 * self.made / (self.made + trials) * money / left if self.budget else np.exp(edges.mean())
        growth = self.growth(found, edges[-1])
        for width, most in ((0.15, 4), (0.05, 4), (None, 1)):
            bins = np.digitize(found.cost, edges)
            inside = [np.flatnonzero(bins == at) for at in range(1, len(edges))]
            best = [i for group in inside for i in nlargest(most, group, growth.take)]
            if not best:  # nothing costs as little: the best of the cheapest
                best = [max(np.flatnonzero(found.cost < found.cost.min() + 0.1), key=growth.take)]
            if width:
                points = found.points[self.rng.choice(best, CANDIDATES)]
                moved = self.rng.random(points.shape) < 0.5
                more = self.look(self.around(points, width * moved))
                found = Candidates(*map(np.concatenate, zip(found, more, strict=True)))
                growth = np.append(growth, self.growth(more, edges[-1]))

        late = money < self.budget / 2 if self.budget else self.made > trials / 2
        if late and self.made % LATE == 0 and self.top == math.inf:  # the highest score, whatever it costs
            improvement = self.improvement(found, self.front[-1]) * (found.cost <= edges[-1])
            return found.points[improvement.argmax() if improvement.any() else best[-1]]

        def chances(thrift: float) -> np.ndarray:
            logs = GREED * growth[best] - thrift * np.exp(found.cost[best]) / mean
            chances = np.exp(logs - logs.max())
            return chances / chances.sum()

        thrifts = np.append(0, np.geomspace(1e-3, 1e3, 200))  # the least that keeps to the mean
        thrift = next((t for t in thrifts if chances(t) @ np.exp(found.cost[best]) <= mean), thrifts[-1])
        return found.points[self.rng.choice(best, p=chances(thrift))]

    def grope(self, low: float, limit: float) -> np.ndarray:
        """Round the centre, at log costs from `low` to five times that."""
        shape = (4 * CANDIDATES, self.dimensions)
        points = self.space.centre + GROPE_WIDTHS[self.target < math.inf] * self.rng.standard_normal(shape)
        points = np.where(self.rng.random(shape) < 0.1, self.rng.uniform(-1, 1, shape), points.clip(-1, 1))
        cost = min(low + min(self.rng.exponential(0.8), math.log(5)), limit)
        away = abs(self.cost.predict(points)[0] - cost)
        nearest = np.flatnonzero(away <= max(0.2, np.partition(away, 30)[30]))
        return points[nearest[self.growth(self.look(points[nearest]), cost).argmax()]]


def normal(x: np.ndarray) -> np.ndarray:
    """The standard normal distribution function."""
    return torch.special.ndtr(torch.as_tensor(x)).numpy()


# The default first; the others, and other rules for it, are in variants/samplers.py.
SAMPLERS = ("bayesian", "pareto", "random-centre", "random-uniform", "random-full-cost", "halving")
RULES = ("growth", "capped", "carbs", "carbs-no-density", "conservative", "conservative-product", "own-point",
         "per-cost", "uniform-noise", "nearest-cheaper", "protein")


def make_sampler(name: str, space: Space | dict, seed: int = 0, rule: str | None = None,
                 goal: str = "maximize", max_cost: float | None = None, budget: float | None = None,
                 max_trials: int | None = None, target: float | None = None) -> Sampler:
    """A sampler that has observed nothing.

    space: a Space or the parameters of one. rule: one of RULES, how the default one chooses, and options, as
    in "growth,resample=5". goal: "maximize" or "minimize". max_cost: what a trial may cost; budget: what all
    may; max_trials: how many will be; target: the score that is enough, beyond which only costs count. None
    is unknown. Raises ValueError.
    """
    require(name in SAMPLERS, f"unknown sampler {name!r}; there are {', '.join(SAMPLERS)}")
    require(goal in ("maximize", "minimize"), f"unknown goal {goal!r}; there are maximize and minimize")
    for label, limit in {"max_cost": max_cost, "budget": budget, "max_trials": max_trials}.items():
        require(limit is None or (is_number(limit) and limit > 0), f"{label} {limit!r} is not above 0")
    require(target is None or is_number(target), f"target {target!r} is not a finite number")
    space = space if isinstance(space, Space) else Space(space)
    known = (space, seed, goal, max_cost, budget, max_trials, target)
    if name == SAMPLERS[0] and rule in (None, RULES[0]):
        return Bayesian(*known)
    from variants import samplers

    return samplers.make(name, rule, known)


def run(sweep: Sweep) -> None:
    """Suggest, run, observe, until a limit is reached."""
    from rich.live import Live
    from rich.text import Text

    path, config = sweep.path, sweep.config
    most = {name: config[name] or math.inf for name in LIMITS}
    budget = min(most["budget"], most["max_seconds"] * config["workers"])
    limits = {"max_cost": min(most["trial_cost"], most["trial_seconds"]), "budget": budget,
              "max_trials": most["max_trials"], "target": sweep.target}
    known = {name: limit for name, limit in limits.items() if limit < math.inf}
    sampler = make_sampler(config["sampler"], sweep.space, config["seed"], config["rule"], **known)
    new = not (path / "sweep.json").exists()
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    sweep.open()
    (path / "sweep.json.new").write_text(json.dumps(config, indent=1) + "\n")
    (path / "sweep.json.new").replace(path / "sweep.json")
    waiting = sweep.having("lost, runs again", "interrupted")

    def observe(trial: dict[str, Any]) -> None:
        failed = trial["status"] == "failed"
        if (count := config["curve_points"]) and not failed:
            steps = sweep.space.parameters["total_timesteps"]["min"], trial["params"]["total_timesteps"]
            for at, score, cost in curve(path / f"trials/{trial['trial']:04}", count, *steps):
                sampler.observe(trial["params"] | {"total_timesteps": at}, score, cost, part=True)
        sampler.observe(trial["params"], trial["score"], trial["cost"], failed)

    def start(worker: int) -> Trial | None:
        if len(sweep.trials) - len(waiting) >= most["max_trials"] or sweep.spent() >= most["budget"]:
            return None
        number = waiting[0]["trial"] if waiting else len(sweep.trials) + 1
        params = waiting.pop(0)["params"] if waiting else sampler.suggest()
        seed = np.random.SeedSequence((config["seed"], 0, number)).generate_state(1)[0]
        sweep.write(trial=number, status="running", params=params, seed=int(seed))
        limit = min(most["trial_seconds"], PATIENCE * min(sweep.times(), default=math.inf))
        return sweep.trial(sweep.trials[number], worker, "trials", limit)

    def finish(trial: Trial) -> None:
        result = trial.result(config["objective"])
        first = trial.record["trial"] == 1 and not sweep.having("ok")
        require(trial.usable or not first, f"the first trial failed: {result['reason']}")
        sweep.write(trial=trial.record["trial"], **result)
        observe(sweep.finished[-1])
        print(row(sweep.finished[-1]))

    for trial in sweep.finished:
        observe(trial)
    sampler.running += [trial["params"] for trial in waiting]
    print(f"{path}: {len(sweep.space.names)} parameters, {config['sampler']}, seed {config['seed']}")
    try:  # in a terminal, what is running and was found stands below the lines of trials that have ended
        with Live(transient=True, get_renderable=lambda: Text("\n".join(describe(sweep)))):
            supervise(config["workers"], start, finish, lambda: sweep.elapsed() > most["max_seconds"])
    except ValueError:
        first = sweep.trials.get(1, {"status": "running"})
        if new and first["status"] == "running":  # it was refused: only folders that others use by now stay
            for number in sweep.trials:
                shutil.rmtree(path / f"trials/{number:04}", ignore_errors=True)
            for file in (path / "sweep.json", path / "trials.jsonl"):
                file.unlink()
            with suppress(OSError):
                for folder in (path / "trials", *made):
                    folder.rmdir()
        raise
    finally:
        for trial in sweep.having("running"):
            sweep.write(trial=trial["trial"], status="interrupted")
    print(*describe(sweep), sep="\n")


def again(sweep: Sweep, label: str, params: dict[str, Any], seeds: list, limit: float | None) -> list[dict]:
    """Runs settings on these seeds, and says what came of each."""
    waiting, results = iter(enumerate(seeds, 1)), []

    def start(worker: int) -> Trial | None:
        if (item := next(waiting, None)) is None:
            return None
        record = {"trial": item[0], "params": params, "seed": item[1]}
        return sweep.trial(record, worker, f"promoted/{label}", limit)

    def finish(trial: Trial) -> None:
        results.append(trial.result(sweep.config["objective"]))
        print(f"{label}, seed {trial.record['seed']}: {outcome(results[-1])}")

    supervise(sweep.config["workers"], start, finish)
    return results


def promote(sweep: Sweep, label: str, options: dict[str, Any]) -> None:
    """Runs the best settings, those of a trial, or the trainer's "defaults" on fresh seeds, the same for all,
    and compares all that were run so. The settings of a trial are written for the trainer's --config, too.
    The luckiest of many trials is not the best: a few of them are run on two other seeds first."""
    params, folder, limit = {}, sweep.path / "promoted", options["trial_seconds"]
    time_counts = sweep.target < math.inf

    def settings(number: int) -> dict[str, Any]:
        params = dict(sweep.trials[number]["params"])
        total = (sweep.fixed | params).get("total_timesteps")
        require(total or not options["steps"], "--steps: these trials have no total_timesteps to multiply")
        if total:
            more = 1.5 if time_counts else 1.25  # just enough for one seed may not be for another
            params["total_timesteps"] = round(total * (options["steps"] or more))
        return params

    def seeds(salt: int, count: int) -> list[int]:
        return np.random.SeedSequence((sweep.config["seed"], salt)).generate_state(count).tolist()

    if label != "defaults":
        best = [options["trial"]] if options["trial"] else sweep.best(RACERS)
        found = best and best[0] in sweep.trials
        require(found, f"--promote: {sweep.path} has no trial {options['trial'] or 'that worked'}")
        if len(best) > 1:
            ran = {n: again(sweep, f"trial-{n}", settings(n), seeds(2, 2), limit) for n in best}
            best = sorted(best, key=lambda n: sweep.merit(ran[n]), reverse=True)
        label, params = f"trial-{best[0]}", settings(best[0])
        config = sweep.fixed | params
        for name in [name for name in config if name.startswith("no_") and config[name] is True]:
            config[name[3:]] = not config.pop(name)  # as a flag is spelt that is off
        (sweep.path / "promoted.json").write_text(json.dumps(config, indent=1) + "\n")
        print(f"{sweep.path / 'promoted.json'}: settings of {label}, for the trainer's --config")
    results = again(sweep, label, params, seeds(1, options["seeds"] or 5), limit)
    (folder / f"{label}.json").write_text(json.dumps(results) + "\n")
    for file in sorted(folder.glob("*.json")):
        good = sweep.reached(measured := json.loads(file.read_text()))
        line = f"{file.stem}: {len(good)} of {len(measured)} "
        line += f"reached {sweep.target:g}" if time_counts else "worked"
        for name in ("score", "cost") if good else ():
            values = [result[name] for result in good]
            line += f", {name} {np.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"
        print(line)


def describe(sweep: Sweep) -> list[str]:
    """What runs, how far a sweep is, and what it has found, in lines: Pareto front, best trial, warnings."""
    used = {"max_trials": len(sweep.finished), "budget": sweep.spent(), "max_seconds": sweep.elapsed()}
    of = [f"{used[name]:.0f}" + (f" of {limit:g}" if (limit := sweep.config[name]) else "") for name in used]
    lines = [row(trial) for trial in sweep.having("running")]
    lines += [f"{of[0]} trials, {len(sweep.having('failed'))} failed; {of[1]} s of training; {of[2]} s"]
    lines += [f"constraint left out, it names what is not known: {text}" for text in sweep.space.dropped]
    if not (front := sweep.front()):
        failed = sweep.having("failed")[-1:]
        return lines + [f"warning: no trial has worked; the last one {outcome(trial)}" for trial in failed]
    lines.append("front: " + "; ".join(f"{outcome(trial)} (trial {trial['trial']})" for trial in front))
    best = front[-1]["params"]
    lines.append(f"best: trial {front[-1]['trial']}, " + ", ".join(f"{k} {v:.9g}" for k, v in best.items()))
    lines += [f"warning: best {edge}" for edge in sweep.space.edges(best)]
    return [*lines, f"all as a page: python report.py {sweep.path}",
            f"the best on fresh seeds: python sweep.py --promote {sweep.path}"]


def parse(argv: list[str]) -> tuple[dict[str, Any], list[tuple[str, str | None]]]:
    """The options of the sweep, and the trainer's arguments; a flag's value is None. Raises ValueError."""
    options: dict[str, Any] = dict.fromkeys(OPTIONS)
    words, fixed = list(argv), []
    while words:
        word, equals, value = words.pop(0).partition("=")
        name = word[2:].replace("-", "_")
        require(word.startswith("--"), f"{word!r} is no argument; they are --name value")
        if not equals:
            value = words.pop(0) if words and not words[0].startswith("--") else None
        require(value is not None or name in COMMANDS or name not in OPTIONS, f"{word} needs a value")
        if name not in OPTIONS:
            near = "".join(get_close_matches(name, OPTIONS, 1, 0.85)).replace("_", "-")
            require(not near, f"{word}: is it --{near}? --fix {name}=VALUE gives it to the trials")
            fixed.append((word[2:], value))
        elif name == "fix":
            require("=" in value, f"--fix: {value!r} must be name=value")
            fixed.append(value.partition("=")[::2])
        elif name in (*WHOLE, *LIMITS, "steps"):
            number, least = parse_value(value), 0 if name in ("seed", "curve_points") else 1e-9
            right = is_number(number) and number >= least and not (name in WHOLE and number % 1)
            kind = f"{'whole ' * (name in WHOLE)}number {'above' if least else 'from'} 0"
            require(right, f"{word}: {value!r} is no {kind}")
            options[name] = int(number) if name in WHOLE else number
        else:
            joined = name in ("only", "range") and options[name]
            options[name] = f"{options[name]},{value}" if joined else value or ""
    return options, [("env", options["env"])] * bool(options["env"]) + fixed


def configure(options: dict[str, Any], fixed: list) -> dict[str, Any]:
    """The settings of a new sweep, as sweep.json holds them. Raises ValueError."""
    command = shlex.split(options["command"] or "")
    require(not command or shutil.which(command[0]), f"--command: there is no program {command[:1]}")
    values = {name.replace("-", "_"): parse_value(text) for name, text in fixed}
    for name in ("seed", "run_dir"):
        require(name not in values, f"--fix {name}: every trial has its own")
    require(options["only"] != "", "--only needs names of parameters")
    objective = options["objective"] or ("time" if "stop_score" in values else "score")
    require(objective in ("score", "time"), f"--objective: {objective!r} is not score or time")
    target = values.get("stop_score")
    require(objective == "score" or is_number(target), f"--objective time needs --stop-score, not {target!r}")
    space = spaces.read(options["env"], options["space"], options["only"], options["range"], values)
    shorter = not options["curve_points"] or "total_timesteps" in space["space"]
    require(shorter, "--curve-points needs total_timesteps in the space")
    config = {"command": command, "fixed": fixed, **space, "objective": objective, "rule": options["rule"],
              "sampler": options["sampler"] or SAMPLERS[0], "curve_points": options["curve_points"] or 0}
    config |= {"seed": options["seed"]} if options["seed"] is not None else {}
    return json.loads(json.dumps(config, default=str))  # as it will be read back


def main(argv: list[str]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    path, command = Path("DIR"), "run"
    try:
        sys.stdout.reconfigure(line_buffering=True)
        if {"-h", "--help"} & {*argv}:
            print((ROOT / "docs/tuner.md").read_text().partition("## Options")[2].split("```")[1].strip())
            return 0
        options, fixed = parse(argv)
        command, *more = [name for name in COMMANDS if options[name] is not None] or ["run"]
        alone = {"promote": (), "baseline": ("trial", "steps")}.get(command, ("trial", "steps", "seeds"))
        more += [name for name in alone if options[name] is not None]
        require(not more, f"--{', --'.join(more)}: there is one command at a time; --trial and --steps are "
                "for --promote, --seeds is for it and --baseline")
        name = f"{options['env'] or 'command'}/{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}"
        path = Path(options.get(command) or options["sweep_dir"] or f"sweeps/{name.replace(':', '-')}")
        named = command == "run" or bool(options[command]) ^ bool(options["sweep_dir"])
        require(named, f"--{command} needs the folder of a sweep, once")
        saved = json.loads((path / "sweep.json").read_text()) if (path / "sweep.json").exists() else {}
        require(saved or command == "run", f"there is no sweep in {path}")
        needed = {"command", "fixed", "space", "constraints", "constants", "objective", "rule", "sampler"}
        whole = isinstance(saved, dict) and (not saved or needed <= {*saved})
        whole = whole and all(is_number(saved.get(name) or 0) for name in (*LIMITS, "seed"))
        require(whole, f"{path / 'sweep.json'} is damaged")
        settings = configure(options, fixed) if command == "run" else {}
        changes = fixed or any(options[name] is not None for name in SETTINGS)
        require(settings or not changes, f"{path} has its settings; only limits can be changed")
        others = [name for name in settings if saved and saved[name] != settings[name]]
        require(not others, f"{path} was made with another {', '.join(others)}; see sweep.json there")
        config = {"workers": 1, "seed": int.from_bytes(os.urandom(4)), "cwd": os.getcwd()} | saved | settings
        config |= {name: options[name] or config.get(name) for name in LIMITS}
        if not (config["max_trials"] or config["max_seconds"] or config["budget"]):
            config["max_trials"] = 100
        sweep = Sweep(path, config)
        if command in ("run", "resume"):
            run(sweep)
            if sweep.finished and not sweep.front():
                print(f"sweep.py: error: {path}: no trial has worked", file=sys.stderr)
                return 1
        elif command == "status":
            sweep.open(alone=False)
            ended = [trial for trial in sweep.trials.values() if trial["status"] != "running"]
            print(*map(row, ended), *describe(sweep), sep="\n")
        else:
            sweep.open()
            promote(sweep, "best" if command == "promote" else "defaults", options)
        return 0
    except KeyboardInterrupt:
        begun = command in ("run", "resume") and (path / "sweep.json").exists()
        print(f"interrupted{f'; go on with: python sweep.py --resume {path}' * begun}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `--status DIR | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except (ValueError, OSError) as error:
        where = f"{path}: " * isinstance(error, json.JSONDecodeError)
        print(f"sweep.py: error: {where}{error}", file=sys.stderr)
        return 1 if isinstance(error, OSError) else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
