"""P3O: the advantage from a prediction of the next rewards, with its uncertainty, instead of from a value.

    python variants/p3o.py --env pong
    python variants/p3o.py --env pong --reward-horizon 32 --strength 0

For each of the next steps j = 0, 1, … the policy predicts mean mu_j and standard deviation sigma_j of the
reward, by the Gaussian negative log-likelihood. With sigma_r the standard deviation of the batch's rewards:

    A_t = sum over j of w_j (r_{t+1+j} - mu_j),     w_j = max(0, 1 / sigma_j^2 - strength / sigma_r^2)

and the w_j of every step t divided by their maximum. Rewards that are predicted no better than by their mean
have a low weight or none: that takes the place of discount and lambda. What lies beyond the end of the
segment or the episode is not known and left out of both sums.

How far ahead is learned from the data, too: the horizon starts at 16 steps, and after each update ends at the
first step whose sigma_j, averaged over the batch, is above 95 % of sigma_r; if there is none, where
--reward-horizon allows. It is never below the start. The loss keeps three steps more, so that it can grow.

The network in C knows values only, so torch takes over.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout

import cleanpuffer
from cleanpuffer import Policy, UsageError

STEPS = 64  # that the policy predicts; the most that --reward-horizon allows
BEYOND = 3  # steps after the horizon that are learned
UNPREDICTABLE = 0.95  # share of sigma_r
MIN_LOG_STD, MAX_LOG_STD = math.log(0.5), math.log(10)


@dataclass
class Args(cleanpuffer.Args):
    """The trainer with P3O, which predicts the next rewards instead of a value."""

    policy: str | None = "variants/p3o.py:P3OPolicy"  # the network, file.py:Class
    vf_coef: float = 0.001  # weight of the negative log-likelihood
    reward_horizon: int = 32  # steps ahead whose rewards are predicted, at most
    start_horizon: int = 16  # the same, at the start and at least
    strength: float = 0.1  # how little a step counts whose reward is predicted badly


class P3OPolicy(Policy):
    """`Policy` whose values are predictions [..., 2 STEPS] of the next rewards: means, log-deviations."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.critic = nn.Linear(self.hidden_size, 2 * STEPS)
        nn.init.orthogonal_(self.critic.weight, 0.01)  # nothing is predicted: mean 0, deviation 1
        nn.init.zeros_(self.critic.bias)

    def heads(self, x: Tensor, observations: Tensor) -> tuple[Tensor, Tensor]:
        outputs, predictions = super().heads(x, observations)
        means, deviations = predictions.split(STEPS, -1)
        return outputs, torch.cat((means, deviations.clamp(MIN_LOG_STD, MAX_LOG_STD)), -1)


def next_rewards(rewards: Tensor, done: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The rewards [segments, horizon, steps] of each step and those after it, and 1 where they are known: not
    beyond the end of the segment, nor of the episode. Both [segments, horizon]."""
    pad = (0, steps - 1)
    windows = nn.functional.pad(rewards, pad).unfold(1, steps, 1)
    before = done.cumsum(1) - done  # ends before a step: the same for all steps of an episode
    episodes = nn.functional.pad(before, pad, value=-1).unfold(1, steps, 1)
    known = (episodes == before.unsqueeze(-1)).float()
    return windows, known


def p3o_advantages(
    rewards: Tensor, known: Tensor, means: Tensor, stds: Tensor, reward_std: Tensor, strength: float
) -> Tensor:
    """Advantages [segments, horizon] from what `next_rewards` gives and predictions, all [..., steps]."""
    weights = (stds**-2 - strength / reward_std**2).clamp(min=0)
    weights = weights / weights.amax(-1, keepdim=True).clamp(min=1e-8)
    return (weights * known * (rewards - means)).sum(-1)


class Trainer(cleanpuffer.Trainer):
    """The trainer, whose advantages and value loss are of predicted rewards. Where it keeps values it keeps
    predictions."""

    def __init__(self, args: Args):
        if args.cuda_graphs:
            raise UsageError("--cuda-graphs: P3O's horizon changes, and a graph would not see it")
        if not 1 <= args.start_horizon <= args.reward_horizon <= STEPS:
            raise UsageError(
                f"--reward-horizon: {args.reward_horizon} is not between "
                f"--start-horizon {args.start_horizon} and {STEPS}"
            )
        self.ahead = args.start_horizon  # steps whose rewards make up an advantage
        super().__init__(args)
        s = self.segments
        s.values, s.bootstraps = (torch.zeros(*x.shape, 2 * STEPS) for x in (s.values, s.bootstraps))
        s.values, s.bootstraps = s.values.to(self.device), s.bootstraps.to(self.device)
        self.old_values = torch.zeros_like(s.values)
        self.reward_std = torch.ones((), device=self.device)

    def scale_rewards(self) -> None:
        """Divides rewards by the root of their mean square over all of the run: each is predicted alone."""
        s, new = self.segments, slice(self.env.num_envs)
        self.return_moment += torch.stack((s.rewards[new].square().sum(), s.rewards.new_tensor(self.batch)))
        s.rewards[new] /= (self.return_moment[0] / self.return_moment[1] + 1e-8).sqrt()

    def collect(self) -> None:
        super().collect()
        s, new = self.segments, slice(self.env.num_envs)
        self.reward_std = s.rewards[new].std().clamp(min=1e-3)  # 0 where nothing was ever rewarded

    def update(self) -> None:
        super().update()
        stds = self.segments.values[: self.env.num_envs, ..., STEPS:].exp().mean((0, 1))
        exceeds = stds[: self.args.reward_horizon] > UNPREDICTABLE * self.reward_std
        first = int(exceeds.float().argmax()) if exceeds.any() else self.args.reward_horizon
        self.ahead = max(first, self.args.start_horizon)

    def following(self, index: Any, steps: int) -> tuple[Tensor, Tensor]:
        s = self.segments
        done = (s.terminals[index] | s.truncations[index]).long()
        return next_rewards(s.rewards[index], done, steps)

    def estimate(self) -> tuple[Tensor, Tensor, Tensor]:
        s, there = self.segments, slice(self.env.num_envs + self.replayed)
        rewards, known = self.following(there, self.ahead)
        means, stds = (x[..., : self.ahead] for x in s.values[there].split(STEPS, -1))
        advantages = p3o_advantages(rewards, known, means, stds.exp(), self.reward_std, self.args.strength)
        advantages = advantages * s.valid[there]
        return s.rewards[there], advantages, advantages.abs().sum(1).nan_to_num(0, 1e30).clamp(1e-8, 1e30)

    def value_loss(self, index: Tensor, values: Tensor, old_values: Tensor, targets: Tensor) -> Tensor:
        """The negative log-likelihood of the next rewards, as a mean over those that are known."""
        steps = min(self.ahead + BEYOND, STEPS)
        rewards, known = self.following(index, steps)
        means, log_stds = (x[..., :steps] for x in values.split(STEPS, -1))
        errors = (rewards - means) * (-log_stds).exp()
        loss = (0.5 * errors**2 + log_stds) * known
        return loss.sum(-1) / known.sum(-1)  # the step's own reward is always known

    def save(self) -> dict[str, Any]:
        return super().save() | {"ahead": self.ahead}

    def load(self, saved: dict[str, Any]) -> None:
        super().load(saved)
        self.ahead = saved["ahead"]


if __name__ == "__main__":
    sys.exit(cleanpuffer.main(sys.argv[1:], Args, Trainer))
