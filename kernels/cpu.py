"""Fast bodies of readable functions, in C, for processors: advantages, the LSTM, and the network round it.

Tests hold each to its readable version: `advantages_reference` and `Policy` with `Trainer.gradients` in
cleanpuffer.py, and `lstm_reference` here. Whoever edits `Policy` or `gradients` need not edit this file: a
trainer compares `Network` with them before it uses it. Without a compiler torch does the same.
"""

import ctypes
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

import build

State = tuple[Tensor, Tensor]  # of an LSTM: h and c, each [rows, hidden]


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


class Kernel:
    """What calls C: weights of modules in the orders that C wants, made anew when they have changed."""

    def __init__(self, modules: list[nn.Module], bfloat16: bool):
        self.parameters = [p for module in modules for p in module.parameters()]
        self.bfloat16, self.versions = bfloat16, None
        library = build.load("lstm", DECLARATIONS)
        self.ffi, self.lib = library.ffi, library.lib

    def weights(self, anew: bool = False) -> tuple[Tensor, ...]:
        """Those arranged last, if the modules' own have no newer version since; `anew` whatever they have, as
        changes through `.data` are not counted."""
        versions = [(p.data_ptr(), p._version) for p in self.parameters]
        if anew or versions != self.versions:
            with torch.no_grad():
                self.arranged, self.versions = self.arrange(*self.parameters), versions
        return self.arranged

    def call(self, name: str, *arguments: Any) -> None:
        """A C function with pointers where tensors are, and a null pointer where None is."""
        kinds = {torch.float32: "float *", torch.int64: "int64_t *"}

        def value(x: Any) -> Any:
            if isinstance(x, Tensor):
                return self.ffi.cast(kinds[x.dtype], x.data_ptr())
            return self.ffi.NULL if x is None else x

        pointers = [value(x) for x in arguments]
        getattr(self.lib, name)(*pointers)  # while `arguments` keeps the tensors alive

    def __call__(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """What is computed from x [segments, horizon, …] and the state before it, and the last state. The
        gradients are those by x and the parameters, not by the state."""
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
        ctx.mark_non_differentiable(*state)
        return output, *state

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple:
        dx, *parameters = ctx.kernel.backward(gradient.contiguous(), *ctx.kept)
        return None, dx, None, None, *parameters


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
        weights, bias = torch.cat((w_ih, w_hh), 1), b_ih + b_hh
        operands, packed = torch.empty_like(weights), torch.empty(weights.numel() + bias.numel())
        self.call("lstm_pack", self.sizes(0, 0), weights, bias, operands, packed)
        if self.bfloat16:
            weights = torch.empty(len(weights) // 2, weights.shape[1])
            self.call("pair_rows", 2 * len(weights), weights.shape[1], operands, weights)
        return packed, weights

    def room(self, rows: int, horizon: int, keep: bool) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """For z (and to pair an odd number of rows of it), gates, c and h."""
        c, h = torch.empty(2, horizon, rows, self.hidden)
        gates = torch.empty(horizon, rows, 4 * self.hidden) if keep else None
        return torch.empty(rows * horizon + 1, self.inputs + self.hidden), gates, c, h

    def gradients(self, rows: int, horizon: int, gates: Tensor) -> tuple[Tensor, ...]:
        """Room for dgates, and dc, dz, dweights and dbias, which begin as zeros."""
        wide, four = self.inputs + self.hidden, 4 * self.hidden
        dgates = torch.empty(rows * horizon + 1, four) if self.bfloat16 else gates
        shapes = (rows, self.hidden), (horizon, rows, wide), (four, wide), (four,)
        return dgates, *map(torch.zeros, shapes)

    def split(self, dweights: Tensor, dbias: Tensor) -> tuple[Tensor, ...]:
        """Gradients of the sums to those of the parameters."""
        return dweights[:, : self.inputs], dweights[:, self.inputs :], dbias, dbias

    def forward(self, x: Tensor, state: State, keep: bool) -> tuple:
        x, h_first, c_first = x.transpose(0, 1).contiguous(), *(part.contiguous() for part in state)
        horizon, rows = x.shape[:2]
        z, gates, c, h = self.room(rows, horizon, keep)
        packed, weights = self.weights(anew=keep)
        self.call("lstm_forward", self.sizes(rows, horizon), x, h_first, c_first, packed, z, gates, c, h)
        return h.transpose(0, 1), (h[-1], c[-1]), (weights, c_first, z, gates, c)

    def backward(self, dh: Tensor, weights: Tensor, c_first: Tensor, z: Tensor, gates: Tensor, c: Tensor):
        shape, dh = dh.shape[:2], dh.transpose(0, 1).contiguous()
        dgates, dc, dz, dweights, dbias = self.gradients(*shape, gates)
        self.call("lstm_backward", self.sizes(*shape), c_first, weights, z, c, dh, gates, dgates, dc, dz,
                  dweights, dbias)
        return dz[..., : self.inputs].transpose(0, 1), *self.split(dweights, dbias)


class Network(Kernel):
    """A policy's linear encoder, LSTM and heads in C, drawing of discrete actions, and the gradients of PPO's
    loss: few long calls, in which threads do not wait for Python. Outputs and values are the columns of one
    matrix, `heads`."""

    def __init__(self, policy: Any, bfloat16: bool = False):
        super().__init__([policy.encoder, policy.lstm, policy.actor, policy.critic], bfloat16)
        self.lstm, self.scale, self.outputs = LSTM(policy.lstm, bfloat16), policy.scale, policy.outputs
        mask = policy.action_mask
        self.mask = (0, 0) if mask is None else (mask.start or 0, policy.outputs)  # its start, its length
        self.numbers, self.columns = policy.encoder.in_features, -(-(policy.outputs + 1) // 16) * 16

    def arrange(self, *parameters: Tensor) -> tuple[Tensor, ...]:
        """Encoder [1 + numbers, hidden] and heads [1 + hidden, columns] with their biases first, the heads'
        weights the other way round, and the LSTM's."""
        encoder = torch.empty(1 + self.numbers, self.lstm.inputs)
        heads = torch.zeros(1 + self.lstm.hidden, self.columns)
        encoder[1:], encoder[0] = parameters[0].T * self.scale, parameters[1]
        heads[1:, : self.outputs], heads[0, : self.outputs] = parameters[6].T, parameters[7]
        heads[1:, self.outputs], heads[0, self.outputs] = parameters[8][0], parameters[9]
        return encoder, heads, heads[1:].T.contiguous(), *self.lstm.weights(anew=True)

    def forward(self, observations: Tensor, state: State, keep: bool) -> tuple:
        rows, horizon = shape = observations.shape[:2]
        observations, h_first, c_first = (x.float().contiguous() for x in (observations, *state))
        encoder, head, transposed, packed, weights = self.weights(anew=keep)
        x, heads = torch.empty(horizon, rows, self.lstm.inputs), torch.empty(*shape, self.columns)
        z, gates, c, h = self.lstm.room(*shape, keep)
        self.call("network_forward", self.lstm.sizes(*shape), self.numbers, self.columns, *self.mask,
                  observations, encoder, packed, head, h_first, c_first, x, z, gates, c, h, heads)
        return heads, (h[-1], c[-1]), (observations, weights, transposed, c_first, x, z, gates, c, h)

    def backward(self, dheads: Tensor, *kept: Tensor) -> tuple:
        shape, gates, h = dheads.shape[:2], kept[6], kept[8]
        dgates, dc, dz, dweights, dbias = self.lstm.gradients(*shape, gates)
        dencoder = torch.zeros(1 + self.numbers, self.lstm.inputs)
        dhead, dh = torch.zeros(1 + self.lstm.hidden, self.columns), torch.zeros_like(h)
        self.call("network_backward", self.lstm.sizes(*shape), self.numbers, self.columns, *kept, dheads,
                  dgates, dh, dc, dz, dencoder, dweights, dbias, dhead)
        actor, critic = dhead[:, : self.outputs], dhead[:, self.outputs]
        return (None, dencoder[1:].T * self.scale, dencoder[0], *self.lstm.split(dweights, dbias),
                actor[1:].T, actor[0], critic[1:].unsqueeze(0), critic[:1])

    @torch.no_grad()
    def gradients(self, observations: Tensor, state: State, *samples: Tensor, args: Any, count: int) -> tuple:
        """What `Trainer.gradients` returns, of samples [segments, horizon]: actions, old logprobs,
        advantages, targets, old values, valid. The loss is divided by `count`."""
        heads, _, kept = self.forward(observations.flatten(2), state, keep=True)
        dheads, ratios = torch.zeros_like(heads), torch.empty(heads.shape[:2])
        stats = self.ffi.new("double[5]")
        coefficients = args.clip_coef, args.vf_coef, args.vf_clip_coef, args.ent_coef
        settings = self.ffi.new("PpoSettings *", (*coefficients, count, self.outputs, self.columns))[0]
        samples = [x.contiguous() for x in samples]
        self.call("ppo", ratios.numel(), settings, heads, *samples, dheads, ratios, stats)
        gradients = self.backward(dheads, *kept)[1:]
        return gradients, torch.tensor([*stats]) / count, heads[..., self.outputs], ratios

    def play(self, observations: Tensor, state: State, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, State]:
        """As `Policy.play`."""
        heads, state, _ = self.forward(observations.flatten(1).unsqueeze(1), state, keep=False)
        drawn, logprobs = torch.empty(len(noise), dtype=torch.int64), torch.empty(len(noise))
        self.call("draw_actions", *noise.shape, self.columns, heads, noise, drawn, logprobs)
        return drawn, logprobs, heads[:, 0, self.outputs], state


def speed_up(policy: Any, bfloat16: bool) -> None:
    """Gives a `Policy` the LSTM in C and, where all of it is of those kinds, the network. ValueError if the
    processor has no products of bfloat16."""
    if policy.lstm is None or policy.hidden_size % 16:
        return
    policy.kernel = LSTM(policy.lstm, bfloat16)
    if bfloat16 and not policy.kernel.lib.lstm_has_bfloat16():
        raise ValueError("bfloat16 needs a processor with AVX512_BF16, or a GPU; float32 works here")
    if isinstance(policy.encoder, nn.Linear) and not policy.continuous and policy.normalizer is None:
        policy.network = Network(policy, bfloat16)


DECLARATIONS = """
typedef struct { int rows, horizon, inputs, hidden, bfloat16; } LstmSizes;
typedef struct {
    float clip_coef, vf_coef, vf_clip_coef, ent_coef, samples;
    int actions, columns;
} PpoSettings;
int lstm_has_bfloat16(void);
void lstm_pack(const LstmSizes *, const float *weights, const float *bias, float *operands, float *packed);
void pair_rows(int64_t rows, int columns, const float *from, float *to);
void lstm_forward(const LstmSizes *, const float *x, const float *h_first, const float *c_first,
                  const float *packed, float *z, float *gates, float *c, float *h);
void lstm_backward(const LstmSizes *, const float *c_first, const float *weights, float *z, const float *c,
                   const float *dh, float *gates, float *dgates, float *dc, float *dz, float *dweights,
                   float *dbias);
void network_forward(const LstmSizes *, int numbers, int columns, int mask, int masks,
                     const float *observations, const float *encoder, const float *packed, const float *head,
                     const float *h_first, const float *c_first, float *x, float *z, float *gates, float *c,
                     float *h, float *heads);
void network_backward(const LstmSizes *, int numbers, int columns, const float *observations,
                      const float *weights, const float *head_transposed, const float *c_first, float *x,
                      float *z, float *gates, const float *c, const float *h, const float *dheads,
                      float *dgates, float *dh, float *dc, float *dz, float *dencoder, float *dweights,
                      float *dbias, float *dhead);
void draw_actions(int rows, int actions, int columns, const float *heads, const float *noise, int64_t *drawn,
                  float *logprobs);
void ppo(int count, PpoSettings, const float *heads, const int64_t *drawn, const float *old_logprobs,
         const float *advantages, const float *targets, const float *old_values, const float *valid,
         float *dheads, float *ratios, double *stats);
"""
