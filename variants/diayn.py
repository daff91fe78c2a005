"""DIAYN: skills that are told apart by what they see (Eysenbach et al. 2019, arxiv.org/abs/1802.06070).

    python variants/diayn.py --env snake
    python variants/diayn.py --env snake --bonus-coef 0      skills in the observation alone

In every episode an agent has a skill z, one of SKILLS, appended to its observation as numbers of which one is
1. A discriminator q learns to tell the skill from the observation without it. A step is paid for how well the
observation it leads to shows the skill:

    bonus = log q(z | s_{t+1}) - log p(z),     p(z) = 1 / SKILLS

DIAYN learns from that alone; here it stands beside the reward, as a bonus for exploration. The steps that end
an episode pay none. Agents take their turns with the skills, so that p is exact and the seed decides all. A
policy that is watched or evaluated plays row i with skill i mod SKILLS. It is the trainer's on longer
observations, so its network in C goes on.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout

import cleanpuffer
import policies
from cleanpuffer import Muon, Policy

SKILLS = 8


@dataclass
class Args(cleanpuffer.Args):
    """The trainer with DIAYN, a bonus for skills that are told apart by what they see."""

    policy: str | None = "variants/diayn.py:SkillPolicy"  # the network, file.py:Class
    bonus_coef: float = 0.01  # weight of the bonus beside the reward; it falls to 0 with the progress
    discriminator_learning_rate: float = 0.001  # with Adam
    discriminator_minibatches: int = 4  # after each update of the policy


class SkillSpace(Box):
    """Flat observations of another space with a skill behind them."""

    def __init__(self, plain: Box):
        integers = np.issubdtype(plain.dtype, np.integer)
        self.one = plain.high.max() if integers else 1  # which the policy divides integers by
        low, high = (
            np.concatenate((bounds.ravel(), np.full(SKILLS, skill, plain.dtype)))
            for bounds, skill in ((plain.low, 0), (plain.high, self.one))
        )
        super().__init__(low, high, dtype=plain.dtype.type)
        self.plain = plain

    def append(self, observations: np.ndarray, skills: np.ndarray) -> np.ndarray:
        """Observations [rows, *shape] and skills [rows] to [rows, numbers]."""
        shown = np.zeros((len(skills), SKILLS), self.dtype)
        shown[np.arange(len(skills)), skills] = self.one
        return np.concatenate((observations.reshape(len(skills), -1), shown), 1)


def parts_of(space: Box, parts: list | None) -> list | None:
    """The shapes that a policy encodes by themselves: the skill, too, unless all goes into one layer."""
    linear = type(policies.make_encoder(space.shape, 1, parts)) is nn.Linear
    return None if linear else [*(parts or [space.shape]), (SKILLS,)]


class SkillEnv:
    """A vector environment whose observations end in a skill; after an episode a row has the next."""

    def __init__(self, env: Any):
        self.env, self.skills = env, np.arange(env.num_envs) % SKILLS
        self.single_observation_space = SkillSpace(env.single_observation_space)
        self.observation_parts = parts_of(env.single_observation_space, env.observation_parts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    @property
    def observations(self) -> np.ndarray:
        return self.single_observation_space.append(self.env.observations, self.skills)

    def step(self, actions: np.ndarray, group: int) -> tuple:
        observations, rewards, terminals, truncations, infos = self.env.step(actions, group)
        append, skills = self.single_observation_space.append, self.skills[self.env.rows(group)]
        if "final_obs" in infos:
            infos = infos | {"final_obs": append(infos["final_obs"], skills)}
        skills += terminals | truncations
        skills %= SKILLS
        return append(observations, skills), rewards, terminals, truncations, infos

    def save(self) -> dict[str, np.ndarray]:
        saved = self.env.save()
        return saved | {"skills": self.skills.copy()} if saved else saved

    def load(self, saved: dict[str, np.ndarray]) -> None:
        self.skills[:] = saved["skills"]
        self.env.load({name: array for name, array in saved.items() if name != "skills"})


class SkillPolicy(Policy):
    """`Policy` on observations with a skill; it appends row i's, i mod SKILLS, where they come without."""

    def __init__(self, space: Box, actions: Any, hidden_size: int, recurrent: str, mask: Any, normalize: bool,
                 parts: list | None, *rest: Any):  # fmt: skip
        if not hasattr(space, "plain"):
            space, parts = SkillSpace(space), parts_of(space, parts)
        super().__init__(space, actions, hidden_size, recurrent, mask, normalize, parts, *rest)
        self.space = space

    def step(self, observations: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:
        if observations.shape[1:] != self.space.shape:
            skills = np.arange(len(observations)) % SKILLS
            observations = torch.from_numpy(self.space.append(observations.numpy(), skills))
        return super().step(observations, state)


class Discriminator(nn.Module):
    """Log-probabilities [rows, SKILLS] of the skills by observations [rows, numbers] without theirs."""

    def __init__(self, space: SkillSpace, scale: float, hidden: int, parts: list | None):
        super().__init__()
        self.scale = scale
        self.encoder = policies.make_encoder(space.shape, hidden, parts)
        self.both = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, SKILLS)

    def forward(self, observations: Tensor) -> Tensor:
        x = observations.float() * self.scale
        x = torch.cat((x[:, :-SKILLS], torch.zeros_like(x[:, -SKILLS:])), 1)
        return self.head(torch.relu(self.both(torch.relu(self.encoder(x))))).log_softmax(-1)


def skill_bonus(logprobs: Tensor, skills: Tensor, done: Tensor) -> Tensor:
    """The bonus [rows, horizon] from log q [rows, horizon, SKILLS] of the observations that steps lead to.
    skills and done, whether an episode ended, are [rows, horizon]."""
    return (logprobs.gather(-1, skills.unsqueeze(-1)).squeeze(-1) + math.log(SKILLS)) * ~done


class Trainer(cleanpuffer.Trainer):
    """The trainer, whose observations hold a skill and whose rewards the bonus for it."""

    def __init__(self, args: Args):
        super().__init__(args)
        sizes = self.policy.scale, self.policy.hidden_size, self.env.observation_parts
        self.discriminator = Discriminator(self.env.single_observation_space, *sizes).to(self.device)
        weights, rate = self.discriminator.parameters(), args.discriminator_learning_rate
        self.discriminator_optimizer = Muon(weights, rate, beta1=0.9, eps=1e-8, adam=True)

    def make_env(self) -> SkillEnv:
        return SkillEnv(super().make_env())

    def rollout(self, group: int, noise: Tensor) -> None:
        super().rollout(group, noise)
        s, rows = self.segments, self.env.rows(group)
        after = torch.from_numpy(self.env.observations[rows]).to(self.device)
        following = torch.cat((s.observations[rows, 1:], after.unsqueeze(1)), 1)
        done = (s.terminals[rows] | s.truncations[rows]).bool()
        with torch.inference_mode():
            logprobs = self.discriminator(following.flatten(0, 1)).unflatten(0, done.shape)
            bonus = skill_bonus(logprobs, s.observations[rows, :, -SKILLS:].argmax(-1), done)
            s.rewards[rows] += self.args.bonus_coef * (1 - self.progress()) * bonus

    def update(self) -> None:
        super().update()
        seen = self.segments.observations[: self.env.num_envs].flatten(0, 1)
        for _ in range(self.args.discriminator_minibatches):
            noise = torch.rand(self.args.minibatch_size, device=self.device, generator=self.generator)
            self.learn_skills(seen[(len(seen) * noise).long()])

    def learn_skills(self, observations: Tensor) -> Tensor:
        """A step of the discriminator on observations [rows, numbers]; returns its loss."""
        logprobs = self.discriminator(observations)
        loss = nn.functional.nll_loss(logprobs, observations[:, -SKILLS:].argmax(-1))
        parameters = list(self.discriminator.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        self.discriminator_optimizer.step()
        return loss.detach()

    def save(self) -> dict[str, Any]:
        kept = self.discriminator, self.discriminator_optimizer
        return super().save() | {"diayn": [part.state_dict() for part in kept]}

    def load(self, saved: dict[str, Any]) -> None:
        super().load(saved)
        for part, kept in zip(
            (self.discriminator, self.discriminator_optimizer), saved["diayn"], strict=True
        ):
            part.load_state_dict(kept)


if __name__ == "__main__":
    sys.exit(cleanpuffer.main(sys.argv[1:], Args, Trainer))
