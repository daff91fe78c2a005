"""Other samplers for the tuner, and other rules for the default one: what it is compared with.

    python sweep.py --env pong --sampler halving              another sampler
    python sweep.py --env pong --rule conservative            another rule
    python sweep.py --env pong --rule growth,resample=5       the default rule, and an option
    python benchmarks/sweep.py --rules                        all of them on tasks whose maximum is known

A rule says which of a thousand candidates is tried next. All but "growth" and "capped" are given the same
ones, noise round the Pareto points, and the same processes: they are what earlier tuners did, or what was
tried on the way from CARBS (Fetterman et al. 2023, https://arxiv.org/abs/2306.08055) to "growth", which is in
sweep.py. A rule gives each candidate a value; the largest is tried. Scores, their deviations and the front
are all as the score process sees them, none as observed.

Options follow a rule and a comma: resample=N tries a Pareto point again at every N-th suggestion,
warp=quantile makes scores normal before they are modelled."""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np

import sweep
from spaces import Space, require
from sweep import CANDIDATES, SEARCH_WIDTH, Bayesian, Candidates, Process, Sampler

ETA = 3  # of so many runs one goes on, that many times as long


def make(name: str, rule: str | None, known: tuple) -> Sampler:
    """What sweep.make_sampler makes if it is not the default; known are a Sampler's arguments. ValueError."""
    if name == sweep.SAMPLERS[0]:
        return Ranked(rule, *known)
    require(rule is None, f"rule {rule!r} is for the sampler {sweep.SAMPLERS[0]}, not for {name}")
    return OTHERS[name](*known)


class Pareto(Sampler):
    """Noise round a Pareto point, drawn uniformly; no model.

    One step beyond random search, at no cost: the points that are varied get better.
    """

    def propose(self) -> np.ndarray:
        points, scores, costs = self.successes()
        good = points[sweep.pareto(scores, costs)] if len(points) else self.space.centre[None]
        return self.around(self.rng.choice(good))


class RandomCentre(Sampler):
    """Noise round the search centre."""

    def propose(self) -> np.ndarray:
        return self.around(self.space.centre)


class RandomUniform(Sampler):
    """Anywhere."""

    def propose(self) -> np.ndarray:
        return self.rng.uniform(-1, 1, self.dimensions)


class RandomFullCost(Sampler):
    """Anywhere, each run as long as it may be: an upper bound for what successive halving can find in as many
    runs, at a price that it would not pay."""

    def __init__(self, space: Space, *known: Any):
        super().__init__(space, *known)
        self.length, (*_, self.longest) = lengths(space)

    def propose(self) -> np.ndarray:
        return np.where(self.length, self.longest, self.rng.uniform(-1, 1, self.dimensions))


class Halving(Sampler):
    """Asynchronous successive halving (Li et al. 2020, https://arxiv.org/abs/1810.05934, algorithm 2).

    Settings from anywhere run for the shortest time. As soon as three have run for one time, or six, the best
    third of them that has not run longer runs again, three times as long. It has no other use for what it
    sees."""

    def __init__(self, space: Space, *known: Any):
        super().__init__(space, *known)
        self.length, self.levels = lengths(space)

    def propose(self) -> np.ndarray:
        units = np.reshape(self.units, (-1, self.dimensions))
        scores = np.nan_to_num(self.scores, nan=-math.inf)
        seen = [*units.tolist(), *(self.space.to_unit(params).tolist() for params in self.running)]
        for level, longer in reversed(list(zip(self.levels, self.levels[1:], strict=False))):
            done = np.flatnonzero(abs(units[:, self.length] - level).max(1, initial=0) < 1e-3)
            for i in sorted(done, key=lambda i: -scores[i])[: len(done) // ETA]:
                again = self.space.to_unit(self.space.from_unit(np.where(self.length, longer, units[i])))
                if scores[i] > -math.inf and again.tolist() not in seen:
                    return again
        return np.where(self.length, self.levels[0], self.rng.uniform(-1, 1, self.dimensions))


def lengths(space: Space) -> tuple[np.ndarray, list[float]]:
    """Which parameter is the length of a run, [dimensions], and the lengths that halving gives it, in [-1,
    1]: the longest last, a third of it before, and so on. Raises ValueError."""
    require(
        "total_timesteps" in space.names,
        f"this sampler needs total_timesteps, the length of a run, in the space: {', '.join(space.names)}",
    )
    length, centre = np.array(space.names) == "total_timesteps", space.from_unit(space.centre)
    low, high = (space.parameters["total_timesteps"][end] for end in ("min", "max"))
    require(low > 0, f"this sampler needs a total_timesteps min above 0, not {low}")
    count = 1 + int(math.log(high / low, ETA) + 1e-9)
    steps = [high / ETA**level for level in reversed(range(count))]
    return length, [space.to_unit(centre | {"total_timesteps": x})[length].item() for x in steps]


OTHERS = {
    "pareto": Pareto,
    "random-centre": RandomCentre,
    "random-uniform": RandomUniform,
    "random-full-cost": RandomFullCost,
    "halving": Halving,
}


class Ranked(Bayesian):
    """The default sampler with another rule, or with options."""

    def __init__(self, text: str, *known: Any):
        super().__init__(*known)
        self.rule, *options = text.split(",")
        require(self.rule in sweep.RULES, f"unknown rule {self.rule!r}; there are {', '.join(sweep.RULES)}")
        self.resample, self.quantiles = 0, False
        for option in options:
            key, _, value = option.partition("=")
            number = int(value) if value.isdecimal() else 0
            require(
                (key == "resample" and number) or option == "warp=quantile",
                f"unknown option {option!r} of rule {self.rule}; there are resample=N and warp=quantile",
            )
            self.resample, self.quantiles = number or self.resample, self.quantiles or not number
        require(not self.quantiles or self.target == math.inf, "warp=quantile is not for a target score")

    def learn(self, points: np.ndarray, scores: np.ndarray, costs: np.ndarray) -> None:
        super().learn(points, quantile_normal(scores) if self.quantiles else scores, costs)

    def choose(self) -> np.ndarray:
        if self.resample and self.made % self.resample == 0:
            return self.least_sampled()
        if self.rule == sweep.RULES[0]:
            return super().choose()
        found = self.candidates() if self.rule == "capped" else self.noise_round_front()
        limit = max(math.log(self.max_cost), found.cost.min())  # nothing affordable: the cheapest
        fit = (found.cost <= limit) & (found.success >= min(0.5, found.success.max()))
        values = RULES[self.rule](self, found)
        return found.points[np.where(fit, values, -math.inf).argmax()]

    def noise_round_front(self) -> Candidates:
        """Candidates: Pareto points drawn uniformly, with noise in all dimensions."""
        self.parents = self.rng.integers(len(self.front), size=CANDIDATES)
        points = self.points[self.parents]
        if self.rule != "uniform-noise":
            return self.look(self.around(points))
        noise = math.sqrt(3) * self.rng.uniform(-1, 1, points.shape)  # as wide
        return self.look(np.clip(points + SEARCH_WIDTH * self.space.scale * noise, -1, 1))

    def least_sampled(self) -> np.ndarray:
        """The Pareto point with the fewest samples, and of such the cheapest; it has one at least."""
        running = np.reshape([self.space.to_unit(params) for params in self.running], (-1, self.dimensions))
        done, more = ((x == self.points[:, None]).all(2).sum(1) for x in (np.array(self.units), running))
        fit = (done > 0) & (self.steps <= max(math.log(self.max_cost), self.steps.min()))
        return self.points[np.lexsort((self.steps, done + more, ~fit))[0]]

    def curve(self, costs: np.ndarray) -> np.ndarray:
        """The score of the front at log costs [m]: a process through the Pareto points."""
        width = max(np.ptp(self.steps), 1.0)
        process = Process(1)
        process.fit((self.steps[:, None] - self.steps[0]) / width * 2 - 1, self.front)
        return process.predict((costs[:, None] - self.steps[0]) / width * 2 - 1)[0]

    def cheaper(self, costs: np.ndarray) -> np.ndarray:
        """The score of the dearest Pareto point within log costs [m]; the lowest seen where there is none."""
        return np.append(self.floor, self.front)[np.searchsorted(self.steps, costs, side="right")]


def quantile_normal(scores: np.ndarray) -> np.ndarray:
    """Scores [n] as if drawn from a normal distribution: positions between their sqrt(n) quantiles,
    interpolated, clipped half a score from either end, through its inverse distribution function."""
    share = np.linspace(0, 1, max(2, round(math.sqrt(len(scores)))))
    ends = np.quantile(scores, share)
    below, above = np.interp(scores, ends, share), -np.interp(-scores, -ends[::-1], -share[::-1])
    position = (below + above) / 2  # equal scores are in the middle of their quantiles
    position = position.clip(0.5 / len(scores), 1 - 0.5 / len(scores))
    return np.array([NormalDist().inv_cdf(share) for share in position])


def carbs_no_density(s: Ranked, c: Candidates) -> np.ndarray:
    """Expected improvement over the front at the candidate's cost, or at a drawn one if that is higher, times
    P(success). Above all cheaper ones an improvement is one over the same dear run."""
    drawn = s.rng.uniform(s.steps[0], s.steps[-1])
    gain = c.mean - s.curve(np.maximum(c.cost, drawn))
    z = gain / c.deviation
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return (gain * sweep.normal(z) + c.deviation * density) * c.success


def carbs(s: Ranked, c: Candidates) -> np.ndarray:
    """CARBS as published: the same times the density of the candidates there, which holds the search back."""
    width = SEARCH_WIDTH * s.space.scale
    squares = (((c.points[:, None] - s.points) / width) ** 2).sum(2)  # [m, Pareto points]
    return carbs_no_density(s, c) * np.exp(-squares / 2).mean(1)


def conservative(s: Ranked, c: Candidates) -> np.ndarray:
    """Improvement that is all but sure, over the front at the candidate's cost; it may be negative."""
    return c.mean - c.deviation - s.curve(c.cost)


def conservative_product(s: Ranked, c: Candidates) -> np.ndarray:
    """The same times the score that is all but sure, so that high scores count for themselves. Where both are
    negative the product is not."""
    return conservative(s, c) * (c.mean - c.deviation)


def own_point(s: Ranked, c: Candidates) -> np.ndarray:
    """Improvement that is all but sure, over the Pareto point the candidate was made of: near-copies of weak
    points win."""
    return c.mean - c.deviation - s.front[s.parents]


def per_cost(s: Ranked, c: Candidates) -> np.ndarray:
    """The conservative improvement by predicted cost, shifted so that none is negative."""
    improvement = conservative(s, c)
    return (improvement - improvement.min()) / np.exp(c.cost)


def nearest_cheaper(s: Ranked, c: Candidates) -> np.ndarray:
    """Improvement over the nearest cheaper Pareto point, as a step and not a curve."""
    return c.mean - s.cheaper(c.cost)


def protein(s: Ranked, c: Candidates) -> np.ndarray:
    """PufferLib 3.0 (its sampler Protein): the score, less the farther the log cost is from a drawn one,
    which may be a quarter of the range of those seen above the highest."""
    costs = np.log(s.costs)
    target = 1.25 * s.rng.random()
    return np.sinh(c.mean) * (1 - abs(target - (c.cost - costs.min()) / max(np.ptp(costs), 1e-9)))


def capped(s: Ranked, c: Candidates) -> np.ndarray:
    """The default's gain, of candidates just below a cost cap. It is drawn log-uniformly: from the cheapest
    run, if scores are noisy from where the front rises above that, to five times the money left for each
    trial left."""
    trials = s.max_trials or max(100, s.made + 20)
    money = s.budget - sum(s.paid) - s.waiting if s.budget else math.inf
    high = s.steps[-1] + math.log(3)
    high = min(high, math.log(min(s.max_cost, max(5 * money / max(trials - s.made, 1), 1e-300))))
    seen = s.front > s.floor + 3 * s.noise
    low = min(s.steps[seen.argmax()], high)
    cap = s.rng.uniform(low, high)
    below = (c.cost <= cap) & (c.cost > cap - 0.3)
    return np.where(below, s.growth(c, high), -1e9 - abs(c.cost - cap))  # none: the nearest


RULES: dict[str, Callable[[Ranked, Candidates], np.ndarray]] = {
    "capped": capped,
    "carbs": carbs,
    "carbs-no-density": carbs_no_density,
    "conservative": conservative,
    "conservative-product": conservative_product,
    "own-point": own_point,
    "per-cost": per_cost,
    "uniform-noise": conservative_product,
    "nearest-cheaper": nearest_cheaper,
    "protein": protein,
}
