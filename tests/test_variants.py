"""What is built on the trainer in variants/: P3O, E3B and DIAYN, held to naive computations."""

import math
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

import cleanpuffer
import envs
import settings
from variants import diayn, e3b, p3o

ROOT = Path(__file__).resolve().parent.parent
VARIANTS = {
    "p3o": (p3o, ["--env", "pong"]),
    "e3b": (e3b, ["--env", "maze"]),
    "diayn": (diayn, ["--env", "snake", "--env-config.agents", "4"]),
}
SMALL = ["--num-envs", "4", "--horizon", "16", "--minibatch-size", "32", "--num-threads", "1"]


def trainer(name: str, *arguments: str) -> cleanpuffer.Trainer:
    module, env = VARIANTS[name]
    args = settings.parse_arguments([*env, *SMALL, *arguments], module.Args)
    settings.choose_sizes(args)
    return module.Trainer(args)


def train(trainer: cleanpuffer.Trainer, updates: int) -> None:
    for _ in range(updates):
        trainer.collect()
        trainer.update()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_each_is_short():
    for name in VARIANTS:
        assert len((ROOT / "variants" / f"{name}.py").read_text().splitlines()) <= 200


@pytest.mark.parametrize("name", VARIANTS)
def test_trains_and_goes_on_with_the_same_bits(name):
    first = trainer(name)
    train(first, 6)
    assert first.losses.isfinite().all() and first.losses[2] > 0
    # What changes the policy or its loss must not be left to the network in C; a bonus can be.
    assert (first.policy.network is None) == (name == "p3o")
    again = trainer(name)
    again.load(first.save())
    train(first, 2)
    train(again, 2)
    for own, other in zip(first.parameters, again.parameters, strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_is_evaluated_by_the_trainer_and_by_itself(name, tmp_path, capsys):
    module, env = VARIANTS[name]
    arguments = [*env, *SMALL, "--total-timesteps", "500", "--run-dir", str(tmp_path / "run")]
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    assert cleanpuffer.main(arguments, module.Args, module.Trainer) == 0
    capsys.readouterr()
    for kind in (cleanpuffer.Args, module.Args):
        assert cleanpuffer.main(["--eval", str(tmp_path / "run"), "--episodes", "2"], kind) == 0
    for number, handler in handlers:
        signal.signal(number, handler)
    first, second = capsys.readouterr().out.splitlines()
    assert first == second and re.match(r"score -?[\d.]+ ", first)


def test_starts_as_a_script_from_anywhere(tmp_path):
    script = [sys.executable, ROOT / "variants" / "p3o.py", "--help"]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "--reward-horizon" in done.stdout, done.stderr


def test_p3o_advantages_are_those_of_a_loop():
    rows, horizon, steps, strength = 5, 12, 7, 0.4
    rewards = torch.randn(rows, horizon, generator=generator())
    done = (torch.rand(rows, horizon, generator=generator()) < 0.2).long()
    means, stds = torch.rand(2, rows, horizon, steps, generator=generator()) + 0.5
    windows, known = p3o.next_rewards(rewards, done, steps)
    result = p3o.p3o_advantages(windows, known, means, stds, torch.tensor(0.8), strength)
    assert done.any() and (known == 0).any()
    for row in range(rows):
        for t in range(horizon):
            weights = [max(0.0, float(s) ** -2 - strength / 0.8**2) for s in stds[row, t]]
            total = 0.0
            for j in range(steps):
                if t + j == horizon:
                    break
                assert known[row, t, j] == 1 and windows[row, t, j] == rewards[row, t + j]
                total += weights[j] / max(weights) * float(rewards[row, t + j] - means[row, t, j])
                if done[row, t + j]:
                    break
            assert known[row, t].sum() == j + (t + j < horizon)
            assert float(result[row, t]) == pytest.approx(total, abs=1e-5)


def test_p3o_weighs_nothing_that_cannot_be_predicted():
    rewards, known = p3o.next_rewards(torch.ones(1, 8), torch.zeros(1, 8, dtype=torch.long), 4)
    stds = torch.full((1, 8, 4), 2.0)
    assert not p3o.p3o_advantages(rewards, known, 0 * stds, stds, torch.tensor(1.0), 0.5).any()
    equal = p3o.p3o_advantages(rewards, known, 0 * stds, stds, torch.tensor(1.0), 0.0)
    assert equal.tolist() == [[4, 4, 4, 4, 4, 3, 2, 1]]


def test_p3o_loss_is_the_likelihood_of_the_rewards_that_are_known():
    subject = trainer("p3o")
    train(subject, 1)
    subject.ahead = 5
    s, index = subject.segments, torch.tensor([1, 3])
    s.rewards.normal_(generator=generator())
    s.terminals.copy_(torch.rand(s.terminals.shape, generator=generator()) < 0.1)
    values = torch.randn(2, 16, 2 * p3o.STEPS, generator=generator())
    loss = subject.value_loss(index, values, values, s.rewards[index])
    for row, segment in enumerate(index.tolist()):
        for t in range(16):
            terms = []
            for j in range(min(subject.ahead + p3o.BEYOND, 16 - t)):
                normal = torch.distributions.Normal(values[row, t, j], values[row, t, p3o.STEPS + j].exp())
                logprob = normal.log_prob(s.rewards[segment, t + j]) + 0.5 * math.log(2 * math.pi)
                terms.append(-float(logprob))
                if s.terminals[segment, t + j] or s.truncations[segment, t + j]:
                    break
            assert float(loss[row, t]) == pytest.approx(np.mean(terms), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("predicted, ahead", [(0.5, 40), (2.0, 16)])
def test_p3o_looks_as_far_ahead_as_rewards_can_be_predicted(predicted, ahead):
    subject = trainer("p3o", "--reward-horizon", "40", "--learning-rate", "0")
    subject.policy.critic.bias.data[p3o.STEPS :] = math.log(predicted)
    subject.return_moment.copy_(torch.tensor([1.0, 1.0]))
    subject.collect()
    subject.reward_std = torch.tensor(1.0)
    subject.update()
    assert subject.ahead == ahead


def test_e3b_bonus_is_that_of_a_matrix_inverted_anew():
    rows, horizon, d, ridge = 3, 20, 4, 0.1
    seen = torch.randn(rows, horizon + 1, d, generator=generator())
    done = torch.rand(rows, horizon, generator=generator()) < 0.15
    assert done.any(1).all()
    inverse = (torch.eye(d) / ridge).repeat(rows, 1, 1)
    halves = [  # two segments: the state is carried from one to the other
        e3b.elliptical_bonus(seen[:, a:b], seen[:, b], done[:, a:b], inverse, ridge)
        for a, b in ((0, 9), (9, horizon))
    ]
    for row in range(rows):
        covariance = ridge * np.eye(d)
        for t, paid in enumerate(torch.cat(halves, 1)[row].tolist()):
            phi, following = seen[row, t].double().numpy(), seen[row, t + 1].double().numpy()
            covariance += np.outer(phi, phi)
            expected = 0 if done[row, t] else following @ np.linalg.inv(covariance) @ following
            assert paid == pytest.approx(expected, rel=1e-3, abs=1e-5)
            if done[row, t]:
                covariance = ridge * np.eye(d)
        np.testing.assert_allclose(inverse[row], np.linalg.inv(covariance), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["e3b", "diayn"])
def test_the_bonus_is_added_to_the_reward(name):
    """And nothing else is, as two rollouts with the same seed show."""
    rewards = []
    for coefficient in ("0", "0.5"):
        subject = trainer(name, "--bonus-coef", coefficient, "--no-normalize-returns")
        subject.collect()
        rewards.append(subject.segments.rewards.clone())
    s = subject.segments
    done = (s.terminals | s.truncations).bool()
    bonus = (rewards[1] - rewards[0]) / 0.5
    assert bonus[~done].abs().min() > 0 and not bonus[done].any()
    if name == "e3b":
        assert (bonus >= 0).all()
    else:
        assert bonus.max() <= math.log(diayn.SKILLS)


def test_e3b_features_learn_what_actions_change():
    subject = trainer("e3b", "--learning-rate", "0", "--inverse-minibatches", "0")
    subject.collect()
    follows = ~subject.segments.terminals.bool() & ~subject.segments.truncations.bool()
    places = follows[:, :-1].nonzero(as_tuple=True)
    losses = [float(subject.learn_features(*places)) for _ in range(300)]
    assert losses[-1] < 0.6 * losses[0]


def test_diayn_bonus_is_that_of_a_loop():
    logprobs = torch.randn(3, 5, diayn.SKILLS, generator=generator()).log_softmax(-1)
    skills = torch.randint(diayn.SKILLS, (3, 5), generator=generator())
    done = torch.rand(3, 5, generator=generator()) < 0.3
    bonus = diayn.skill_bonus(logprobs, skills, done)
    for row, t in np.ndindex(3, 5):
        log_q = float(logprobs[row, t, skills[row, t]])
        expected = 0 if done[row, t] else log_q - math.log(1 / diayn.SKILLS)
        assert float(bonus[row, t]) == pytest.approx(expected, abs=1e-6)


def test_diayn_gives_every_episode_a_skill():
    plain = envs.make("maze", 6, seed=3, groups=2, config={"max_steps": 5})
    env = diayn.SkillEnv(envs.make("maze", 6, seed=3, groups=2, config={"max_steps": 5}))
    plain.reset(), env.reset()
    numbers, skills = plain.single_observation_space.shape[0], np.arange(6)
    for step in range(35):
        for group in range(2):
            rows = plain.rows(group)
            expected = plain.step(np.full(3, step % 4), group)
            observations, _, terminals, truncations, infos = env.step(np.full(3, step % 4), group)
            if "final_obs" in infos:
                last = infos["final_obs"][truncations]
                assert (last[:, numbers:].argmax(1) == skills[rows][truncations]).all()
                np.testing.assert_array_equal(last[:, :numbers], expected[4]["final_obs"][truncations])
            skills[rows] = (skills[rows] + (terminals | truncations)) % diayn.SKILLS
            np.testing.assert_array_equal(observations[:, :numbers], expected[0])
            np.testing.assert_array_equal(observations[:, numbers:], np.eye(diayn.SKILLS)[skills[rows]])
    np.testing.assert_array_equal(env.observations[:, numbers:].argmax(1), skills)
    assert (skills != np.arange(6)).all()


def test_diayn_discriminator_does_not_see_the_skill():
    subject = trainer("diayn")
    subject.collect()
    seen = subject.segments.observations.flatten(0, 1)
    changed = seen.clone()
    changed[:, -diayn.SKILLS :] = changed[:, -diayn.SKILLS :].roll(1, 1)
    assert not torch.equal(seen, changed)
    assert torch.equal(subject.discriminator(seen), subject.discriminator(changed))
    losses = [float(subject.learn_skills(seen)) for _ in range(100)]
    assert losses[-1] < losses[0]


def test_diayn_policy_takes_observations_without_a_skill():
    """Images, too, which are convolved beside the skill."""
    for space in (Box(-1, 1, (7,), np.float32), Box(0, 255, (1, 5, 5), np.uint8)):
        rest = envs.make("pong", 1).single_action_space, 16, "lstm", None, False, None
        policy = diayn.SkillPolicy(space, *rest)
        skilled = diayn.SkillPolicy(
            diayn.SkillSpace(space), *rest[:-1], diayn.parts_of(space, None)
        )  # as in training
        skilled.load_state_dict(policy.state_dict())
        plain = torch.from_numpy(np.stack([space.sample() for _ in range(10)]))
        whole = torch.from_numpy(policy.space.append(plain.numpy(), np.arange(10) % diayn.SKILLS))
        results = policy.step(plain, policy.initial_state(10)), skilled.step(whole, policy.initial_state(10))
        assert torch.equal(results[0][0], results[1][0])
