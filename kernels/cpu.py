"""Fast bodies of readable functions, in C, for processors: advantages, Muon, the LSTM, the network round it.

Tests hold each to its readable version: `advantages_reference`, `Muon.step` and `Policy` with
`Trainer.gradients` and `Trainer.play` in cleanpuffer.py, and `lstm_reference` here. Whoever edits these
need not edit this: a trainer compares advantages, `MuonStep` and `Network` with them before it uses these,
and plays in C only if `play` is written as it was when it was put into C. Without a compiler torch does all.
"""

import ctypes
import hashlib
import inspect
import math
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete
from torch import Tensor, nn

import build
from trackers import say

State = tuple[Tensor, Tensor]  # of an LSTM: h and c, each [rows, hidden]
LANES = 4  # sums of gradients that threads add to side by side, which takes a third of a thread's time
POINTERS = {torch.int64: "int64_t *", torch.float64: "double *"}
POINTERS |= dict.fromkeys((torch.uint8, torch.bool), "uint8_t *")
ROLLOUT = "d676367c9ac020a7"  # the fingerprint of the functions that `Network.rollout` stands for


def keep_freed_memory() -> None:
    """Has glibc keep what large tensors leave for the next ones. To get fresh pages from the system instead
    took a third of the time of an update with shards of 8,192 steps."""
    with suppress(AttributeError, OSError):  # other libraries have no such settings
        libc = ctypes.CDLL(None)
        for setting, size in ((-1, 2**30), (-2, 2**26), (-3, 2**25)):  # trim, top pad, mmap threshold
            libc.mallopt(setting, size)


def load_advantages() -> Callable[..., tuple[Tensor, Tensor]]:
    """`advantages_reference` in C, for contiguous CPU tensors; terminals and truncations are bytes."""
    module = build.load("advantage", """
        typedef struct { float gamma, gae_lambda, rho_clip, c_clip; } AdvantageSettings;
        void advantages(int segments, int horizon, const float *rewards, const float *values,
                        const float *bootstraps, const uint8_t *terminals, const uint8_t *truncations,
                        const float *ratios, AdvantageSettings, float *targets, float *advantages);""")
    ffi, kinds = module.ffi, ("float *",) * 3 + ("uint8_t *",) * 2 + ("float *",) * 3

    def advantages_c(*arguments: Any) -> tuple[Tensor, Tensor]:
        values, settings = arguments[1], ffi.new("AdvantageSettings *", arguments[6:])[0]
        outputs = torch.empty_like(values), torch.empty_like(values)
        tensors = zip(kinds, (*arguments[:6], *outputs), strict=True)
        pointers = [ffi.cast(kind, x.data_ptr()) for kind, x in tensors]
        module.lib.advantages(*values.shape, *pointers[:6], settings, *pointers[6:])
        return outputs

    return advantages_c


def trusted(fast: Callable, reference: Callable, trainer: Any) -> Callable:
    """Of two functions for advantages the fast one where, on made-up segments, it gives what the reference
    gives, which people edit; else the reference."""
    if fast is reference:
        return fast
    generator, shape = torch.Generator().manual_seed(0), (8, min(256, trainer.args.horizon))
    numbers = torch.randn(4, *shape, generator=generator)
    ends = torch.rand(shape, generator=generator)
    segments = *numbers[:3], (ends < 0.1).byte(), (ends > 0.9).byte(), numbers[3].exp()
    segments = [x.to(trainer.device) for x in segments]
    try:
        pairs = zip(*(each(*segments, 0.97, 0.9, 1.2, 0.8) for each in (fast, reference)), strict=True)
        same = all((a - b).abs().max() <= 1e-4 * b.abs().max() for a, b in pairs)
    except (RuntimeError, ValueError, TypeError):  # of one that works otherwise
        same = False
    if not same:
        say("advantages_reference() is not what the kernel computes: it runs as written, more slowly")
    return fast if same else reference


class MuonStep:
    """`Muon.step` in C: one call, where torch takes longer to begin its many than to do them, and one for
    each matrix whose sides are both 64 or more; parallel is a `map` for these."""

    def __init__(self, module: Any, parallel: Callable):
        self.module, self.parallel, self.made, self.calls = module, parallel, None, []

    @torch.no_grad()
    def __call__(self, muon: Any) -> None:
        muon.steps += 1
        moved, made = [], [muon.dtype]  # and whatever else decides what C is told
        for group, moments in zip(muon.param_groups, muon.moments, strict=True):
            numbers = float(group["lr"]), group["beta1"], group["beta2"], group["eps"]
            for p, *state in zip(group["params"], *moments, strict=True):
                tensors = p, p.grad.contiguous(), *state  # kept for C, copies too
                moved.append((group["adam"], numbers, tensors))
                made += [group["adam"], numbers, p.shape, *(x.data_ptr() for x in tensors)]
        if made != self.made:
            self.made, self.calls = made, self.cut(moved, muon.dtype == torch.bfloat16)
        steps = int(muon.steps)
        list(self.parallel(lambda call: self.module.lib.muon_step(*call, steps), self.calls))
        torch.autograd.graph.increment_version([tensors[0] for _, _, tensors in moved])

    def cut(self, moved: list, bfloat16: bool) -> list:
        """What each call moves: how many parameters, and C's array of them."""
        small, large = [], []
        bfloat16 = bfloat16 and bool(self.module.lib.lstm_has_bfloat16())
        for adam, numbers, (p, *tensors) in moved:
            rows, columns = (p.numel(), 1) if adam else p.flatten(1).shape
            wide = min(rows, columns) >= 64 and not adam
            pointers = [pointer_to(self.module.ffi, x) for x in (p, *tensors, *([] if adam else [None]))]
            (large if wide else small).append((rows, columns, wide and bfloat16, *numbers, *pointers))
        parts = [[one] for one in large] + ([small] if small else [])
        return [(len(part), self.module.ffi.new("Moved[]", part)) for part in parts]


def load_muon_step(muon: Any, parallel: Callable = map) -> Callable[[Any], None] | None:
    """`MuonStep`, or None where parameters are not contiguous float32 ones, or the optimizer has been edited
    and moves them otherwise."""
    if any(p.dtype != torch.float32 or not p.is_contiguous() for g in muon.param_groups for p in g["params"]):
        return None
    library = build.load("network", DECLARATIONS)
    step_in_c = MuonStep(library, parallel)
    generator, same = torch.Generator().manual_seed(0), True
    try:
        settings = {name: muon.param_groups[0][name] for name in ("beta1", "beta2", "eps")}
        for adam in (False, True):
            shapes = (7,), (24, 5), (5, 24), (2, 3, 4), (64, 80)
            first = [torch.randn(shape, generator=generator) for shape in shapes]
            steps = [[g * torch.randn(p.shape, generator=generator) for p in first] for g in (1e3, 0.1, 1, 0)]
            ends = []
            for step in (type(muon).step, step_in_c):
                parameters = [p.clone() for p in first]
                parameters[1].lr_factor = 0.5
                made_up = type(muon)(parameters, 0.1, adam=adam, **settings)
                for gradients in steps:
                    for p, gradient in zip(parameters, gradients, strict=True):
                        p.grad = gradient
                    step(made_up)
                ends.append(parameters)
            same &= all((a - b).abs().max() < 1e-5 for a, b in zip(*ends, strict=True))
        for shape in {p.flatten(1).shape for g in muon.param_groups if not g["adam"] for p in g["params"]}:
            same &= min(shape) < 64 or orthogonalizes(library, muon, torch.randn(shape, generator=generator))
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError):  # of one that works otherwise
        same = False
    if not same:
        say("Muon, or orthogonalize(), is not what is in C: it runs as written, more slowly")
    return step_in_c if same else None


def orthogonalizes(library: Any, muon: Any, matrix: Tensor) -> bool:
    """Whether C does to a large matrix what `muon.orthogonalize` does, with the optimizer's precision."""
    x, bfloat16 = matrix.clone(), bool(muon.dtype == torch.bfloat16 and library.lib.lstm_has_bfloat16())
    library.lib.orthogonalize(bfloat16, *x.shape, pointer_to(library.ffi, x))
    rounded = muon.orthogonalize(matrix.unsqueeze(0), dtype=muon.dtype)[0]
    if bfloat16 and rounded.equal(muon.orthogonalize(matrix.unsqueeze(0))[0]):
        return False  # which takes no notice of the precision
    return bool((x - rounded).norm() <= (0.05 if bfloat16 else 1e-3) * rounded.norm())


def has_bfloat16() -> bool:
    """Whether the processor multiplies pairs of bfloat16, and there is a compiler."""
    return build.has_compiler() and bool(build.load("network", DECLARATIONS).lib.lstm_has_bfloat16())


def lstm_reference(x: Tensor, state: State, weights: Tensor, bias: Tensor) -> tuple[Tensor, State]:
    """An LSTM (Hochreiter and Schmidhuber 1997; Gers et al. 2000) over x [segments, horizon, inputs] from
    `state`, to h [segments, horizon, hidden] and the last state.

        i, f, g, o = σ, σ, tanh, σ of W (x_t, h_{t-1}) + b        W [4 hidden, inputs + hidden], b [4 hidden]
        c_t = f c_{t-1} + i g                                     h_t = o tanh(c_t)
    """
    (h, c), outputs = state, []
    for t in range(x.shape[1]):
        i, f, g, o = (torch.cat((x[:, t], h), 1) @ weights.T + bias).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outputs.append(h)
    return torch.stack(outputs, 1), (h, c)


def pointer_to(ffi: Any, x: Any) -> Any:
    """C's pointer to a tensor's numbers, a null pointer for None, and what else there is as it is."""
    if isinstance(x, Tensor):
        return ffi.cast(POINTERS.get(x.dtype, "float *"), x.data_ptr())
    return ffi.NULL if x is None else x


class Kernel:
    """What calls C: weights of modules in the orders that C wants, made anew when they have changed."""

    def __init__(self, modules: list[nn.Module], bfloat16: bool):
        self.parameters = [p for module in modules for p in module.parameters()]
        self.bfloat16, self.versions = bfloat16, None
        library = build.load("network", DECLARATIONS)
        self.ffi, self.lib = library.ffi, library.lib

    def weights(self, anew: bool = False) -> tuple[Tensor, ...]:
        """Those arranged last, if the modules' own have no newer version since; `anew` whatever they have, as
        changes through `.data` are not counted."""
        versions = [(p.data_ptr(), p._version) for p in self.parameters]
        if anew or versions != self.versions:
            with torch.no_grad():
                self.arranged = self.arrange(*(p.contiguous() for p in self.parameters))
                self.versions = versions
        return self.arranged

    def call(self, name: str, *arguments: Any) -> None:
        """A C function with pointers where tensors are, and a null pointer where None is."""
        getattr(self.lib, name)(*map(self.pointer, arguments))  # which keep the tensors alive

    def pointer(self, x: Any) -> Any:
        return pointer_to(self.ffi, x)

    def __call__(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """What is computed from x [segments, horizon, …] and the state before it, and the last state."""
        if torch.is_grad_enabled():
            output, *state = Gradients.apply(self, x, *state, *self.parameters)
            return output, tuple(state)
        return self.forward(x, state, keep=False)[:2]


class Gradients(torch.autograd.Function):
    """A kernel as a part of torch's graph."""

    @staticmethod
    def forward(ctx: Any, kernel: Kernel, x: Tensor, h: Tensor, c: Tensor, *parameters: Tensor) -> tuple:
        output, state, ctx.kept = kernel.forward(x, (h, c), keep=True)
        ctx.kernel = kernel
        return output, *state

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple:
        return None, *ctx.kernel.backward(*gradients, *ctx.kept)


class LSTM(Kernel):
    """`lstm_reference` in C with the weights of an nn.LSTM, for float32 tensors of a CPU; sizes are multiples
    of 16. With `bfloat16` the factors of products are rounded to it; sums are float32."""

    def __init__(self, module: nn.LSTM, bfloat16: bool = False):
        super().__init__([module], bfloat16)
        self.inputs, self.hidden = module.input_size, module.hidden_size

    def sizes(self, rows: int, horizon: int) -> Any:
        return self.ffi.new("LstmSizes *", (rows, horizon, self.inputs, self.hidden, self.bfloat16))

    def arrange(self, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> tuple[Tensor, Tensor]:
        """The weights for lstm_forward and for lstm_backward."""
        packed, weights = self.room()
        self.call("lstm_arrange", self.sizes(0, 0), w_ih, w_hh, b_ih, b_hh, packed, weights)
        return packed, weights

    def room(self) -> tuple[Tensor, Tensor]:
        """For what lstm_arrange gives."""
        rows, wide = 4 * self.hidden, self.inputs + self.hidden
        return torch.empty(rows * (wide + 1)), torch.empty(rows // (1 + self.bfloat16), wide)

    def forward(self, x: Tensor, state: State, keep: bool) -> tuple:
        x, h_first, c_first = x.transpose(0, 1).contiguous(), *(part.contiguous() for part in state)
        horizon, rows = x.shape[:2]
        c, h = torch.empty(2, horizon, rows, self.hidden)
        pairs = (rows + 1) // 2 if self.bfloat16 else rows  # operands, where they are summed over rows
        gates = torch.empty(horizon, pairs * (1 + self.bfloat16), 4 * self.hidden) if keep else None
        wide = self.inputs + self.hidden
        z = torch.empty(horizon, pairs, wide) if keep or not self.bfloat16 else None
        packed, weights = self.weights(anew=keep)
        self.call("lstm_forward", self.sizes(rows, horizon), x, h_first, c_first, packed, z,
                  torch.empty(rows, wide), gates, c, h)
        return h.transpose(0, 1), (h[-1], c[-1]), (weights, c_first, z, gates, c)

    def backward(self, dh: Tensor, dh_last: Tensor, dc_last: Tensor, weights: Tensor, c_first: Tensor,
                 z: Tensor, gates: Tensor, c: Tensor) -> tuple:
        """From gradients by what `forward` gave, those by x, the first state and the parameters."""
        (rows, horizon), wide = dh.shape[:2], z.shape[2]
        gates = gates.clone()  # which C overwrites; retain_graph asks for them again
        dh, dc = dh.transpose(0, 1).clone(memory_format=torch.contiguous_format), dc_last.contiguous().clone()
        dh[-1] += dh_last
        dz = torch.empty(horizon, rows, wide)
        dweights, dbias = torch.zeros(4 * self.hidden, wide), torch.zeros(4 * self.hidden)
        self.call("lstm_backward", self.sizes(rows, horizon), c_first, weights, z, c, dh, gates,
                  torch.empty(rows, 4 * self.hidden), dc, dz, dweights, dbias)
        dx, dh_first = dz[..., : self.inputs].transpose(0, 1), dz[0, :, self.inputs :]
        return dx, dh_first, dc, dweights[:, : self.inputs], dweights[:, self.inputs :], dbias, dbias


class Network(Kernel):
    """A policy's linear encoder, LSTM and heads in C, with the drawing of discrete actions and the gradients
    of PPO's loss: a call for each, in which other threads need not wait for Python."""

    def __init__(self, policy: Any, bfloat16: bool = False):
        super().__init__([policy.encoder, policy.lstm, policy.actor, policy.critic], bfloat16)
        self.policy, self.lstm = policy, LSTM(policy.lstm, bfloat16)
        self.numbers, columns = policy.encoder.in_features, -(-(policy.outputs + 1) // 16) * 16
        hidden = self.lstm.hidden
        tensors = [torch.empty(1 + self.numbers, hidden), *self.lstm.room()]
        tensors += [torch.empty(1 + hidden, columns), torch.empty(columns, hidden)]
        mask, masks = policy.action_mask, policy.outputs if policy.action_mask else 0
        sizes = (self.numbers, hidden, hidden, policy.outputs, columns, mask.start or 0 if mask else 0)
        pointers = [self.pointer(x) for x in tensors]
        self.arranged = self.ffi.new("Network *", (*sizes, masks, bfloat16, 0, 0, *pointers)), tensors
        self.places, self.c_parameters = [], None

    def arrange(self, *parameters: Tensor) -> tuple[Any, list[Tensor]]:
        """C's Network and the tensors that it points to, always the same ones. Matrices are [1 + inputs,
        outputs], the bias first, and actor and critic are columns of one."""
        places = [p.data_ptr() for p in parameters]
        if places != self.places:
            self.c_parameters = self.ffi.new("Parameters *", [self.pointer(p) for p in parameters])
            self.places = places
        network, policy = self.arranged[0], self.policy
        network.scale, network.head_factor = policy.scale, policy.head_factor
        self.lib.network_arrange(network, self.c_parameters)
        return self.arranged

    def play(self, observations: Tensor, state: State, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, State]:
        """As `Policy.play`."""
        rows, (network, _) = len(noise), self.weights()
        h, c = torch.empty(rows, self.lstm.hidden), torch.empty(rows, self.lstm.hidden)
        drawn, logprobs, values = torch.empty(rows, dtype=torch.int64), torch.empty(rows), torch.empty(rows)
        tensors = [x.float().contiguous() for x in (observations, noise, *state)]
        self.call("network_play", network, rows, *tensors, h, c, drawn, logprobs, values)
        return drawn, logprobs, values, (h, c)

    def rollout(self, env: Any, group: int, s: Any, state: State, noise: Tensor,
                profile: Any) -> tuple[State, list]:
        """As `Trainer.play`, for a group of a VecEnv and into the segments s, where `plays` allows it: a call
        of C up to each step that cuts episodes."""
        rows, horizon, cuts, (network, _) = env.rows(group), len(noise), [], self.weights()
        states = [tuple(part.clone() for part in state), tuple(map(torch.empty_like, state))]
        names = "observations", "actions", "rewards", "terminals", "truncations"
        there = {name: torch.from_numpy(getattr(env, name)[rows]) for name in names}
        into = {f"to_{name}": getattr(s, name)[rows] for name in (*names, "logprobs", "values")}
        tensors = there | into | {"noise": noise[:, rows].float().contiguous()}
        tensors |= dict(zip(("h", "c", "h_next", "c_next"), (*states[0], *states[1]), strict=True))
        of = self.ffi.new("Rollout *", {name: self.pointer(x) for name, x in tensors.items()})
        of.rows, of.horizon, of.int8 = rows.stop - rows.start, horizon, env.observations.dtype == np.int8
        step, of.vec, of.start, of.end = env.c_step(group)
        of.vec_step = self.ffi.cast("int(*)(void *, int, int)", step)
        while of.step < horizon:
            with profile("rollout forward"):
                cut = self.lib.network_rollout(network, of)
            if cut:
                [index] = there["truncations"].nonzero(as_tuple=True)
                times, (h, c) = torch.full_like(index, of.step - 1), states[of.step % 2]
                last = torch.from_numpy(env.final_observations[rows])[index]
                cuts.append((index + rows.start, times, last, h[index], c[index]))
        profile.seconds["rollout forward"] -= of.seconds
        profile.seconds["rollout environment"] += of.seconds
        return states[horizon % 2], cuts

    def gradients(self, s: Any, old_values: Tensor, index: Tensor, advantages: Tensor, targets: Tensor,
                  args: Any, count: int, shard: int, parallel: Callable) -> tuple:
        """As `Trainer.gradients`, of the segments s, by a thread for each shard of so many, as far as there
        are threads. What was drawn more than once is computed once, and counts so often."""
        (network, _), draws, horizon = self.weights(anew=True), *advantages.shape
        observations, seen = s.observations, index
        if observations.dtype not in (torch.float32, torch.int8):  # which C takes from their place
            observations, seen = observations[index].float(), torch.arange(draws)
        tensors = [index, seen, s.actions, observations, advantages, targets, s.logprobs]
        tensors = [x.contiguous() for x in (*tensors, old_values, s.valid, s.h, s.c)]
        results, which = torch.empty(2, draws, horizon), torch.empty(3 * draws, dtype=torch.int64)
        sums, stats = torch.empty(LANES * self.lib.size_of_sums(network)), self.ffi.new("double[]", 5 * draws)
        gradient, losses = torch.empty(self.lib.network_size(network)), torch.empty(5)
        values, draw = self.pointer(results), self.pointer(which)
        pointers = [*map(self.pointer, tensors), values, values + draws * horizon]
        pointers += [draw, draw + draws, draw + 2 * draws]
        coefficients = args.clip_coef, args.vf_coef, args.vf_clip_coef, args.ent_coef, count
        sizes = draws, horizon, 0, observations.dtype == torch.int8, len(s.h)
        samples = self.ffi.new("Samples *", (*sizes, *pointers, *coefficients))
        if not self.lib.network_draws(samples):
            raise IndexError(f"there are segments 0 to {len(s.h) - 1}")
        progress = self.ffi.new("int[]", 2 * LANES)
        work = network, samples, LANES, progress, self.pointer(sums), stats
        threads = min(args.num_threads, -(-samples.rows // shard))
        parallel(lambda _: self.lib.network_gradients(*work), range(threads))
        self.lib.network_collect(*work, self.pointer(gradient), self.pointer(losses))
        return gradient, losses, *results


def speed_up(policy: Any, bfloat16: bool) -> None:
    """Gives a `Policy` the LSTM in C and, where all of it is of those kinds, the network. ValueError if the
    processor has no products of bfloat16."""
    lstm = getattr(policy, "lstm", None)
    if type(lstm) is not nn.LSTM or lstm.input_size % 16 or lstm.hidden_size % 16:
        return
    if lstm.num_layers > 1 or lstm.bidirectional or lstm.proj_size or not lstm.bias:
        return
    policy.kernel = LSTM(lstm, bfloat16)
    if bfloat16 and not policy.kernel.lib.lstm_has_bfloat16():
        raise ValueError("bfloat16 needs a processor with AVX512_BF16, or a GPU; float32 works here")
    layers = [getattr(policy, name, None) for name in ("encoder", "actor", "critic")]
    linear = all(type(layer) is nn.Linear and layer.bias is not None for layer in layers)
    if linear and not policy.continuous and policy.table is None and policy.normalizer is None:
        policy.network = Network(policy, bfloat16)


def plays(trainer: Any, play: Callable) -> bool:
    """Whether `Network.rollout` does for a trainer what `Trainer.play`, handed in, says. Trying would not
    tell, as what people change shows late: that, and what it calls at every step, must be written as they
    were for this and not be replaced, and the numbers must lie as C takes them."""
    from envs.vector import VecEnv

    env, policy, s = trainer.env, trainer.policy, trainer.segments
    if type(env) is not VecEnv or env.num_threads > 1 or env.copy:
        return False
    if vars(trainer).keys() & {"play", "play_step"} or type(trainer).play is not play:
        return False
    if vars(env).keys() & {"step", "_write_actions", "_result"} or vars(policy).keys() & {"play", "actions"}:
        return False
    called = type(trainer).play_step, type(policy).play, type(policy).actions
    called += VecEnv.step, VecEnv._write_actions, VecEnv._result
    if fingerprint(play, *called) != ROLLOUT or env.observations.dtype.name not in ("float32", "int8"):
        return False
    kinds = dict.fromkeys(("rewards", "logprobs", "values", "h", "c"), torch.float32)
    kinds |= dict.fromkeys(("terminals", "truncations"), torch.uint8) | {"actions": torch.int64}
    kinds |= {"observations": getattr(torch, env.observations.dtype.name)}
    there = [(getattr(s, name), kind) for name, kind in kinds.items()]
    fit = all(x.dtype == kind and x.is_contiguous() for x, kind in there)
    return fit and env.single_action_space == Discrete(policy.outputs)


@cache
def fingerprint(*functions: Callable) -> str:
    """Of their text; of functions that are wrapped, or whose text is not to be had, none."""
    try:
        if any(hasattr(function, "__wrapped__") for function in functions):
            return ""
        text = "".join(map(inspect.getsource, functions))
    except (OSError, TypeError):
        return ""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def network_agrees(trainer: Any) -> bool:
    """Whether the network in C does what `Policy` and `Trainer.gradients`, which people edit, say: on made-up
    segments, in the middle of the run, with the first weights and with ones that are farther and farther off.

    Both compute in float32, which differs by 1e-5 at most. Ratios and values keep away from where a loss has
    its kinks, as rounding would decide there; beyond them are some on either side.
    """
    policy, args, space = trainer.policy, trainer.args, trainer.env.single_observation_space
    kept = trainer.segments, trainer.steps, trainer.updates, policy.kernel, policy.network
    parameters, generator = list(policy.parameters()), torch.Generator().manual_seed(0)
    first, sizes = [p.detach().clone() for p in parameters], [p.numel() for p in parameters]
    rows, horizon = 64, 4

    def pick(*distances: float) -> Tensor:
        choices = torch.tensor(distances + tuple(-x for x in distances))
        return choices[torch.randint(len(choices), (rows, horizon), generator=generator)]

    try:
        s = trainer.segments = type(trainer.segments)(rows, horizon, space, policy, "cpu")
        trainer.steps, trainer.updates = args.total_timesteps // 2, 1000
        policy.kernel, network = LSTM(policy.lstm), Network(policy)
        limit = 4 / policy.scale  # of what has no bounds
        low, high = (torch.tensor(x).double().clamp(-limit, limit) for x in (space.low, space.high))
        observations, zero = torch.rand(2, *s.observations.shape, generator=generator)
        observations = (low + (high - low) * observations) * (zero > 0.3)
        s.observations.copy_(observations if s.observations.is_floating_point() else observations.round())
        if policy.action_mask:  # an action is legal
            s.observations.flatten(2)[..., policy.action_mask][..., 0] = 1
        s.h, s.c = torch.randn(2, rows, policy.hidden_size, generator=generator)
        for x in (s.rewards, s.bootstraps, s.values, s.ratios):  # which a loss of one's own may look at
            x.copy_(torch.randn(x.shape, generator=generator))
        for x in (s.terminals, s.truncations):
            x.copy_(torch.rand(x.shape, generator=generator) > 0.8)
        s.valid.copy_(torch.rand(rows, horizon, generator=generator) > 0.2)
        clip, reach = math.log1p(max(args.clip_coef, 0.1)), args.vf_clip_coef or 0.2
        for spread in (0, 1, 10):
            with torch.no_grad():
                for p, begun in zip(parameters, first, strict=True):
                    change = torch.randn(p.shape, generator=generator) / p.shape[-1] ** 0.5
                    p.copy_(begun + spread * change)
                policy.network = None
                outputs, values = policy(s.observations, (s.h, s.c))
                s.actions = policy.draw(outputs, policy.noise(rows, horizon, generator=generator))
                s.logprobs = policy.logprobs(outputs, s.actions)[0] + pick(0.5 * clip, 3 * clip, 1.5)
                trainer.old_values = values + pick(0.5 * reach, 2 * reach)
                targets = values + pick(0.3 * reach, 4 * reach, 3.1)
            advantages = torch.randn(rows, horizon, generator=generator)
            drawn = torch.randint(rows, (rows,), generator=generator)  # some of them often
            noise = policy.noise(rows, generator=generator)
            results = []
            for policy.network in (None, network):
                *played, (h, c) = policy.play(s.observations[:, 0], (s.h, s.c), noise)
                gradients, *rest = trainer.gradients(drawn, advantages[drawn], targets[drawn], rows * horizon)
                results.append([*played, h, c, *gradients.split(sizes), *rest])
            for a, b in zip(*results, strict=True):
                if not (a.double() - b.double()).norm() <= 1e-3 * a.double().norm() + 1e-6:
                    return False
        return True
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError):  # of other shapes, weights, …
        return False
    finally:
        trainer.segments, trainer.steps, trainer.updates, policy.kernel, policy.network = kept
        with torch.no_grad():
            torch._foreach_copy_(parameters, first)


DECLARATIONS = """
typedef struct { int rows, horizon, inputs, hidden, bfloat16; } LstmSizes;
typedef struct {
    int numbers, inputs, hidden, actions, columns, mask, masks, bfloat16;
    float scale, head_factor;
    float *encoder, *packed, *weights, *head, *head_transposed;
} Network;
typedef struct {
    float *encoder, *encoder_bias, *w_ih, *w_hh, *b_ih, *b_hh;
    float *actor, *actor_bias, *critic, *critic_bias;
} Parameters;
typedef struct {
    int rows, columns, bfloat16;
    double lr, beta1, beta2, eps;
    float *parameter;
    const float *gradient;
    float *momentum, *variance;
} Moved;
typedef struct {
    int rows, horizon, step, start, end, int8;
    const void *observations;
    int64_t *actions;
    const float *rewards;
    const uint8_t *terminals, *truncations;
    void *to_observations;
    int64_t *to_actions;
    float *to_logprobs, *to_values, *to_rewards;
    uint8_t *to_terminals, *to_truncations;
    const float *noise;
    float *h, *c, *h_next, *c_next;
    void *vec;
    int (*vec_step)(void *vec, int start, int end);
    double seconds;
} Rollout;
typedef struct {
    int draws, horizon, rows, int8;
    int64_t segments;
    const int64_t *index, *seen, *actions;
    const void *observations;
    const float *advantages, *targets, *logprobs, *old_values, *valid, *h, *c;
    float *values, *ratios;
    int64_t *draw, *same, *times;
    float clip_coef, vf_coef, vf_clip_coef, ent_coef, count;
} Samples;
int lstm_has_bfloat16(void);
void keep_apart(void);
void leave_core(void);
void lstm_arrange(const LstmSizes *, const float *w_ih, const float *w_hh, const float *b_ih,
                  const float *b_hh, float *packed, float *weights);
void lstm_forward(const LstmSizes *, const float *x, const float *h_first, const float *c_first,
                  const float *packed, float *z, float *scratch, float *gates, float *c, float *h);
void lstm_backward(const LstmSizes *, const float *c_first, const float *weights, const float *z,
                   const float *c, const float *dh, float *gates, float *scratch, float *dc, float *dz,
                   float *dweights, float *dbias);
void network_arrange(const Network *, const Parameters *);
int64_t network_size(const Network *);
void network_play(const Network *, int rows, const float *observations, const float *noise,
                  const float *h_last, const float *c_last, float *h, float *c, int64_t *drawn,
                  float *logprobs, float *values);
int network_rollout(const Network *, Rollout *);
int network_draws(Samples *);
int64_t size_of_sums(const Network *);
void network_gradients(const Network *, const Samples *, int lanes, int *progress, float *sums,
                       double *stats);
void network_collect(const Network *, const Samples *, int lanes, const int *progress, float *sums,
                     const double *stats, float *gradient, float *losses);
void muon_step(int count, const Moved *, int steps);
void orthogonalize(int bfloat16, int rows, int columns, float *x);
"""
