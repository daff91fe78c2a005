"""What a policy or trainer must be able to do, on small environments that need it, each with a control."""

import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
import worlds
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

import cleanpuffer
import policies
import settings
from cleanpuffer import Args, Policy, Trainer

ROOT = Path(__file__).resolve().parent.parent
VECTOR = Box(-1, 1, (3,), np.float32)


def make_trainer(kind: type = Trainer, **given) -> Trainer:
    args = Args(**{"device": "cpu", "num_threads": 1, "num_envs": 64, "horizon": 16} | given)
    settings.choose_sizes(args)
    return kind(args)


def learn(trainer: Trainer, until: float = 2.0) -> float:
    """Trains to the end of the schedule or to this score; returns the score of the last update."""
    while trainer.steps < trainer.args.total_timesteps:
        trainer.collect()
        trainer.update()
        score = trainer.env.log().get("score", 0.0)
        if score >= until:
            break
    return score


# Spaces


@pytest.mark.parametrize("name, policy", [("Levers", None), ("Crosses", None), ("Signs", None), ("Crowd", 1)])
def test_each_kind_of_space_is_learned(name, policy):
    """From the middle of 0.41 to 0.5, chance, to 0.9."""
    policy = f"{ROOT}/variants/entities.py:EntityPolicy" if policy else None
    trainer = make_trainer(env=f"gym:worlds:{name}-v0", policy=policy, total_timesteps=300_000)
    assert learn(trainer, 0.9) >= 0.9


class Flat(Policy):
    def make_encoder(self, parts):
        return torch.nn.Linear(int(np.prod(self.shape)), self.hidden_size)


@pytest.mark.parametrize("name", ["Signs", "Crowd"])
def test_a_linear_layer_is_not_enough_for_them(name, monkeypatch):
    """They need their encoders: with a linear one they are far from 0.9 when those with theirs are there."""
    monkeypatch.setattr(cleanpuffer, "Policy", Flat)
    assert learn(make_trainer(env=f"gym:worlds:{name}-v0", total_timesteps=75_000)) < 0.85


def test_actions_of_several_parts():
    """Log-probabilities and entropies are those of independent categorical distributions."""
    policy = Policy(VECTOR, MultiDiscrete([2, 5, 3]), 8, "none")
    outputs = 3 * torch.randn(4, 7, 10)
    drawn = policy.draw(outputs, policy.noise(4, 7, generator=torch.Generator()))
    assert drawn.shape == (4, 7, 3) and (drawn < torch.tensor([2, 5, 3])).all()
    parts = [torch.distributions.Categorical(logits=part) for part in outputs.split([2, 5, 3], -1)]
    logprobs, entropy = policy.logprobs(outputs, drawn)
    expected = sum(part.log_prob(drawn[..., i]) for i, part in enumerate(parts))
    torch.testing.assert_close(logprobs, expected)
    torch.testing.assert_close(entropy, sum(part.entropy() for part in parts))
    assert policy.actions(drawn).shape == (4, 7, 3)


def test_a_mixture_of_discrete_and_continuous_actions_is_refused():
    class Mixed(worlds.World):
        observation = VECTOR
        action = Dict({"a": Discrete(2), "b": VECTOR})

    gymnasium.register("Mixed-v0", vector_entry_point=Mixed)
    with pytest.raises(cleanpuffer.UsageError, match=r"action space Dict.*is not supported"):
        make_trainer(env="gym:Mixed-v0")


def test_parts_are_encoded_by_their_shapes():
    encoder = policies.make_encoder((30,), 8, [(2, 3, 4), (6,)])
    assert isinstance(encoder.encoders[0], policies.Grid)
    rows = torch.randn(5, 30)
    encoded = [encoder.encoders[0](rows[:, :24].unflatten(1, (2, 3, 4))), encoder.encoders[1](rows[:, 24:])]
    torch.testing.assert_close(encoder(rows), encoder.linear(torch.relu(torch.cat(encoded, 1))))


def test_the_order_of_entities_and_absent_ones_do_not_matter():
    encoder, crowd = policies.Entities(3, 8), torch.randn(4, 6, 3)
    crowd[:, 4:] = 0
    torch.testing.assert_close(encoder(crowd), encoder(crowd[:, torch.randperm(6)]))
    torch.testing.assert_close(encoder(crowd), encoder(crowd[:, :4]))


def test_many_copies_of_a_foreign_environment_are_one_group():
    assert make_trainer(env="gym:worlds:Last-v0", num_envs=1024).args.groups == 1


# Ends of segments, and episodes that are cut


class Wrong(Trainer):
    """A trainer with a mistake in what it makes of a rollout."""

    mistake = ""

    def collect(self):
        super().collect()
        s = self.segments
        if self.mistake == "cut is end":
            s.terminals, s.truncations = s.terminals | s.truncations, torch.zeros_like(s.truncations)
        elif self.mistake == "last step dropped":
            s.valid[:, -1] = 0


CASES = {
    "cut is end": ("Patience", {"horizon": 16}),
    "last step dropped": ("Last", {"horizon": 8}),
}


@pytest.mark.parametrize("mistake", CASES)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nothing_is_lost_at_the_ends_of_segments_and_episodes(mistake, seed):
    """Each mistake is fatal on an environment made for it, and ours learns there."""
    name, given = CASES[mistake]
    results = []
    for kind in (Trainer, Wrong):
        Wrong.mistake = mistake
        given = given | {
            "env": f"gym:worlds:{name}-v0",
            "recurrent": "none",
            "seed": seed,
            "learning_rate": 0.1,
        }
        trainer = make_trainer(kind, total_timesteps=60_000, gamma=0.5, **given)
        score = learn(trainer)
        first_place = torch.tensor([[1.0, 0.0]])
        with torch.no_grad():
            patience = (
                0 if name == "Last" else trainer.policy.step(first_place, ())[0].softmax(-1)[0, 1].item()
            )
        results.append(score if name == "Last" else patience)
    assert results[0] > 0.9 and results[1] < 0.75, results  # chance is 0.5


# --policy


def test_the_gru_of_the_documentation_remembers(tmp_path):
    """It passes what every policy must: ratios of 1; and learns what no policy without memory can."""
    text = (ROOT / "docs" / "policies.md").read_text()
    (tmp_path / "gru.py").write_text(text.split("```python\n")[1].split("```")[0])
    policy = f"{tmp_path}/gru.py:GRUPolicy"
    trainer = make_trainer(env="memory", policy=policy, num_envs=256, horizon=64, total_timesteps=600_000)
    trainer.collect()
    s = trainer.segments
    with torch.no_grad():
        logprobs, _ = trainer.policy.logprobs(trainer.policy(s.observations, (s.h, s.c))[0], s.actions)
    assert ((logprobs - s.logprobs).exp() - 1).abs().max() < 1e-5
    assert learn(trainer, 0.9) > 0.9


@pytest.mark.parametrize(
    "name, message",
    [
        ("nowhere.py:Policy", "there is no file nowhere.py"),
        ("nowhere", "must be file.py:Class"),
        ("variants/entities.py:Entity", "no class Entity in"),
        ("variants/entities.py:Entities", "Entities is no policy"),
    ],
)
def test_a_policy_that_is_not_there_is_refused(name, message):
    with pytest.raises(cleanpuffer.UsageError, match=message):
        make_trainer(env="squared", policy=name)


def test_a_policy_is_trained_and_evaluated_from_the_command_line(tmp_path):
    words = [sys.executable, ROOT / "cleanpuffer.py"]
    new = ["--env=gym:worlds:Crowd-v0", "--policy=variants/entities.py:EntityPolicy", "--run-dir=r"]
    for more in ([*new, "--total-timesteps=5000"], ["--eval=r", "--episodes=10"]):
        done = subprocess.run(
            [*words, *more],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert "score" in done.stdout


# Replay


def test_segments_of_the_highest_priority_are_kept_as_they_were():
    trainer = make_trainer(env="squared", replay_factor=0.5, num_envs=16, minibatch_size=64)
    trainer.collect()
    trainer.update()
    s = trainer.segments
    priorities = trainer.estimate()[2]
    assert trainer.replayed == 8 and len(s.h) == 24
    assert set(priorities[16:].tolist()) == set(priorities[:16].topk(8).values.tolist())
    first = {name: x[16:].clone() for name, x in vars(s).items()}
    trainer.collect()
    for name, x in vars(s).items():
        assert torch.equal(x[16:], first[name]), name
    ratios = s.ratios[16:].clone()
    assert (ratios != 1).any()  # they are off-policy, and known to be
    trainer.update()
    assert trainer.replayed == 8 and torch.isfinite(trainer.losses).all()


def test_a_resumed_run_has_its_replayed_segments():
    trainers = [make_trainer(env="squared", replay_factor=0.5, num_envs=16) for _ in range(2)]
    for _ in range(2):
        trainers[0].collect()
        trainers[0].update()
    trainers[1].load(trainers[0].save())
    for trainer in trainers:
        trainer.collect()
        trainer.update()
    for a, b in zip(*(trainer.parameters for trainer in trainers), strict=True):
        assert torch.equal(a, b)


def test_replay_learns():
    assert learn(make_trainer(env="squared", replay_factor=1.0, total_timesteps=1_000_000), 0.9) >= 0.9


# Width


def test_the_base_width_changes_nothing():
    losses = []
    for base in (0, 16):
        trainer = make_trainer(env="squared", hidden_size=16, mup_base_width=base)
        for _ in range(2):
            trainer.collect()
            trainer.update()
        losses.append(trainer.losses)
    assert torch.equal(*losses)


@pytest.mark.parametrize("optimizer, rate", [("muon", 0.02), ("adam", 0.002)])
def test_activations_and_outputs_move_alike_at_all_widths(optimizer, rate):
    """The coordinate check: how far ten steps on the same data go; without it, farther the wider it is."""
    moved = {}
    for base in (0, 32):
        for width in (32, 512):
            torch.manual_seed(0)
            policy = Policy(VECTOR, Discrete(4), width, "lstm", None, False, None, base, optimizer)
            muon = cleanpuffer.Muon(policy.parameters(), rate, adam=optimizer == "adam")
            observations, generator = torch.randn(64, 8, 3), torch.Generator().manual_seed(1)
            target = torch.randn(64, 8, 4, generator=generator)
            with torch.no_grad():
                before = policy(observations, policy.initial_state(64))[0], policy.encode(observations)
            for _ in range(10):
                outputs, values = policy(observations, policy.initial_state(64))
                loss = ((outputs - target) ** 2).mean() + ((values - target[..., 0]) ** 2).mean()
                for p, gradient in zip(
                    policy.parameters(), torch.autograd.grad(loss, list(policy.parameters())), strict=True
                ):
                    p.grad = gradient
                muon.step()
            with torch.no_grad():
                after = policy(observations, policy.initial_state(64))[0], policy.encode(observations)
            sizes = [(b - a).square().mean().sqrt().item() for a, b in zip(before, after, strict=True)]
            moved[base, width] = [*sizes, before[1].square().mean().sqrt().item()]
    grown = {b: [w / n for w, n in zip(moved[b, 512], moved[b, 32], strict=True)] for b in (0, 32)}
    assert all(0.4 < ratio < 2.5 for ratio in grown[32]), grown
    assert not all(0.4 < ratio < 2.5 for ratio in grown[0]), grown
