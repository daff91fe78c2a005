"""What the tuner searches: the space files in this folder, and the class that maps them to [-1, 1] and back.

A space file has a line for every parameter that is searched, and says what must hold between them:

    learning_rate = { distribution = "log_normal", min = 0.0003, mean = 0.03, max = 0.3 }
    num_envs = { distribution = "uniform_pow2", min = 32, mean = 256, max = 4096, scale = 0.5 }
    constraints = ["minibatch_size <= agents * num_envs * horizon"]
    constants = { agents = 1 }

distribution  uniform; int_uniform; uniform_pow2: powers of two; log_normal: ratios count, it gives integers
              if min, mean and max are such; logit_normal: ratios of 1 - x count
mean          where the search begins
scale         width of the search around good settings, in units of [-1, 1]: a number, "auto" (1, also if left
              out) or "time" (1 / log2(max / min): half a doubling)
constraints   numbers, names, + - * / // % **, comparisons, and, or. One with a name that is fixed to what
              is no number is left out
constants     values of other names in them; sweep.py adds memory, a trial's share of the machine's in bytes

default.toml is the space of cleanpuffer.py; ENV.toml holds what differs for one environment.
"""

import ast
import json
import math
import operator
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np


def require(holds: Any, message: str) -> None:
    """ValueError, which the tuner prints as one line, exit code 2."""
    if not holds:
        raise ValueError(message)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and abs(value) < 1e300


def parse_value(text: str | None) -> Any:
    """A value of the command line as JSON reads it, or as it stands; a flag, which has none, is true."""
    with suppress(ValueError):
        return True if text is None else json.loads(text)
    return text


# To a line on which steps of one length matter alike, and back; what its numbers must be, and in words.
DISTRIBUTIONS: dict[str, tuple[Callable, Callable, Callable, str]] = {
    "uniform": (float, float, is_number, "finite"),
    "int_uniform": (float, round, lambda x: x == int(x), "a whole number"),
    "uniform_pow2": (math.log2, lambda y: 2**round(y), lambda x: x > 0.5 == math.frexp(x)[0], "a power of 2"),
    "log_normal": (math.log, math.exp, lambda x: x > 0, "above 0"),
    "logit_normal": (lambda x: -math.log1p(-x), lambda y: -math.expm1(-y), lambda x: 0 < x < 1, "in (0, 1)"),
}
OPERATORS: dict[type, Callable] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow, ast.USub: operator.neg,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq,
    ast.NotEq: operator.ne, ast.And: all, ast.Or: any,
}


def evaluate(node: ast.AST, values: dict[str, float]) -> Any:
    """What an expression comes to; ValueError if it holds more than numbers, names and OPERATORS."""
    match node:
        case ast.Constant(value=int() | float() as number):
            return np.float64(number)  # in which nothing grows without end, and x / 0 is no error
        case ast.Name(id=name):
            return np.float64(values[name])
        case ast.UnaryOp(op=op, operand=side) if type(op) in OPERATORS:
            return OPERATORS[type(op)](evaluate(side, values))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](evaluate(left, values), evaluate(right, values))
        case ast.BoolOp(op=op, values=parts):
            return OPERATORS[type(op)]([evaluate(part, values) for part in parts])
        case ast.Compare(left=left, ops=ops, comparators=others) if {*map(type, ops)} <= {*OPERATORS}:
            sides = [evaluate(side, values) for side in (left, *others)]
            return all(OPERATORS[type(op)](*pair) for op, *pair in zip(ops, sides, sides[1:], strict=False))
    raise ValueError(f"'{ast.unparse(node)}' is not numbers, names, + - * / // % **, comparisons, and, or")


def check_parameter(name: str, given: Any) -> dict[str, Any]:
    """A parameter as given, its scale as a number, the ends of its line, and whether it is an integer."""
    keys = ("distribution", "min", "max", "mean")
    require(isinstance(given, dict) and {*keys} <= {*given} <= {*keys, "scale"},
            f"{name}: needs {', '.join(keys)}, may have scale, and was given {given!r}")
    kind, low, high, mean = (given[key] for key in keys)
    require(str(kind) in DISTRIBUTIONS,
            f"{name}: unknown distribution {kind!r}; there are {', '.join(DISTRIBUTIONS)}")
    to_line, _, fits, words = DISTRIBUTIONS[kind]
    for key in keys[1:]:
        require(is_number(given[key]) and fits(given[key]),
                f"{name}: {key} {given[key]!r} is not {words}, as {kind} needs")
    whole = kind in ("int_uniform", "uniform_pow2")
    low, high, mean = (int(x) if whole else x for x in (low, high, mean))
    whole |= kind == "log_normal" and all(isinstance(x, int | np.integer) for x in (low, high, mean))
    require(to_line(low) < to_line(high), f"{name}: min {low} is not below max {high}")
    require(low <= mean <= high, f"{name}: mean {mean}, the centre, is not between min {low} and max {high}")
    scale = given.get("scale", "auto")
    scale = {"auto": 1.0, "time": 1 / max(1, math.log2(high / low)) if low > 0 else 0}.get(str(scale), scale)
    require(is_number(scale) and scale > 0, f"{name}: scale {scale!r} is not auto, time or above 0")
    return {"distribution": kind, "min": low, "max": high, "mean": mean, "scale": scale, "whole": whole,
            "ends": (to_line(low), to_line(high))}


class Space:
    """How each parameter maps to [-1, 1], and which combinations are allowed.

    parameters, constraints and constants are those of a space file (see the top of this file), as plain dicts
    and a list. Constraints with unknown names are `dropped`. Raises ValueError, one line, for what is wrong.
    """

    def __init__(self, parameters: dict, constraints: Sequence[str] = (), constants: dict | None = None):
        require(isinstance(constraints, list | tuple), f"constraints must be a list, not {constraints!r}")
        self.constants = {} if constants is None else constants
        require(isinstance(self.constants, dict) and all(map(is_number, self.constants.values())),
                f"constants must be numbers by name, not {constants!r}")
        require(isinstance(parameters, dict) and parameters, "the space has no parameter to search")
        self.parameters = {name: check_parameter(name, given) for name, given in parameters.items()}
        self.names = list(self.parameters)
        self.scale = np.array([p["scale"] for p in self.parameters.values()])  # [dimensions]
        self.centre = self.to_unit({name: p["mean"] for name, p in self.parameters.items()})  # [dimensions]
        self.constraints: list[tuple[ast.AST, set[str]]] = []  # and the names in each
        self.dropped: list[str] = []
        for text in constraints:
            try:
                node = ast.parse(text, mode="eval").body
            except (SyntaxError, TypeError, ValueError):
                raise ValueError(f"constraint {text!r} is no expression such as 'a <= b * c'") from None
            names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
            if names <= {*self.names, *self.constants}:
                self.constraints.append((node, names))
            else:
                self.dropped.append(text)
        for node, _ in self.broken(self.rounded(self.centre)):
            raise ValueError(f"constraint '{ast.unparse(node)}' does not hold at the centre")

    def to_unit(self, params: dict[str, Any]) -> np.ndarray:
        """Parameters to [dimensions] in [-1, 1]; a value outside its bounds counts as the bound."""
        unit = []
        for name, p in self.parameters.items():
            require(is_number(value := params.get(name)), f"{name}: {value!r} is not a finite number")
            line = DISTRIBUTIONS[p["distribution"]][0](min(max(value, p["min"]), p["max"]))
            unit.append(2 * (line - p["ends"][0]) / (p["ends"][1] - p["ends"][0]) - 1)
        return np.clip(unit, -1.0, 1.0)

    def from_unit(self, unit: np.ndarray) -> dict[str, Any]:
        """[dimensions] in [-1, 1] to parameters: plain numbers, rounded, in their bounds. Where they break a
        constraint, those it names are moved towards the centre, just until all constraints hold."""
        unit = np.clip(np.asarray(unit, float), -1.0, 1.0)
        params, moves = self.rounded(unit), np.zeros(len(self.names), bool)
        while broken := self.broken(params):  # moving some may break others; at the centre nothing is broken
            moves |= [any(name in names for _, names in broken) for name in self.names]
            params = self.rounded(np.where(moves, self.centre, unit))
        low, high = 0.0, 1.0  # bisection for how far they move; at `high` all hold
        while moves.any() and high - low > 1e-6:
            middle = (low + high) / 2
            nearer = self.rounded(unit + middle * moves * (self.centre - unit))
            low, high, params = (middle, high, params) if self.broken(nearer) else (low, middle, nearer)
        return params

    def rounded(self, unit: np.ndarray) -> dict[str, Any]:
        """As from_unit, whatever the constraints say."""
        params = {}
        for (name, p), x in zip(self.parameters.items(), unit.tolist(), strict=True):
            line = p["ends"][0] + (x + 1) / 2 * (p["ends"][1] - p["ends"][0])
            value = DISTRIBUTIONS[p["distribution"]][1](line)
            value = round(value) if p["whole"] else float(f"{value:.8g}")
            params[name] = min(max(value, p["min"]), p["max"])
        return params

    def snap(self, points: np.ndarray) -> np.ndarray:
        """Points [..., dimensions] moved to where the nearest values of whole parameters are."""
        points = points.copy()
        for at, p in enumerate(self.parameters.values()):
            if p["whole"]:
                low, high = p["ends"]
                line = low + (points[..., at] + 1) / 2 * (high - low)
                logarithmic = p["distribution"] == "log_normal"
                line = np.log(np.rint(np.exp(line))) if logarithmic else np.rint(line)
                points[..., at] = np.clip(2 * (line - low) / (high - low) - 1, -1, 1)
        return points

    def broken(self, params: dict[str, Any]) -> list[tuple[ast.AST, set[str]]]:
        """The constraints that do not hold."""
        with np.errstate(all="ignore"):
            return [c for c in self.constraints if not evaluate(c[0], self.constants | params)]

    def edges(self, params: dict[str, Any]) -> list[str]:
        """Where values sit at the edge of their range, unless it is an end by nature: 0 below, 1 above."""
        found = []
        for (name, p), x in zip(self.parameters.items(), self.to_unit(params), strict=True):
            side = "max" if x > 0 else "min"
            if abs(x) > 0.9 and (side, p[side]) not in (("min", 0), ("max", 1)):
                below = ", below 1" if p["distribution"] == "logit_normal" else ""
                found.append(f"{name} at the edge of its range, {side} {p[side]}: widen it{below}")
        return found


def read(env: str | None, file: str | None, only: str | None, ranges: str | None, fixed: dict) -> dict:
    """The space, constraints and constants of a space file, or of those of this folder for `env`.

    only     the names to search, with commas between them
    ranges   name=min:max, name=min:mean:max or name=mean, with commas between them
    fixed    values that the program is given; numbers among them become constants, and so do the means of
             what is left out by `only`, as what the program takes by itself
    Raises ValueError, OSError.
    """
    require(env or file, "--env NAME or --space FILE must say what is searched")
    folder = Path(__file__).parent
    files = [Path(file)] if file else [folder / "default.toml", folder / f"{env}.toml"]
    require(files[0].is_file(), f"--space: there is no file {file}")
    space: dict[str, Any] = {"constraints": [], "constants": {}}
    for path in filter(Path.is_file, files):
        try:
            for name, given in tomllib.loads(path.read_text()).items():
                space[name] = (space.get(name) or {}) | given if isinstance(given, dict) else given
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None
    constraints, constants = space.pop("constraints"), space.pop("constants")
    require(isinstance(constants, dict), f"constants must be numbers by name, not {constants!r}")
    chosen = only.split(",") if only else list(space)
    changes = dict(text.partition("=")[::2] for text in (ranges.split(",") if ranges else ()))
    for name in (*chosen, *changes):
        require(name in space, f"--only, --range: {name!r} is not in the space: {', '.join(space)}")
    for name in changes:
        require(name in chosen and name not in fixed, f"--range: {name} is not searched")
    for name, text in changes.items():
        values = [parse_value(value) for value in text.split(":")]
        if check_parameter(name, space[name])["whole"]:  # 1e6 is an integer where integers stand
            values = [int(x) if is_number(x) and x == int(x) else x for x in values]
        keys = {1: ("mean",), 2: ("min", "max"), 3: ("min", "mean", "max")}.get(len(values))
        require(keys, f"--range {name}={text}: it is min:max, min:mean:max or mean")
        space[name] |= dict(zip(keys, values, strict=True))
    still = {name: given["mean"] for name, given in space.items() if name not in chosen and "mean" in given}
    values = {name: value for name, value in (still | fixed).items() if is_number(value)}
    known = {*space, *still, *fixed, *constants, "memory"}
    for text in constraints if isinstance(constraints, list) else ():
        with suppress(SyntaxError, TypeError):  # which Space names
            names = {node.id for node in ast.walk(ast.parse(text, mode="eval")) if isinstance(node, ast.Name)}
            unknown = ", ".join(sorted(names - known))
            require(not unknown, f"constraint {text!r}: {unknown} is no parameter, nor fixed, nor a constant")
    return {"space": {name: space[name] for name in chosen if name not in fixed}, "constraints": constraints,
            "constants": constants | values}
