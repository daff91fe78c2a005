"""Heads for discrete and continuous actions, masks, convolution, normalisation."""

import math

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary

import cleanpuffer
import policies
from cleanpuffer import Policy
from settings import choose_sizes

VECTOR = Box(-10, 10, (3,), np.float32)
LEGS = Box(np.float32([-2, 0]), np.float32([2, 10]), dtype=np.float32)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_discrete_draws_follow_the_softmax():
    policy = Policy(VECTOR, Discrete(3), 8, "none")
    logits = torch.tensor([0.0, 1.0, -1.0]).expand(100_000, 3)
    drawn = policy.draw(logits, policy.noise(100_000, generator=generator()))
    shares = torch.bincount(drawn, minlength=3) / len(drawn)
    # three standard deviations of a share are below 0.005
    torch.testing.assert_close(shares, logits[0].softmax(-1), rtol=0, atol=0.005)
    logprobs, entropy = policy.logprobs(logits, drawn)
    known = torch.distributions.Categorical(logits=logits)
    torch.testing.assert_close(logprobs, known.log_prob(drawn))
    torch.testing.assert_close(entropy, known.entropy())
    assert policy.actions(drawn).dtype == np.int64


def test_continuous_actions_are_normal_in_units_of_their_bounds_and_cut_there():
    policy = Policy(VECTOR, LEGS, 8, "none")
    policy.log_std.data = torch.tensor([-1.0, 0.5])
    means = torch.tensor([0.5, -0.2]).expand(100_000, 2)
    drawn = policy.draw(means, policy.noise(100_000, generator=generator()))
    known = torch.distributions.Normal(means, policy.log_std.detach().exp())
    torch.testing.assert_close(drawn.mean(0), means[0], rtol=0, atol=0.02)
    torch.testing.assert_close(drawn.std(0), known.stddev[0], rtol=0.02, atol=0)
    logprobs, entropy = policy.logprobs(means, drawn)
    torch.testing.assert_close(logprobs, known.log_prob(drawn).sum(-1))
    torch.testing.assert_close(entropy, known.entropy().sum(-1))
    actions = policy.actions(drawn)
    assert actions.dtype == np.float32 and (actions >= LEGS.low).all() and (actions <= LEGS.high).all()
    ends = policy.actions(torch.tensor([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0], [-50.0, 50.0]]))
    np.testing.assert_array_equal(ends, [[-2, 0], [0, 5], [2, 10], [-2, 10]])


def test_actions_without_bounds_are_taken_as_they_are():
    space = Box(np.float32([-np.inf, 0]), np.float32([np.inf, np.inf]), dtype=np.float32)
    actions = Policy(VECTOR, space, 8, "none").actions(torch.tensor([[-30.0, 30.0], [0.5, -1.0]]))
    np.testing.assert_array_equal(actions, [[-30, 30], [0.5, 0]])


def test_actions_keep_the_shape_of_their_space():
    policy = Policy(VECTOR, Box(-1, 1, (2, 3), np.float32), 8, "lstm")
    outputs, _, _ = policy.step(torch.zeros(5, 3), policy.initial_state(5))
    drawn = policy.draw(outputs, policy.noise(5, generator=generator()))
    assert drawn.shape == (5, 6) and policy.actions(drawn).shape == (5, 2, 3)


def test_other_action_spaces_are_refused():
    with pytest.raises(cleanpuffer.UsageError, match="MultiBinary"):
        Policy(VECTOR, MultiBinary([2, 2]), 8, "lstm")


def test_illegal_actions_are_never_drawn_and_give_no_gradient():
    space = Box(-1, 1, (2, 4), np.int8)
    policy = Policy(space, Discrete(4), 8, "lstm", action_mask=slice(4, 8))
    flags = (torch.rand(64, 10, 4, generator=generator()) < 0.5).to(torch.int8)
    flags[..., 0] = 1  # there is always a legal one
    observations = torch.stack([torch.ones_like(flags), flags], 2)
    outputs, _ = policy(observations, policy.initial_state(64))
    drawn = policy.draw(outputs, policy.noise(64, 10, generator=generator()))
    assert flags.gather(-1, drawn.unsqueeze(-1)).all() and (drawn > 0).any()
    logprobs, entropy = policy.logprobs(outputs, drawn)
    (logprobs.sum() + entropy.sum()).backward()
    assert logprobs.isfinite().all() and (entropy >= 0).all()
    assert all(p.grad.isfinite().all() for p in policy.parameters() if p.grad is not None)
    alone = (flags.sum(-1) == 1).float()
    assert alone.any() and (entropy * alone).abs().max() == 0


@pytest.mark.parametrize("recurrent", ["lstm", "none"])
def test_images_are_convolved_and_play_equals_training(recurrent):
    space = Box(0, 255, (4, 84, 84), np.uint8)
    policy = Policy(space, Discrete(6), 16, recurrent)
    assert isinstance(policy.encoder, policies.Convolution)
    images = torch.randint(0, 256, (2, 3, 4, 84, 84), dtype=torch.uint8, generator=generator())
    state = policy.initial_state(2)
    logits, values = policy(images, state)
    for t in range(3):
        step_logits, step_values, state = policy.step(images[:, t], state)
        torch.testing.assert_close(step_logits, logits[:, t], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(step_values, values[:, t], rtol=1e-4, atol=1e-5)
    assert not isinstance(
        Policy(Box(0, 1, (3, 9, 9), np.uint8), Discrete(2), 8, "lstm").encoder, policies.Convolution
    )


def test_normalizer_knows_mean_and_variance_of_all_it_saw():
    normalizer, rng = policies.Normalizer((2,)), np.random.default_rng(0)
    x = torch.from_numpy(rng.normal([5, -1000], [0.1, 30], (7, 11, 2)).astype(np.float32))
    torch.testing.assert_close(normalizer(x / 1000), x / 1000)  # nothing was seen yet
    for part in x:
        normalizer.update(part)
    every = x.double().reshape(-1, 2)
    torch.testing.assert_close(normalizer.mean, every.mean(0))
    torch.testing.assert_close(normalizer.variance, every.var(0, correction=0))
    normal = normalizer(x)
    # float32 near 1000 in units of 30 leaves about 1e-5
    torch.testing.assert_close(normal.mean((0, 1)), torch.zeros(2), rtol=0, atol=1e-4)
    torch.testing.assert_close(normal.reshape(-1, 2).std(0, correction=0), torch.ones(2), rtol=0, atol=1e-4)
    assert normalizer(torch.tensor([1e9, -1e9])).tolist() == [10, -10]


def test_normalized_observations_are_saved_with_the_policy():
    policy = Policy(VECTOR, Discrete(2), 8, "lstm", normalize=True)
    policy.normalizer.update(torch.randn(100, 3) * 5 + 3)
    other = Policy(VECTOR, Discrete(2), 8, "lstm", normalize=True)
    other.load_state_dict(policy.state_dict())
    x = torch.randn(4, 3)
    assert torch.equal(policy.encode(x), other.encode(x))
    assert not torch.equal(policy.encode(x), torch.relu(policy.encoder(x)))


def make_trainer(**settings) -> cleanpuffer.Trainer:
    args = cleanpuffer.Args(
        **{"env": "squared", "num_envs": 8, "horizon": 16, "minibatch_size": 64} | settings
    )
    choose_sizes(args)
    return cleanpuffer.Trainer(args)


def test_rewards_are_scaled_by_the_size_of_their_discounted_sums():
    plain, scaled = (make_trainer(env="pong", gamma=0.9, normalize_returns=on) for on in (False, True))
    squares = []
    for _ in range(3):  # without updates both play the same
        plain.collect()
        scaled.collect()
        s = plain.segments
        done = (s.terminals | s.truncations).bool().numpy()
        for row in range(8):
            for t in range(16):
                ends = np.flatnonzero(done[row, t:])
                rest = s.rewards[row, t : t + ends[0] + 1 if ends.size else 16].numpy()
                squares.append(np.sum(rest * 0.9 ** np.arange(len(rest))) ** 2)
        expected = s.rewards / math.sqrt(np.mean(squares) + 1e-8)
        torch.testing.assert_close(scaled.segments.rewards, expected, rtol=1e-4, atol=1e-6)
    assert np.mean(squares) > 0.01


def test_actions_that_the_environment_ignored_teach_nothing():
    trainer = make_trainer()
    trainer.collect()
    s = trainer.segments
    trainer.old_values = s.values.clone()
    index, targets = torch.arange(8), torch.randn(8, 16)
    advantages = torch.randn(8, 16)
    s.valid[2, 3:] = 0
    s.valid[5, 15] = 0
    before = trainer.gradients(index, advantages, targets, 128)[0]
    ignored = s.valid == 0
    s.actions[ignored] = (s.actions[ignored] + 1) % 5
    targets[ignored] += 7
    advantages[ignored] *= -3
    torch.testing.assert_close(before, trainer.gradients(index, advantages, targets, 128)[0])
    s.valid[:] = 1
    changed = trainer.gradients(index, advantages, targets, 128)[0]
    assert not torch.allclose(before, changed)
