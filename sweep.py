"""The tuner: finds better hyperparameters of any program, and knows what each try costs.

    python sweep.py --env pong --stop-score 20 --max-trials 50      least time to score 20
    python sweep.py --env breakout --budget 3600                    highest score, an hour of training in all
    python sweep.py --status DIR                                    what a sweep has found so far
    python sweep.py --promote DIR                                   its best settings again, on fresh seeds

It knows nothing of the trainer but its command line (`--name value`) and the run folder that it writes;
docs/tuner.md says how to tune a program of your own. As a library: make_sampler, suggest, observe. The map:

    Space             parameters <-> [-1, 1], constraints between them
    SAMPLERS          who suggests the next trial
    Sweep             the folder: sweep.json, trials.jsonl, one run folder per trial
    Trial             one run of the command as a process that cannot outlive the sweep
    run, status, promote, baseline, main                  the commands
"""

import ast
import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

# To a line on which steps of one length matter alike, and back.
DISTRIBUTIONS: dict[str, tuple[Callable, Callable]] = {
    "uniform": (float, float),
    "int_uniform": (float, float),
    "uniform_pow2": (math.log2, lambda line: 2 ** round(line)),
    "log_normal": (math.log, math.exp),
    "logit_normal": (lambda x: -math.log1p(-x), lambda line: -math.expm1(-line)),  # log of 1 - x
}
# fmt: off
OPERATORS: dict[type, Callable] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow, ast.USub: operator.neg,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq,
    ast.NotEq: operator.ne, ast.And: all, ast.Or: any,
}
# fmt: on


class Space:
    """What is searched: how every parameter maps to [-1, 1], and which combinations are allowed.

    parameters   name: {"distribution", "min", "max", "mean", "scale"}; `mean` is where the search begins;
                 `scale`, the width of search noise in units of [-1, 1], is a number, "auto" (1, also if left
                 out) or "time" (1 / log2(max / min): half a doubling). A log_normal whose numbers are all of
                 Python's type int gives integers.
    constraints  what must hold: "minibatch_size <= num_envs * horizon", of parameters and constants
    constants    values of other names in them. A constraint with a name in neither is `dropped`.
    Raises ValueError, in one line, for anything out of place.
    """

    def __init__(self, parameters: dict, constraints: Iterable[str] = (), constants: dict | None = None):
        if not isinstance(parameters, dict) or not parameters:
            raise ValueError("the space has no parameter to search")
        self.parameters = {name: check_parameter(name, given) for name, given in parameters.items()}
        self.names, means = list(self.parameters), {name: p["mean"] for name, p in self.parameters.items()}
        self.scale = np.array([p["scale"] for p in self.parameters.values()])  # [dimensions]
        self.centre = self.to_unit(means)  # [dimensions]
        self.constants = dict(constants or {})
        parsed = [(text, *parse_expression(text)) for text in constraints]
        known = {*self.names, *self.constants}
        self.constraints = [constraint for constraint in parsed if constraint[1] <= known]
        self.dropped = [text for text, names, _ in parsed if not names <= known]
        for text, _, _ in self.broken(self.rounded(self.centre)):
            raise ValueError(f"constraint '{text}' does not hold at the centre, where the search begins")

    def to_unit(self, params: dict[str, Any]) -> np.ndarray:
        """Parameters to [dimensions] in [-1, 1]; a value outside its bounds counts as the bound."""
        unit = []
        for name, p in self.parameters.items():
            if not is_number(value := params.get(name)):
                raise ValueError(f"{name}: {value!r} is not a finite number")
            line = DISTRIBUTIONS[p["distribution"]][0](min(max(value, p["min"]), p["max"]))
            unit.append(2 * (line - p["low"]) / (p["high"] - p["low"]) - 1)
        return np.clip(unit, -1.0, 1.0)

    def from_unit(self, unit: np.ndarray) -> dict[str, Any]:
        """[dimensions] in [-1, 1] to parameters: plain numbers, rounded, in their bounds. Where they break
        a constraint, those it names are moved towards the centre, just until all constraints hold."""
        unit = np.clip(np.asarray(unit, float), -1.0, 1.0)
        params, moves = self.rounded(unit), np.zeros(len(self.names), bool)
        while broken := self.broken(params):  # moving some may break others; at the centre nothing is broken
            moves |= [any(name in names for _, names, _ in broken) for name in self.names]
            params = self.rounded(np.where(moves, self.centre, unit))
        low, high = 0.0, 1.0  # bisection for how far they move; at `high` all hold
        while moves.any() and high - low > 1e-6:
            middle = (low + high) / 2
            nearer = self.rounded(unit + middle * moves * (self.centre - unit))
            if self.broken(nearer):
                low = middle
            else:
                high, params = middle, nearer
        return params

    def rounded(self, unit: np.ndarray) -> dict[str, Any]:
        """As from_unit, whatever the constraints say."""
        params = {}
        for (name, p), x in zip(self.parameters.items(), unit.tolist(), strict=True):
            value = DISTRIBUTIONS[p["distribution"]][1](p["low"] + (x + 1) / 2 * (p["high"] - p["low"]))
            if p["whole"]:
                value = round(value)
            elif p["distribution"] == "logit_normal":  # the digits of 1 - x are those that count
                value = round(1 - float(f"{1 - value:.6g}"), 15)
            else:
                value = float(f"{value:.6g}")
            params[name] = min(max(value, p["min"]), p["max"])
        return params

    def broken(self, params: dict[str, Any]) -> list[tuple[str, set[str], ast.expr]]:
        """The constraints that do not hold: text, names in it, expression."""
        return [c for c in self.constraints if not holds(c[2], self.constants | params)]


def is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)


def check_parameter(name: str, given: Any) -> dict[str, Any]:
    """A parameter as given, its scale as a number, the ends of its line, and whether it is a whole number."""
    keys = ("distribution", "min", "max", "mean", "scale")
    if (
        not isinstance(name, str)
        or not isinstance(given, dict)
        or set(keys[:4]) - {*given}
        or {*given} - {*keys}
    ):
        raise ValueError(f"{name}: needs {', '.join(keys[:4])}, may have scale, and was given {given!r}")
    kind, low, high, mean = (given[key] for key in keys[:4])
    if kind not in DISTRIBUTIONS:
        raise ValueError(f"{name}: unknown distribution {kind!r}; there are {', '.join(DISTRIBUTIONS)}")
    for key in keys[1:4]:
        if not is_number(value := given[key]):
            raise ValueError(f"{name}: {key} {value!r} is not a finite number")
        if kind == "int_uniform" and value != int(value):
            raise ValueError(f"{name}: {key} {value} is not a whole number, as int_uniform needs")
        if kind == "uniform_pow2" and (value < 1 or value != int(value) or int(value).bit_count() > 1):
            raise ValueError(f"{name}: {key} {value} is not a power of two, as uniform_pow2 needs")
        if kind == "log_normal" and value <= 0:
            raise ValueError(f"{name}: {key} {value} is not above 0, as log_normal needs")
        if kind == "logit_normal" and not 0 < value < 1:
            raise ValueError(f"{name}: {key} {value} is not between 0 and 1, as logit_normal needs")
    if low >= high:
        raise ValueError(f"{name}: min {low} is not below max {high}")
    if not low <= mean <= high:
        raise ValueError(f"{name}: mean {mean}, the search centre, is not between min {low} and max {high}")
    whole = kind in ("int_uniform", "uniform_pow2")
    if whole:
        low, high, mean = int(low), int(high), int(mean)
    whole |= kind == "log_normal" and all(isinstance(x, int | np.integer) for x in (low, high, mean))
    ends = [DISTRIBUTIONS[kind][0](end) for end in (low, high)]
    if not 0 < ends[1] - ends[0] < math.inf:
        raise ValueError(f"{name}: from min {low} to max {high} is no usable range")
    scale = given.get("scale", "auto")
    scale = {"auto": 1.0, "time": 1 / max(1, math.log2(high / low)) if low > 0 else 0}.get(str(scale), scale)
    if not is_number(scale) or scale <= 0:
        raise ValueError(f"{name}: scale {scale!r} is not 'auto', 'time' (if min is above 0) or above 0")
    checked = dict(zip(keys, (kind, low, high, mean, float(scale)), strict=True))
    return checked | {"low": ends[0], "high": ends[1], "whole": whole}


def parse_expression(text: str) -> tuple[set[str], ast.expr]:
    """The names in an expression, and what `evaluate` takes. Raises ValueError."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, AttributeError, RecursionError):
        raise ValueError(f"{text!r} is not an expression such as 'a <= b * c'") from None
    allowed = (*OPERATORS, ast.BinOp, ast.BoolOp, ast.UnaryOp, ast.Compare, ast.Name, ast.Load)
    for part in ast.walk(node):
        if not isinstance(part, allowed) and not is_number(getattr(part, "value", None)):
            raise ValueError(
                f"{text!r} holds more than numbers, names, + - * / // % **, comparisons, and, or"
            )
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}, node


def evaluate(node: Any, values: dict[str, float]) -> Any:
    """What a parsed expression comes to; in floats, in which nothing grows without end. Never `eval`."""
    if isinstance(node, ast.Constant):
        return float(node.value)
    if isinstance(node, ast.Name):
        return float(values[node.id])
    if isinstance(node, ast.UnaryOp):
        return -evaluate(node.operand, values)
    if isinstance(node, ast.BinOp):
        return OPERATORS[type(node.op)](evaluate(node.left, values), evaluate(node.right, values))
    if isinstance(node, ast.BoolOp):
        return OPERATORS[type(node.op)](evaluate(part, values) for part in node.values)
    sides = [evaluate(side, values) for side in (node.left, *node.comparators)]
    return all(OPERATORS[type(op)](a, b) for op, a, b in zip(node.ops, sides, sides[1:], strict=False))


def holds(node: ast.expr, values: dict[str, float]) -> bool:
    try:
        return bool(evaluate(node, values))
    except (ArithmeticError, TypeError):  # such as a division by zero
        return False


class RandomCentre:
    """First the centre, then normal noise of half a parameter's scale around it."""

    def __init__(self, space: Space, seed: int = 0, **_: Any):
        self.space, self.seed = space, seed
        self.running: list[dict[str, Any]] = []  # suggested and not yet observed
        self.observed = 0

    def suggest(self) -> dict[str, Any]:
        made = self.observed + len(self.running)
        noise = np.random.default_rng((self.seed, made)).standard_normal(len(self.space.names))
        params = self.space.from_unit(self.space.centre + 0.5 * (made > 0) * self.space.scale * noise)
        self.running.append(params)
        return params

    def observe(self, params: dict[str, Any], score: float | None, cost: float, failed: bool = False) -> None:
        self.observed += 1
        if params in self.running:
            self.running.remove(params)


SAMPLERS: dict[str, Callable] = {"random-centre": RandomCentre}  # the default first
RULES: tuple[str, ...] = ()


def make_sampler(
    name: str,
    space: Space | dict,
    seed: int = 0,
    rule: str | None = None,
    goal: str = "maximize",
    max_cost: float | None = None,
    budget: float | None = None,
    max_trials: int | None = None,
) -> Any:
    """A sampler by name. Raises ValueError."""
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}; there are {', '.join(SAMPLERS)}")
    return SAMPLERS[name](space if isinstance(space, Space) else Space(space), seed)
