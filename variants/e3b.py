"""E3B: a bonus for what an episode has not shown yet (Henaff et al. 2022, https://arxiv.org/abs/2210.05805).

    python variants/e3b.py --env maze
    python variants/e3b.py --env maze --bonus-coef 0         the trainer itself

Features phi of observations are learned by telling the action from two that follow each other, so that they
hold what actions change and no other noise. A step is paid for the observation it leads to:

    bonus = phi^T C^-1 phi,     C = ridge I + sum of phi phi^T over the episode so far

It is near phi^T phi / ridge for directions that are new and falls as 1 / n with the n-th visit. C^-1 is
kept for every row and carried from segment to segment (Sherman and Morrison 1950):

    C^-1 <- C^-1 - (C^-1 phi)(C^-1 phi)^T / (1 + bonus)

An episode's first observation counts as seen and pays nothing. The policy and its loss are the trainer's, so
its network in C goes on.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout

import cleanpuffer
import policies
from cleanpuffer import Muon


@dataclass
class Args(cleanpuffer.Args):
    """The trainer with E3B, an elliptical bonus for what an episode has not shown yet."""

    bonus_coef: float = 0.003  # weight of the bonus beside the reward; it falls to 0 with the progress
    features: int = 32  # of an observation
    ridge: float = 0.1  # C of an episode that has seen nothing, as a multiple of the unit matrix
    inverse_learning_rate: float = 0.001  # of the features, with Adam
    inverse_minibatches: int = 4  # of the features, after each update of the policy


class Inverse(nn.Module):
    """Features of observations, and from those of two that follow each other what tells the action."""

    def __init__(self, policy: cleanpuffer.Policy, features: int, parts: list | None):
        super().__init__()
        self.shape, self.scale, hidden = policy.shape, policy.scale, policy.hidden_size
        self.encoder = policies.make_encoder(self.shape, hidden, parts)
        self.features = nn.Linear(hidden, features)
        self.both = nn.Linear(2 * features, hidden)
        self.actor = nn.Linear(hidden, policy.outputs)

    def forward(self, observations: Tensor) -> Tensor:
        """[rows, *shape] to [rows, features]."""
        x = observations.float() * self.scale
        plain = isinstance(self.encoder, nn.Linear)
        return self.features(torch.relu(self.encoder(x.flatten(1) if plain else x)))

    def outputs(self, before: Tensor, after: Tensor) -> Tensor:
        """Features of both observations [rows, features] to what `Policy.logprobs` takes."""
        return self.actor(torch.relu(self.both(torch.cat((before, after), -1))))


def elliptical_bonus(features: Tensor, after: Tensor, done: Tensor, inverse: Tensor, ridge: float) -> Tensor:
    """The bonus [rows, horizon] of the observations that a segment's steps lead to.

    features    [rows, horizon, d] of the segment's own observations, which are all counted
    after       [rows, d] of the one after the last: paid now, counted as the first of the next segment
    done        [rows, horizon]: the next observation is another episode's
    inverse     [rows, d, d], C^-1 of each row before the first step; is brought up to date
    """
    bonus = torch.zeros_like(features[..., 0])
    everything = torch.cat((features, after.unsqueeze(1)), 1)
    fresh = torch.eye(features.shape[-1], device=features.device) / ridge
    for t in range(features.shape[1]):
        phi = everything[:, t].unsqueeze(-1)  # [rows, d, 1]
        seen = inverse @ phi
        inverse.baddbmm_(seen / (1 + phi.mT @ seen), seen.mT, alpha=-1)
        following = everything[:, t + 1].unsqueeze(-1)
        bonus[:, t] = (following.mT @ inverse @ following).flatten() * ~done[:, t]
        inverse[done[:, t]] = fresh
    return bonus


class Trainer(cleanpuffer.Trainer):
    """The trainer, whose rewards have the bonus in them."""

    def __init__(self, args: Args):
        super().__init__(args)
        self.inverse = Inverse(self.policy, args.features, self.env.observation_parts).to(self.device)
        weights = self.inverse.parameters()
        self.inverse_optimizer = Muon(weights, args.inverse_learning_rate, beta1=0.9, eps=1e-8, adam=True)
        fresh = torch.eye(args.features, device=self.device) / args.ridge
        self.inverses = fresh.repeat(self.env.num_envs, 1, 1)  # C^-1 of every row's episode

    def rollout(self, group: int, noise: Tensor) -> None:
        super().rollout(group, noise)
        s, rows = self.segments, self.env.rows(group)
        after = torch.from_numpy(self.env.observations[rows]).to(self.device)
        with torch.inference_mode():
            done = (s.terminals[rows] | s.truncations[rows]).bool()
            features = self.inverse(s.observations[rows].flatten(0, 1)).unflatten(0, done.shape)
            bonus = elliptical_bonus(
                features, self.inverse(after), done, self.inverses[rows], self.args.ridge
            )
            s.rewards[rows] += self.args.bonus_coef * (1 - self.progress()) * bonus

    def update(self) -> None:
        super().update()
        s, count = self.segments, self.args.minibatch_size
        new = slice(self.env.num_envs)
        follows = ~(s.terminals[new] | s.truncations[new]).bool() & (s.valid[new] > 0)
        rows, times = follows[:, :-1].nonzero(as_tuple=True)
        for _ in range(self.args.inverse_minibatches if len(rows) else 0):
            pick = torch.randint(len(rows), (count,), device=self.device, generator=self.generator)
            self.learn_features(rows[pick], times[pick])

    def learn_features(self, rows: Tensor, times: Tensor) -> Tensor:
        """A step on the transitions from these places in the segments to the next; returns the loss."""
        s = self.segments
        before, after = (self.inverse(s.observations[rows, t]) for t in (times, times + 1))
        outputs = self.inverse.outputs(before, after)
        loss = -self.policy.logprobs(outputs, s.actions[rows, times])[0].mean()
        parameters = list(self.inverse.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        self.inverse_optimizer.step()
        return loss.detach()

    def save(self) -> dict:
        kept = {"model": self.inverse.state_dict(), "optimizer": self.inverse_optimizer.state_dict()}
        return super().save() | {"e3b": kept | {"inverses": self.inverses}}

    def load(self, saved: dict) -> None:
        super().load(saved)
        kept = saved["e3b"]
        self.inverse.load_state_dict(kept["model"])
        self.inverse_optimizer.load_state_dict(kept["optimizer"])
        self.inverses.copy_(kept["inverses"])


if __name__ == "__main__":
    sys.exit(cleanpuffer.main(sys.argv[1:], Args, Trainer))
