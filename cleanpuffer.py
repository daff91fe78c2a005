"""CleanPuffer: fast reinforcement learning in one file: PPO, LSTM, Muon, prioritised segments, V-trace.

    python cleanpuffer.py --env pong                      train, with a dashboard; the run lands in runs/pong/
    python cleanpuffer.py --watch runs/pong/RUN           watch what it learned
    python cleanpuffer.py --env pong --learning-rate 0.02 --hidden-size 128
    python cleanpuffer.py --help

The map, in the order data moves:

    Args                        every setting, its default and meaning
    Policy                      encoder, LSTM, action and value heads
    Muon                        the optimizer
    advantages_reference        value targets and policy advantages: GAE with V-trace's weights
    Trainer.collect, play       environment rows -> segments [segments, horizon, …]
    Trainer.update, gradients   segments -> minibatches -> gradients -> weights
    train                       the loop: rollout, update, log, checkpoint (trackers.py writes and shows them)
    trained_policy              what a run learned; envs/render.py plays it
    main                        the command line (settings.py reads it)

To read the algorithm, read `Trainer` from `collect` to `gradients`; the rest serves that.
"""

import time

START = time.time()  # `cost` counts from here, imports included

import gc
import os
import signal

gc.disable()  # for the imports: collections would add a quarter to their time
# Idle OpenMP threads sleep: spinning ones collapse beside any other busy process. Set before torch comes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback for an interrupt while starting
    import startup

    startup.import_torch()  # in two thirds of its time

import dataclasses
import importlib.util
import math
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import Tensor, nn

import build
import envs
import policies
import settings
import trackers
from kernels import cpu
from kernels.cpu import State
from trackers import Diverged, Profile, Run, Scores, UsageError, load_policy, load_tensors, say

gc.freeze()
gc.enable()


@dataclasses.dataclass
class Args:
    """Fast reinforcement learning in one file. What is `auto` is chosen for the machine, and printed."""

    env: str = "pong"  # environment; --list shows them
    env_config: dict = dataclasses.field(default_factory=dict)  # its knobs: --env-config.NAME VALUE
    seed: int = 1  # of everything random: weights, environments, actions, sampling
    device: str = "auto"  # cpu, cuda, cuda:1; auto takes a GPU if there is one
    run_dir: str | None = None  # the run folder itself; by default runs/ENV/TIME-ID
    config: str | None = None  # settings from a JSON file: a run's config.json or a flat object
    resume: str | None = None  # go on with the run in this folder
    watch: str | None = None  # show the policy of a run folder play, in a window or in the terminal
    play: bool = False  # play with the keyboard; with --watch RUN its policy plays the other agents
    eval: str | None = None  # play the policy of a run folder without learning, and print its score
    episodes: int | None = None  # how many to --eval (default 100), draw (1), --watch or --play (endless)
    gif: str | None = None  # write what is watched, or the agent just trained, to this .gif or .mp4
    list: bool = False  # list the environments

    total_timesteps: int = 10_000_000  # steps of all agents together; schedules end there
    stop_score: float | None = None  # end, as success, once the score over 100 or more episodes reaches this
    num_envs: int | Literal["auto"] = "auto"  # copies of the environment, over all groups
    num_threads: int | Literal["auto"] = "auto"  # threads in all, for torch and environments
    env_threads: int = 1  # threads that step environments; 1 is the thread that plays
    groups: int | Literal["auto"] = "auto"  # parts of the copies, each played by a thread of its own
    horizon: int = 64  # steps in a segment; what lies further back is not learned through gradients

    minibatch_size: int | Literal["auto"] = "auto"  # steps in a minibatch, a whole number of segments
    update_epochs: float = 1.0  # an update has update_epochs * batch / minibatch_size minibatches
    learning_rate: float = 0.03  # at the start of the schedule
    min_learning_rate: float = 0.0  # at the end of the schedule
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # of the learning rate
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = "auto"  # of the factors of large products
    compile: bool = False  # torch.compile the policy; the network in C, where it can be used, comes first
    cuda_graphs: bool = False  # on a GPU: launch a policy's step, and a minibatch's, as one
    optimizer: Literal["muon", "adam"] = "muon"  # Muon for matrices, or Adam for everything
    beta1: float = 0.9  # momentum of Muon, first moment of Adam
    beta2: float = 0.999  # second moment of Adam
    eps: float = 1e-12  # added to Adam's denominator
    gamma: float = 0.99  # discount
    gae_lambda: float = 0.85  # decay of the traces in advantages and value targets
    rho_clip: float = 1.0  # V-trace: bound of the ratio that weighs a step's own error
    c_clip: float = 1.0  # V-trace: bound of the ratio that carries later errors back
    clip_coef: float = 0.1  # PPO: how far from 1 a ratio may move
    vf_coef: float = 2.0  # weight of the value loss
    vf_clip_coef: float = 0.2  # how far a value may move from the rollout's in one update; 0 is no limit
    ent_coef: float = 0.01  # weight of the entropy bonus
    max_grad_norm: float = 1.5  # a larger gradient is scaled down to this norm; 0 is no limit
    prio_alpha: float = 0.4  # segments are drawn by their sum of |advantage| to this power; 0 is uniformly
    prio_beta0: float = 0.2  # exponent of the weights that correct for it, at the start; it rises to 1
    replay_factor: float = 0.0  # segments of former updates that are kept, as a share of an update's own

    normalize_observations: bool = False  # float observations to mean 0 and variance 1 over the run
    normalize_returns: bool = True  # divide rewards by the root mean square of their discounted sums
    hidden_size: int | Literal["auto"] = "auto"  # width of the network
    recurrent: Literal["lstm", "none"] = "lstm"  # what carries memory from step to step
    policy: str | None = None  # another network, file.py:Class; see docs/policies.md
    mup_base_width: int = 0  # keep learning rates tuned at this width for any --hidden-size (muP); 0 is off
    state_reset: float = 0.02  # share of segments that begin with a zero LSTM state, as a fresh agent does

    log_interval: float = 0.5  # seconds between lines of metrics.jsonl, less at first; scores are of these
    checkpoint_interval: int = 100  # updates between checkpoints
    profile: bool = False  # write a trace of ten updates into the run folder
    track: str | None = None  # send the run to these, by commas or given again: neptune, wandb, tensorboard
    tag: str | None = None  # names that mark it there, likewise


# A checkpoint fixes these; everything else may be changed when a run is resumed.
LAYOUT = ("env", "env_config", "num_envs", "hidden_size", "recurrent", "optimizer", "normalize_observations",
          "policy", "replay_factor")


class Policy(nn.Module):
    """Encoder, LSTM (or a second linear layer), and heads for the actions and the value.

    `step` plays, with the LSTM as a cell; `forward` trains on whole segments, with the fused LSTM on the same
    weights. Both give the same numbers, to rounding. What they give for the actions, `outputs`, are logits of
    discrete ones, one part of an action after the other, and means of continuous ones, which are normal with
    a standard deviation of their own.

    With mup_base_width it learns at any width with the rates that are best at that one. Every Muon step has
    spectral norm lr sqrt(max(1, out / in)): that is right for all widths (Yang, Simon and Bernstein 2023),
    so matrices start with it, too. Only the heads, whose inputs add up the more the wider the network is,
    need a factor: of the root of base / width, as a step of spectral norm 1 moves an output by the norm of
    its inputs; with Adam, whose step moves every weight alike, base / width itself.
    """

    def __init__(self, observation_space: Any, action_space: Any, hidden_size: int, recurrent: str,
                 action_mask: slice | None = None, normalize: bool = False, parts: list | None = None,
                 mup_base_width: int = 0, optimizer: str = "muon"):
        super().__init__()
        self.continuous, self.action_mask = isinstance(action_space, Box), action_mask
        if not isinstance(action_space, Box | Discrete | MultiDiscrete):
            raise UsageError(f"--env: its actions are {action_space}; Discrete, MultiDiscrete and Box can be "
                             "learned, each alone")
        self.hidden_size, self.shape = hidden_size, observation_space.shape
        self.action_shape = tuple(action_space.shape)
        sizes = np.atleast_1d(getattr(action_space, "nvec", getattr(action_space, "n", 0)))  # of its parts
        self.outputs = int(sum(sizes)) or math.prod(self.action_shape)
        # Integers become numbers of the order of one; floats are taken as they come, or normalised.
        integers = np.issubdtype(observation_space.dtype, np.integer)
        low, high = float(observation_space.low.min()), float(observation_space.high.max())
        self.scale = 1 / max(1.0, -low, high) if integers else 1.0
        self.normalizer = policies.Normalizer(self.shape) if normalize and not integers else None
        self.encoder = self.make_encoder(parts)
        self.lstm = nn.LSTM(hidden_size, hidden_size, batch_first=True) if recurrent == "lstm" else None
        self.kernel: cpu.LSTM | None = None  # the same LSTM in C, and the whole network with its gradients:
        self.network: cpu.Network | None = None  # a Trainer puts them here where they can be used
        self.hidden = nn.Linear(hidden_size, hidden_size) if recurrent == "none" else None
        self.actor = nn.Linear(hidden_size, self.outputs)
        self.critic = nn.Linear(hidden_size, 1)
        gains = {"actor": 0.01, "critic": 1.0, "lstm": 1.0}  # actions are nearly uniform at first
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                nn.init.zeros_(parameter)
            else:
                nn.init.orthogonal_(parameter, gains.get(name.split(".")[0], math.sqrt(2)))
        if self.lstm is not None:  # units that remember 1 to 128 steps (after Tallec and Ollivier 2018)
            forget = torch.empty(hidden_size).uniform_(0, math.log(128))
            self.lstm.bias_ih_l0.data[:2 * hidden_size] = torch.cat([-forget, forget])  # input, forget gate
        self.head_factor, ratio = 1.0, hidden_size / (mup_base_width or hidden_size)
        if ratio != 1:
            self.head_factor = ratio ** (-0.5 if optimizer == "muon" else -1)
            for parameter in self.encoder.parameters():
                if parameter.ndim == 2 and len(parameter) == hidden_size:  # of constant fan-in
                    inputs = parameter.shape[1]
                    parameter.data *= math.sqrt(max(hidden_size, inputs) / max(hidden_size / ratio, inputs))
            for name, parameter in self.named_parameters() if optimizer == "adam" else ():
                if name.startswith(("lstm.weight", "hidden.weight")):
                    parameter.lr_factor = 1 / ratio
        if isinstance(action_space, MultiDiscrete):  # where each part's logits stand, and of padding
            table = torch.full((len(sizes), max(sizes)), self.outputs)
            for row, first, size in zip(table, np.cumsum(sizes) - sizes, sizes, strict=True):
                row[:size] = first + torch.arange(size)
            self.register_buffer("table", table, persistent=False)
        else:
            self.table = None
        if self.continuous:  # outputs of -1 and 1 are the ends of a bounded action
            self.log_std = nn.Parameter(torch.zeros(self.outputs))
            self.low, self.high = (torch.from_numpy(x).float() for x in (action_space.low, action_space.high))
            bounded = (self.high - self.low).isfinite()
            self.middle = torch.where(bounded, (self.low + self.high) / 2, 0.0)
            self.half = torch.where(bounded, (self.high - self.low) / 2, 1.0)

    def initial_state(self, rows: int) -> State:
        zeros = torch.zeros(2, rows, self.hidden_size, device=self.critic.weight.device)
        return zeros[0], zeros[1]

    def make_encoder(self, parts: list | None) -> nn.Module:
        """From observations [rows, *shape], or [rows, numbers] for a plain linear layer, to [rows, hidden].
        parts: the shapes of which flat observations are made up, if they are."""
        return policies.make_encoder(self.shape, self.hidden_size, parts)

    def encode(self, observations: Tensor) -> Tensor:
        """Observations [..., *shape] to [..., hidden]."""
        x = observations.float()
        x = x * self.scale if self.scale != 1 else x
        x = x if self.normalizer is None else self.normalizer(x)
        if isinstance(self.encoder, nn.Linear):
            return torch.relu(self.encoder(x.flatten(-len(self.shape))))
        batch = x.shape[: x.ndim - len(self.shape)]
        return torch.relu(self.encoder(x.reshape(-1, *self.shape))).unflatten(0, batch)

    def heads(self, x: Tensor, observations: Tensor) -> tuple[Tensor, Tensor]:
        x = x * self.head_factor if self.head_factor != 1 else x
        outputs, values = self.actor(x).float(), self.critic(x).squeeze(-1).float()
        if self.action_mask is not None:  # these observations say which actions are legal
            illegal = observations.flatten(-len(self.shape))[..., self.action_mask] == 0
            outputs = outputs.masked_fill(illegal, -1e9)
        return outputs, values

    def step(self, observations: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Observations [rows, …] to outputs [rows, outputs], values [rows] and the next state."""
        x = self.encode(observations)  # [rows, hidden]
        if self.lstm is None:
            return *self.heads(torch.relu(self.hidden(x)), observations), state
        if self.kernel:
            state = self.kernel(x.unsqueeze(1), state)[1]
        else:
            state = torch.lstm_cell(x, state, *self.lstm.all_weights[0])
        return *self.heads(state[0], observations), state

    def play(self, observations: Tensor, state: State, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, State]:
        """`step`, and what is drawn from its outputs: drawn, logprobs [rows], values and the next state."""
        if self.network:
            return self.network.play(observations, state, noise)
        outputs, values, state = self.step(observations, state)
        drawn = self.draw(outputs, noise)
        return drawn, self.logprobs(outputs, drawn)[0], values, state

    def value(self, observations: Tensor, state: State) -> Tensor:
        """The values of `step`."""
        if self.network:
            return self.network.play(observations, state, state[0].new_zeros(len(state[0]), self.outputs))[2]
        return self.step(observations, state)[1]

    def forward(self, observations: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """Observations [segments, horizon, …] and the states they began with to outputs and values."""
        x = self.encode(observations)  # [segments, horizon, hidden]
        if self.lstm is None:
            return self.heads(torch.relu(self.hidden(x)), observations)
        if self.kernel:
            return self.heads(self.kernel(x, state)[0], observations)
        x = self.lstm(x, (state[0].unsqueeze(0), state[1].unsqueeze(0)))[0]
        return self.heads(x, observations)

    def noise(self, *shape: int, generator: torch.Generator) -> Tensor:
        """What `draw` needs for actions of this shape: [*shape, outputs], normal or Gumbel's."""
        noise = torch.empty(*shape, self.outputs, device=generator.device)
        if self.continuous:
            return noise.normal_(generator=generator)
        return noise.uniform_(2**-30, 1, generator=generator).log_().neg_().log_().neg_()

    def logits(self, outputs: Tensor) -> Tensor:
        """[..., actions]; of actions of several parts [..., parts, actions], all at once."""
        if self.table is None:
            return outputs
        return nn.functional.pad(outputs, (0, 1), value=-1e9)[..., self.table]

    def draw(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Random actions: [...] or [..., parts] discrete, as argmax(logits + Gumbel noise) draws from
        softmax(logits), or [..., outputs] continuous, in units of their bounds and before they are cut there.
        """
        if self.continuous:
            return outputs + self.log_std.exp() * noise
        return self.logits(outputs + noise).argmax(-1)

    def actions(self, drawn: Tensor) -> np.ndarray:
        """What was drawn, as the environment takes it."""
        if not self.continuous:
            return drawn.cpu().numpy()
        drawn = drawn.detach().cpu().unflatten(-1, self.action_shape)
        return (self.middle + self.half * drawn).clamp(self.low, self.high).numpy()

    def logprobs(self, outputs: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities [...] of what was drawn, and entropies [...].

        Cutting an action at its bounds is the environment's business: the density of what was drawn is exact.
        """
        if not self.continuous:
            logprobs = self.logits(outputs).log_softmax(-1)
            chosen = logprobs.gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
            entropy = -(logprobs.exp() * logprobs).sum(-1)
            return (chosen, entropy) if self.table is None else (chosen.sum(-1), entropy.sum(-1))
        deviations = (drawn - outputs) * (-self.log_std).exp()
        constant = 0.5 * math.log(2 * math.pi) + self.log_std
        logprobs = -(0.5 * deviations**2 + constant).sum(-1)
        return logprobs, (0.5 + constant).sum().expand_as(logprobs)


def orthogonalize(matrices: Tensor, steps: int = 5, dtype: torch.dtype | None = None) -> Tensor:
    """About the nearest matrices with orthogonal rows or columns: singular values land between 0.7 and 1.2.

    A quintic Newton-Schulz iteration (Jordan et al. 2024, "Muon") on a batch [n, rows, columns]: only matrix
    products. Its coefficients are made to raise small singular values fast, not to converge, so that bfloat16
    is exact enough.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # so that no singular value is above 1
    x = x.to(dtype or x.dtype)
    for _ in range(steps):
        gram = x @ x.mT  # x becomes (a + b gram + c gram²) x
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon:
    """Momentum, orthogonalised (Jordan et al. 2024), for matrices; Adam for biases and gains.

    An orthogonal step changes all directions of a matrix alike, so a large learning rate is safe. Matrices
    (convolutions flattened to [out, -1]) move by lr * sqrt(max(1, out / in)) times an orthogonal matrix, with
    Nesterov momentum beta1. What has fewer than two dimensions moves by Adam, with the same lr and beta1, and
    with beta2 and eps. With `adam=True` everything does. It works like a torch.optim.Optimizer, but to be one
    would import torch._dynamo, which takes most of a second.
    """

    orthogonalize = staticmethod(orthogonalize)
    kernel: Callable | None = None  # the same step in C, where a Trainer can use it

    def __init__(self, parameters: Iterable, lr: float, beta1=0.95, beta2=0.999, eps=1e-12, adam=False,
                 dtype: torch.dtype | None = None):
        self.dtype = dtype  # of the orthogonalisation of large matrices; None is their own
        settings = {"beta1": beta1, "beta2": beta2, "eps": eps}
        kinds: dict[tuple[bool, float], list[Tensor]] = {}
        for p in parameters:
            kinds.setdefault((adam or p.ndim < 2, getattr(p, "lr_factor", 1.0)), []).append(p)
        # What changes from step to step is a tensor: numbers are frozen where a step becomes a CUDA graph.
        self.steps = torch.zeros((), device=p.device)
        self.param_groups = [
            {"params": ps, "adam": kind, "initial_lr": lr * factor,
             "lr": torch.full_like(self.steps, lr * factor)} | settings
            for (kind, factor), ps in sorted(kinds.items(), key=lambda item: (item[0][0], item[0][1] != 1))]
        self.moments = [  # of every group: momenta and, for Adam, variances
            [[torch.zeros_like(p) for p in group["params"]] for _ in range(1 + group["adam"])]
            for group in self.param_groups]

    @torch.no_grad()
    def step(self) -> None:
        if self.kernel:
            return self.kernel(self)
        self.steps += 1
        for group, (momenta, *variances) in zip(self.param_groups, self.moments, strict=True):
            parameters, lr, beta1, beta2 = group["params"], group["lr"], group["beta1"], group["beta2"]
            gradients = [p.grad for p in parameters]
            torch._foreach_lerp_(momenta, gradients, 1 - beta1)
            if group["adam"]:
                torch._foreach_mul_(variances[0], beta2)
                torch._foreach_addcmul_(variances[0], gradients, gradients, 1 - beta2)
                denominators = torch._foreach_div(variances[0], 1 - beta2**self.steps)
                torch._foreach_sqrt_(denominators)
                torch._foreach_add_(denominators, group["eps"])
                updates = torch._foreach_div(momenta, denominators)
                torch._foreach_mul_(updates, lr / (1 - beta1**self.steps))
                torch._foreach_sub_(parameters, updates)
                continue
            updates = torch._foreach_lerp(gradients, momenta, beta1)  # Nesterov: one step ahead
            shapes: dict = {}  # equal matrices are orthogonalised together
            for p, update in zip(parameters, updates, strict=True):
                shapes.setdefault(update.flatten(1).shape, []).append((p, update.flatten(1)))
            for (rows, columns), pairs in shapes.items():
                dtype = self.dtype if min(rows, columns) >= 64 else None  # which takes longer on small ones
                orthogonal = self.orthogonalize(torch.stack([update for _, update in pairs]), dtype=dtype)
                for (p, _), update in zip(pairs, orthogonal, strict=True):
                    p.addcmul_(update.reshape(p.shape), lr, value=-math.sqrt(max(1, rows / columns)))

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "moments": self.moments}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.steps.fill_(saved["steps"])
        for group, saved_group in zip(self.moments, saved["moments"], strict=True):
            for tensors, saved_tensors in zip(group, saved_group, strict=True):
                torch._foreach_copy_(tensors, saved_tensors)


def advantages_reference(
        rewards: Tensor, values: Tensor, bootstraps: Tensor, terminals: Tensor, truncations: Tensor,
        ratios: Tensor, gamma: float, gae_lambda: float, rho_clip: float, c_clip: float,
) -> tuple[Tensor, Tensor]:
    """Value targets and policy advantages of segments, all [segments, horizon], in one pass from the back.

    With ratios π/μ, rho = min(ratio, rho_clip), c = min(ratio, c_clip) and V' the value of what follows:
        V'_t     = 0 at terminals, bootstraps_t at truncations and at the segment's end, else V_{t+1}
        delta_t  = r_t + gamma V'_t - V_t
        A_t      = delta_t + gamma lambda (1 - done_t) trace_{t+1}
        trace_t  = rho_t delta_t + c_t gamma lambda (1 - done_t) trace_{t+1},      target_t = V_t + trace_t
    The targets are V-trace's (Espeholt et al. 2018, equation 1, lambda in c). A leaves out the weights of
    time t itself, as PPO multiplies by that ratio. With ratios 1 both are GAE (Schulman et al. 2016, eq. 16).
    """
    targets, advantages = torch.empty_like(values), torch.empty_like(values)
    rho, c = ratios.clamp(max=rho_clip), ratios.clamp(max=c_clip)
    terminals, truncations = terminals.bool(), truncations.bool()
    next_values, trace = bootstraps[:, -1], torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        next_values = torch.where(truncations[:, t], bootstraps[:, t], next_values)
        next_values = next_values.masked_fill(terminals[:, t], 0)
        delta = rewards[:, t] + gamma * next_values - values[:, t]
        carried = (gamma * gae_lambda * trace).masked_fill(terminals[:, t] | truncations[:, t], 0)
        advantages[:, t] = delta + carried
        trace = rho[:, t] * delta + c[:, t] * carried
        targets[:, t] = values[:, t] + trace
        next_values = values[:, t]
    return targets, advantages


class Segments:
    """The experience of one update: tensors [segments, horizon, …], one segment a row of the environment, and
    after them those of former updates that are replayed.

    A segment may cross episode ends. It keeps the LSTM state it began with: `h` and `c` [segments, hidden].
    """

    def __init__(self, segments: int, horizon: int, observation_space: Any, policy: Policy, device: Any):
        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        dtype = getattr(torch, np.dtype(observation_space.dtype).name)
        self.observations = zeros(segments, horizon, *observation_space.shape, dtype=dtype)
        if policy.continuous:
            self.actions = zeros(segments, horizon, policy.outputs)
        else:
            self.actions = zeros(segments, horizon, *policy.action_shape, dtype=torch.int64)
        self.rewards = zeros(segments, horizon)
        self.terminals = zeros(segments, horizon, dtype=torch.uint8)
        self.truncations = zeros(segments, horizon, dtype=torch.uint8)
        self.bootstraps = zeros(segments, horizon)  # values of what follows a truncation or the segment's end
        self.logprobs = zeros(segments, horizon)  # of the rollout
        self.values = zeros(segments, horizon)  # by the newest weights that saw them
        self.ratios = zeros(segments, horizon)  # of the newest weights' probabilities to the rollout's
        self.valid = zeros(segments, horizon)  # 0 where an environment ignored the action, to reset itself
        self.h, self.c = zeros(segments, policy.hidden_size), zeros(segments, policy.hidden_size)

    def nbytes(self) -> int:
        return sum(x.nbytes for x in vars(self).values())


def make_policy(args: Args, env: Any) -> Policy:
    kind = trackers.load_class(args.policy, "--policy") if args.policy else Policy
    return kind(env.single_observation_space, env.single_action_space, args.hidden_size, args.recurrent,
                env.action_mask, args.normalize_observations, env.observation_parts, args.mup_base_width,
                args.optimizer)


class Trainer:
    """What lives through a run: environments, policy, optimizer, random streams, counters."""

    world = 1  # processes that train together, each a batch of its own; ranks.py is for several

    def __init__(self, args: Args):
        self.args, self.device = args, torch.device(args.device)
        on_gpu = self.device.type == "cuda"
        if self.device.index:
            torch.cuda.set_device(self.device)  # for what names no device: pinned memory, Triton
        # One thread an operation. Work is cut into groups and shards that threads run whole, not into slices
        # of every small operation, which take longer to hand out than to do. The cut is the same for any
        # number of threads, and so is every bit.
        torch.set_num_threads(1)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.precision != "float32"
        cpu.keep_freed_memory()
        self.pool = ThreadPoolExecutor(args.num_threads, initializer=torch.set_num_threads, initargs=(1,))
        try:
            self.env = env = self.make_env()
        except ValueError as error:
            raise UsageError(f"--env: {error}") from None
        torch.manual_seed(args.seed)
        self.policy = make_policy(args, env).to(self.device)
        self.parameters = [p for p in self.policy.parameters() if p.requires_grad]
        sizes, dtype = [p.numel() for p in self.parameters], self.parameters[0].dtype
        self.gradient = torch.zeros(sum(sizes), dtype=dtype, device=self.device)  # of all of them
        self.parts = [x.view_as(p) for x, p in zip(self.gradient.split(sizes), self.parameters, strict=True)]
        dtype = torch.bfloat16 if args.precision == "bfloat16" else None
        self.optimizer = Muon(self.parameters, args.learning_rate, args.beta1, args.beta2, args.eps,
                              args.optimizer == "adam", dtype)
        space = env.single_observation_space
        kept = round(args.replay_factor * env.num_envs)
        self.segments = Segments(env.num_envs + kept, args.horizon, space, self.policy, self.device)
        self.replayed = 0  # how many of those kept are there
        self.batch = env.num_envs * args.horizon
        self.advantages = advantages_reference
        if on_gpu and importlib.util.find_spec("triton") and build.has_compiler():  # which Triton needs, too
            from kernels import gpu

            self.advantages = cpu.trusted(gpu.advantages_triton, advantages_reference, self)
        if not on_gpu and (":" not in args.env or build.has_compiler()):  # those of others need no compiler
            self.advantages = cpu.trusted(cpu.load_advantages(), advantages_reference, self)
            parallel = weakref.WeakMethod(self.parallel)  # the optimizer does not keep its trainer
            self.optimizer.kernel = cpu.load_muon_step(self.optimizer, lambda *work: parallel()(*work))
            try:
                cpu.speed_up(self.policy, args.precision == "bfloat16")
            except ValueError as error:
                raise UsageError(f"--precision: {error}") from None
        self.shard = 2**40  # segments in a shard of a minibatch
        self.generator = torch.Generator(self.device).manual_seed(args.seed)  # of actions and minibatches
        self.profile = Profile()
        self.steps = self.updates = 0
        self.losses = torch.zeros(len(trackers.LOSSES), device=self.device)
        self.return_moment = torch.zeros(2, device=self.device)  # sum of squared returns, and how many
        env.reset()
        self.state = self.policy.initial_state(env.num_envs)
        if self.policy.network and not cpu.network_agrees(self):
            say("Policy or gradients() is not what the network in C computes: torch takes over, more slowly")
            self.policy.network = None
        if not on_gpu:  # for fewer steps another thread is not worth while
            in_c = self.policy.network and type(self).gradients is Trainer.gradients
            steps = 1024 if in_c else min(4096, max(2048, args.minibatch_size // 4))
            self.shard = max(1, steps // args.horizon)
        self.old_values = torch.zeros_like(self.segments.values)  # of the rollout
        if args.compile:
            cpu.Kernel.__call__ = torch.compiler.disable(cpu.Kernel.__call__)  # which is compiled already
            self.policy.step = torch.compile(self.policy.step, dynamic=True)
            self.policy.forward = torch.compile(self.policy.forward, dynamic=True)
        ours = self.policy.network and ":" not in args.env and args.env_threads == 1
        if ours and not cpu.plays(self, Trainer.play):
            say("the text of play() or what it calls is not what is in C: it runs as written, more slowly")
        self.streams = [torch.cuda.Stream(self.device) if on_gpu else None for _ in range(args.groups)]
        self.graphs: list[Callable] = []  # of play_step, one a group
        if args.cuda_graphs:
            from kernels import gpu

            gpu.record(self)

    def make_env(self) -> Any:
        args = self.args
        return envs.make(args.env, args.num_envs, args.seed, args.env_threads, args.groups, args.env_config,
                         pin_memory=self.device.type == "cuda")

    def autocast(self) -> Any:
        """bfloat16 on a GPU, as a context; on a processor the kernels see to it."""
        on = self.device.type == "cuda" and self.args.precision == "bfloat16"
        kept = not self.args.cuda_graphs  # rounded weights, until the context ends
        return torch.autocast("cuda", torch.bfloat16, cache_enabled=kept) if on else nullcontext()

    def parallel(self, function: Callable, items: Iterable, phase: str | None = None) -> list:
        """The function of every item, on this thread and others; results in the items' order. phase: where
        the profile counts the others' time, unless the function sees to that."""
        items = list(items)
        results, waiting = [None] * len(items), iter(range(len(items)))

        def work() -> None:
            for i in waiting:  # which threads share: each item goes to one of them
                results[i] = function(items[i])

        def timed() -> None:
            profile = Profile()
            with profile(phase):
                work()
            self.profile.add(profile)

        count = min(self.args.num_threads, len(items)) - 1
        helpers = [self.pool.submit(timed if phase else work) for _ in range(count)]
        try:
            work()
        finally:
            for helper in helpers:
                helper.result()
        return results

    def average(self, tensors: list[Tensor]) -> list[Tensor]:
        """Means over the processes that train together."""
        return tensors

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of all numbers, over these processes."""
        return x.mean(), x.std(correction=0)

    def log(self) -> dict[str, float]:
        """What the environments of these processes report of the episodes that have finished."""
        return self.env.log()

    def progress(self) -> float:
        return min(1.0, self.steps / self.args.total_timesteps)

    def collect(self) -> None:
        """Plays one segment on every row."""
        s, rows, horizon, generator = self.segments, self.env.num_envs, self.args.horizon, self.generator
        # A state that is only ever carried drifts to where a fresh agent, which starts at zero, never gets.
        keep = torch.rand(rows, 1, device=self.device, generator=generator) >= self.args.state_reset
        torch.mul(self.state[0], keep, out=s.h[:rows])
        torch.mul(self.state[1], keep, out=s.c[:rows])
        s.valid[:rows] = 1
        noise = self.policy.noise(horizon, rows, generator=generator)
        if kernel := self.policy.network or self.policy.kernel:
            kernel.weights(anew=True)
        self.parallel(lambda group: self.rollout_in_stream(group, noise), range(self.args.groups))
        for stream in filter(None, self.streams):
            torch.cuda.default_stream(self.device).wait_stream(stream)
        if self.args.normalize_returns:
            self.scale_rewards()

    def rollout_in_stream(self, group: int, noise: Tensor) -> None:
        """`rollout`; on a GPU in a stream of the group's own, so that transfers for one group go on while the
        policy works for another, and wait for no more than the group's own results."""
        if stream := self.streams[group]:
            stream.wait_stream(torch.cuda.default_stream(self.device))
        with torch.cuda.stream(stream), torch.inference_mode():
            self.rollout(group, noise)

    def rollout(self, group: int, noise: Tensor) -> None:
        """Plays a segment on every row of a group, with `noise` from the policy [horizon, rows, outputs]."""
        began, profile = time.perf_counter(), Profile()
        env, policy, s, rows = self.env, self.policy, self.segments, self.env.rows(group)
        state = s.h[rows], s.c[rows]
        if policy.network and cpu.plays(self, Trainer.play):
            state, cuts = policy.network.rollout(env, group, s, state, noise, profile)
        else:
            state, cuts = self.play(group, state, noise, profile)
        with profile("rollout forward"), self.autocast():
            observations = torch.from_numpy(env.observations[rows]).to(self.device, non_blocking=True)
            s.bootstraps[rows, -1] = policy.value(observations, state)
            if cuts:
                index, times, last, h, c = (torch.cat(part) for part in zip(*cuts, strict=True))
                s.bootstraps[index, times] = policy.value(last, (h, c))
        self.state[0][rows], self.state[1][rows] = state
        profile.seconds["rollout other"] = time.perf_counter() - began - sum(profile.seconds.values())
        self.profile.add(profile)

    def play(self, group: int, state: State, noise: Tensor, profile: Profile) -> tuple[State, list]:
        """The steps of a rollout, into the segments. Returns the last state and, of every truncated episode,
        where it was cut, its last observation and the LSTM state there."""
        env, s, horizon, device, cuts = self.env, self.segments, self.args.horizon, self.device, []
        rows, play_step, places = env.rows(group), self.play_step, [slice(t, t + 1) for t in range(horizon)]
        if self.graphs:
            play_step, places = self.graphs[group], torch.arange(horizon, device=device).split(1)
        # What environments give is put in order at the end; for a GPU it waits in page-locked memory.
        received = {name: torch.empty(horizon, rows.stop - rows.start, dtype=getattr(s, name).dtype,
                                      pin_memory=device.type == "cuda")
                    for name in ("rewards", "terminals", "truncations")}
        observations = torch.from_numpy(env.observations[rows]).to(device, non_blocking=True)
        for t in range(horizon):
            with profile("rollout forward"), self.autocast():
                drawn, state = play_step(rows, places[t], observations, state, noise[t, rows])
            with profile("rollout copy"):
                actions = self.policy.actions(drawn)  # a GPU's are waited for
            with profile("rollout environment"):
                observations, *others, infos = env.step(actions, group)
            with profile("rollout copy"):
                observations = torch.from_numpy(observations).to(device, non_blocking=True)
                for x, new in zip(received.values(), others, strict=True):
                    x[t].copy_(torch.from_numpy(new))
                if "_ignored" in infos:
                    ignored = torch.from_numpy(infos["_ignored"]).float()
                    s.valid[rows, t] = 1 - ignored.to(device, non_blocking=True)
                if "final_obs" in infos:
                    index = np.flatnonzero(infos["_final_obs"])
                    last = torch.from_numpy(infos["final_obs"][index]).to(device, non_blocking=True)
                    index = torch.from_numpy(index).to(device, non_blocking=True)
                    place = index + rows.start, torch.full_like(index, t)
                    cuts.append((*place, last, state[0][index], state[1][index]))
        with profile("rollout copy"):
            for name, x in received.items():
                getattr(s, name)[rows] = x.to(device, non_blocking=True).mT
        return state, cuts

    def play_step(self, rows: slice, at: slice | Tensor, observations: Tensor, state: State,
                  noise: Tensor) -> tuple[Tensor, State]:
        """Plays a step on the rows of a group and writes it into their segments. at: the time there, a slice
        of one or, as a CUDA graph would freeze that, a tensor [1]. Returns what was drawn and the next state.
        """
        s = self.segments
        drawn, logprobs, values, state = self.policy.play(observations, state, noise)
        pairs = (s.observations, observations), (s.actions, drawn), (s.logprobs, logprobs), (s.values, values)
        for x, new in pairs:
            x[rows, at] = new.unsqueeze(1).to(x.dtype)
        return drawn, state

    def scale_rewards(self) -> None:
        """Divides rewards by the root mean square, over all of the run, of their discounted sums from each
        step to the end of its episode or segment."""
        new = slice(self.env.num_envs)
        rewards, terminals, truncations = (
            x[new] for x in (self.segments.rewards, self.segments.terminals, self.segments.truncations))
        zeros, ones = torch.zeros_like(rewards), torch.ones_like(rewards)
        sums = self.advantages(rewards, zeros, zeros, terminals, truncations, ones,
                               self.args.gamma, 1.0, 1.0, 1.0)[1]  # over values of 0
        moment = torch.stack((sums.square().mean(0).sum(), torch.ones_like(sums[0]).sum()))
        self.return_moment += self.average([moment])[0]
        rewards /= (self.return_moment[0] / self.return_moment[1] + 1e-8).sqrt()

    def update(self) -> None:
        """Trains on minibatches of whole segments, drawn by the size of their advantages."""
        args, s, profile = self.args, self.segments, self.profile
        for group in self.optimizer.param_groups:
            group["lr"].fill_(group["initial_lr"] * self.learning_rate_factor())
        beta = args.prio_beta0 + (1 - args.prio_beta0) * self.progress()
        self.old_values.copy_(s.values)
        s.ratios[:self.env.num_envs] = 1
        self.losses.zero_()
        count = args.minibatch_size // args.horizon  # segments in a minibatch
        minibatches = max(1, round(args.update_epochs * self.batch / args.minibatch_size))
        for _ in range(minibatches):
            with profile("update other"):
                targets, advantages, priorities = self.estimate()
                probabilities = (args.prio_alpha * priorities.log()).softmax(0)  # ∝ priorities^prio_alpha
                index = torch.multinomial(probabilities, count, replacement=True, generator=self.generator)
                weights = (len(probabilities) * probabilities[index]) ** -beta
                advantages = advantages[index]  # [segments of the minibatch, horizon]
                mean, deviation = self.moments(advantages)
                advantages = (advantages - mean) / (deviation + 1e-8)
                advantages = advantages * weights.unsqueeze(1)
            self.learn(index, advantages, targets[index])
        self.losses /= minibatches
        self.losses = self.average([self.losses])[0]
        if args.replay_factor:
            self.keep()
        if self.policy.normalizer is not None:  # after the update, so that its ratios begin with 1
            self.policy.normalizer.update(s.observations[:self.env.num_envs])
        self.updates += 1
        self.steps += self.batch * self.world  # after it, so that the first update has the full learning rate
        with torch.no_grad():
            numbers = self.losses.sum(), self.return_moment.sum(), *torch._foreach_norm(self.parameters)
        if not torch.stack(numbers).isfinite().all():  # the update's one synchronisation with a GPU
            raise Diverged

    def estimate(self) -> tuple[Tensor, Tensor, Tensor]:
        """Value targets and advantages [segments, horizon] by the newest values and ratios, and priorities
        [segments]: sums of absolute advantages."""
        args, s, there = self.args, self.segments, slice(self.env.num_envs + self.replayed)
        parts = s.rewards, s.values, s.bootstraps, s.terminals, s.truncations, s.ratios
        targets, advantages = self.advantages(
            *(x[there] for x in parts), args.gamma, args.gae_lambda, args.rho_clip, args.c_clip)
        advantages = advantages * s.valid[there]
        # What is not finite is caught after the update; here it must not stop the draw.
        return targets, advantages, advantages.abs().sum(1).nan_to_num(0, 1e30).clamp(1e-8, 1e30)

    def keep(self) -> None:
        """Has the segments of the highest priority stay for the next update, with their log-probabilities."""
        s, rows = self.segments, self.env.num_envs
        kept = self.estimate()[2].topk(min(len(s.h) - rows, rows + self.replayed)).indices
        for x in vars(s).values():
            x[rows:rows + len(kept)] = x[kept]
        self.replayed = len(kept)

    def learn(self, index: Tensor, advantages: Tensor, targets: Tensor) -> None:
        """An optimizer step on a minibatch of segments. Refreshes their values and ratios, adds losses."""
        s, profile = self.segments, self.profile
        # The network in C cuts its minibatch itself; gradients() of others are to be given shards.
        whole = self.policy.network and type(self).gradients is Trainer.gradients
        shard = len(index) if whole else self.shard
        shards = [slice(i, min(i + shard, len(index))) for i in range(0, len(index), shard)]
        parts = self.parallel(
            lambda i: self.gradients(index[i], advantages[i], targets[i], targets.numel()), shards)
        with profile("update optimizer"):
            first, *rest = (part[0] for part in parts)
            [gradient] = self.average([sum(rest, start=first)])
            norm = torch.linalg.vector_norm(gradient)
            factor = ((self.args.max_grad_norm or math.inf) / (norm + 1e-6)).clamp(max=1)
            torch.mul(gradient.view_as(self.gradient), factor, out=self.gradient)
            for parameter, part in zip(self.parameters, self.parts, strict=True):
                parameter.grad = part
            self.optimizer.step()
        with profile("update copy"):
            for i, (_, _, values, ratios) in zip(shards, parts, strict=True):
                rows = index[i]
                s.values[rows], s.ratios[rows] = values, ratios
            self.losses += torch.cat((sum(part[1] for part in parts), norm.unsqueeze(0)))

    def gradients(self, index: Tensor, advantages: Tensor, targets: Tensor, samples: int) -> tuple:
        """Gradient of the loss over a shard, as its part of the mean over the minibatch's samples: of all
        parameters, one after the other. Also its part of the losses, new values and ratios.

        Advantages come normalised and weighted.
        """
        args, s, profile = self.args, self.segments, Profile()
        if self.policy.network:  # the same as below
            with profile("update backward"):
                result = self.policy.network.gradients(
                    s, self.old_values, index, advantages, targets, args, samples, self.shard,
                    partial(self.parallel, phase="update backward"))
            self.profile.add(profile)
            return result
        with profile("update copy"):
            observations, actions, old_logprobs = s.observations[index], s.actions[index], s.logprobs[index]
            old_values, state, valid = self.old_values[index], (s.h[index], s.c[index]), s.valid[index]
        with profile("update forward"), self.autocast():
            outputs, values = self.policy(observations, state)
            logprobs, entropy = self.policy.logprobs(outputs, actions)  # [segments, horizon]
            logratio = logprobs - old_logprobs
            ratio = logratio.exp()
            clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
            policy_loss = -torch.min(advantages * ratio, advantages * clipped)
            value_loss = self.value_loss(index, values, old_values, targets)
            loss = policy_loss + args.vf_coef * value_loss - args.ent_coef * entropy
            loss = (loss * valid).sum() / samples
        with profile("update backward"):
            gradients = torch.autograd.grad(loss, self.parameters)
            gradient = torch.cat([x.flatten() for x in gradients])
        with profile("update other"), torch.no_grad():
            approx_kl = ratio - 1 - logratio  # Schulman's k3: never negative
            clipfrac = ((ratio - 1).abs() > args.clip_coef).float()
            stats = (policy_loss, value_loss, entropy, approx_kl, clipfrac)
            stats = torch.stack([(x * valid).sum() for x in stats]) / samples
        self.profile.add(profile)
        return gradient, stats, values.detach(), ratio.detach()

    def value_loss(self, index: Tensor, values: Tensor, old_values: Tensor, targets: Tensor) -> Tensor:
        """Half the squared errors [segments, horizon] of the segments `index`; PPO's, which forgives nothing
        that lies farther from the rollout's values than allowed."""
        loss, limit = (values - targets) ** 2, self.args.vf_clip_coef
        if limit:
            near = old_values + (values - old_values).clamp(-limit, limit)
            loss = torch.max(loss, (near - targets) ** 2)
        return 0.5 * loss

    def learning_rate_factor(self) -> float:
        """What the schedule multiplies every learning rate by now."""
        args, x = self.args, self.progress()
        fall = {"cosine": 0.5 * (1 + math.cos(math.pi * x)), "linear": 1 - x, "constant": 1.0}[args.schedule]
        lowest = args.min_learning_rate / args.learning_rate if args.learning_rate else 0.0
        return lowest + (1 - lowest) * fall

    def save(self) -> dict[str, Any]:
        """Everything that a resumed run needs to go on with the same bits."""
        return {
            "layout": {name: getattr(self.args, name) for name in LAYOUT},
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
            "updates": self.updates,
            "generators": [torch.get_rng_state(), self.generator.get_state()],
            "lstm": self.state,
            "return_moment": self.return_moment,
            "replay": {name: x[self.env.num_envs:][:self.replayed].clone()
                       for name, x in vars(self.segments).items()},
            "environment": {name: torch.from_numpy(array) for name, array in self.env.save().items()},
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Goes back to what `save` gave; UsageError if that was of other environments or another policy."""
        for name, value in saved["layout"].items():
            if value != (own := getattr(self.args, name)):
                raise UsageError(f"--resume: its checkpoint has {name} {value}, and cannot go on with {own}")
        load_policy(self.policy, saved["policy"], "--resume: its checkpoint")
        if saved["environment"]:
            self.env.load({name: tensor.numpy() for name, tensor in saved["environment"].items()})
        else:  # those of others cannot be saved, and begin new episodes
            self.env.reset(seed=(self.args.seed + saved["steps"]) % 2**31)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.return_moment.copy_(saved["return_moment"])
        self.replayed = min(len(saved["replay"]["h"]), len(self.segments.h) - self.env.num_envs)
        for name, x in saved["replay"].items():
            getattr(self.segments, name)[self.env.num_envs:][:self.replayed] = x[:self.replayed]
        torch.set_rng_state(saved["generators"][0])
        self.generator.set_state(saved["generators"][1])
        for own, state in zip(self.state, saved["lstm"], strict=True):
            own.copy_(state)
        self.steps, self.updates = saved["steps"], saved["updates"]


EXIT_CODES = {"ok": 0, "error": 1, "diverged": 3, "interrupted": 130}


def train(args: Args, kind: type = Trainer) -> int:
    """Trains until total_timesteps, stop_score or an interrupt; returns the exit code. kind: a Trainer."""
    interrupted = threading.Event()

    def interrupt(number: int, _: Any) -> None:
        interrupted.set()
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    trainer, problem = kind(args), None
    trainer.interrupted = interrupted
    run = Run(args, trainer, Scores(), START)
    say(trackers.describe_start(args, trainer))
    terminal, senders = trackers.Terminal(args), trackers.Senders(args)
    try:
        status = train_loop(run, (terminal, senders), interrupted)
        run.checkpoint()
    except Diverged:
        status, problem = "diverged", "a loss or weight is not finite; a lower --learning-rate may help"
    except OSError as error:
        status, problem = "error", f"{run.path}: {error.strerror or error}"
    except BaseException:
        with suppress(OSError):
            run.summary("error")
        raise
    finally:
        terminal.close()
        run.trace.close()
    try:
        say(trackers.describe_end(args, run.summary(status)))
    except OSError as error:
        status, problem = "error", f"{run.path}: {error.strerror or error}"
    if problem:
        trackers.complain(problem)
    senders.close()
    return EXIT_CODES[status]


def train_loop(run: Run, shown: tuple, interrupted: threading.Event) -> str:
    """Rollout, update, log, checkpoint, until the run is over. Returns its status, "ok" or "interrupted"."""
    trainer, scores, args = run.trainer, run.scores, run.trainer.args
    began = line_time = time.time()
    line_step, line_cpu = trainer.steps, time.process_time()
    while True:
        trainer.collect()
        trainer.update()
        scores.add(trainer.log())
        run.trace.update()
        means = run.means = scores.means()
        solved = args.stop_score is not None and means["episodes"] >= Scores.ENOUGH
        solved = solved and means["score"] >= args.stop_score
        finished = solved or trainer.steps >= args.total_timesteps
        over = finished or interrupted.is_set()
        passed, sooner = time.time() - line_time, min(1.0, max(0.2, (line_time - began) / 2.5))
        if over or passed >= sooner * args.log_interval:
            sps, cpu = (trainer.steps - line_step) / passed, (time.process_time() - line_cpu) / passed
            record = trackers.metrics_record(trainer, means, run.cost(), sps, cpu)
            run.log(record)
            scores.since_line = 0
            for tracker in shown:
                tracker.show(record)
            line_time, line_step, line_cpu = time.time(), trainer.steps, time.process_time()
        if over:
            return "ok" if finished else "interrupted"
        if trainer.updates % args.checkpoint_interval == 0:
            run.checkpoint()


def trained_policy(args: Args, env: Any) -> Policy:
    """What a run learned, or has learned so far."""
    model = Path(args.eval or args.watch or args.run_dir) / "model.pt"
    policy = make_policy(args, env)
    load_policy(policy, load_tensors(model), str(model))
    return policy


def main(argv: list[str], settings_kind: type = Args, trainer_kind: type = Trainer) -> int:
    """The command line, also of what is built on this file, with settings and a trainer of its own."""
    start = train
    if trackers.WORLD > 1:  # started by torchrun
        import ranks

        start = ranks.together(train)
    try:
        args = settings.parse_arguments(argv, settings_kind)
        if args.list:
            for name in envs.names():
                spec = envs.spec(name)
                say(f"{name:10} {' '.join(spec.__doc__.split())} Solved at {spec.solved:g}.")
            say("gym:ID, ale:GAME, envpool:ID: those of Gymnasium, Atari, EnvPool; see envs/foreign.py.")
            return 0
        from envs import render

        if problem := render.problem(args):
            raise UsageError(problem)
        shows = bool(args.eval or args.watch or args.play)
        args.device = "cpu" if shows else args.device  # whatever it was trained on
        settings.choose_sizes(args, trackers.WORLD)
        if shows:
            return render.perform(args, trained_policy)
        stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}"
        args.run_dir = args.run_dir or str(Path("runs") / args.env.replace("/", "-") / stamp)
        return start(args, trainer_kind) or (render.perform(args, trained_policy) if args.gif else 0)
    except (UsageError, build.BuildError) as error:
        trackers.complain(error)
        return 2
    except BrokenPipeError:  # `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:
        trackers.complain(error)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
