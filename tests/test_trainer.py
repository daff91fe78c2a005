"""The trainer's parts: optimizer, advantages, rollout, update, same bits, score."""

import gc
import itertools
import math
import shutil
import threading
import time
import weakref
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

import build
import cleanpuffer
import envs
from cleanpuffer import Args, Muon, Scores, Trainer, advantages_reference, orthogonalize
from kernels import cpu
from settings import choose_sizes


def make_trainer(**settings) -> Trainer:
    settings = {
        "env": "pong",
        "num_envs": 16,
        "horizon": 16,
        "minibatch_size": 64,
        "hidden_size": 16,
    } | settings
    args = Args(**{"device": "cpu", "num_threads": 1, "groups": 1} | settings)
    choose_sizes(args)
    return Trainer(args)


# Muon


def test_muon_follows_torch_muon():
    """Same directions and sizes as torch.optim.Muon, which iterates in bfloat16 (8 bits of mantissa)."""
    shapes = [(16, 8), (64, 16), (64, 16), (3, 16), (5, 40)]
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    muon = Muon(ours, lr=0.1, beta1=0.95)
    reference = torch.optim.Muon(theirs, lr=0.1, momentum=0.95, weight_decay=0.0, nesterov=True)
    for _ in range(5):
        before = [p.detach().clone() for p in theirs]
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        muon.step()
        reference.step()
        for p, q, b in zip(ours, theirs, before, strict=True):
            step = (q - b).norm()
            assert (p - q).norm() < 0.05 * step
            p.data.copy_(q.data)  # rounding does not add up over steps


def test_orthogonalize_raises_every_singular_value():
    """In float64, singular values from 1 down to 0.03 end between 0.65 and 1.25; directions stay."""
    torch.manual_seed(1)
    for rows, columns in ((8, 8), (4, 32), (32, 4), (1, 7)):
        n = min(rows, columns)
        u = torch.linalg.qr(torch.randn(rows, n, dtype=torch.float64))[0]
        v = torch.linalg.qr(torch.randn(columns, n, dtype=torch.float64))[0]
        values = torch.logspace(0, -1.5, n, dtype=torch.float64)
        result = orthogonalize((u * values @ v.T).unsqueeze(0))[0]
        diagonal = u.T @ result @ v
        assert ((torch.diagonal(diagonal) > 0.65) & (torch.diagonal(diagonal) < 1.25)).all()
        assert (diagonal - torch.diag(torch.diagonal(diagonal))).abs().max() < 1e-9


def test_muon_takes_convolutions_as_matrices():
    weight = torch.nn.Parameter(torch.zeros(8, 3, 3, 3))
    weight.grad = torch.randn(8, 3, 3, 3)
    Muon([weight], lr=1.0).step()
    values = torch.linalg.svdvals(weight.detach().flatten(1))
    assert ((values > 0.65) & (values < 1.25)).all()


@pytest.mark.parametrize("adam", [False, True])
def test_biases_follow_torch_adam(adam):
    """Biases always, and with adam=True matrices too; eps is large enough to matter."""
    torch.manual_seed(2)
    shape = (6, 4) if adam else (6,)
    p = torch.nn.Parameter(torch.randn(shape))
    q = torch.nn.Parameter(p.detach().clone())
    ours = Muon([p], lr=0.01, beta1=0.9, beta2=0.99, eps=1e-3, adam=adam)
    reference = torch.optim.Adam([q], lr=0.01, betas=(0.9, 0.99), eps=1e-3)
    for _ in range(10):
        p.grad = torch.randn_like(p)
        q.grad = p.grad.clone()
        ours.step()
        reference.step()
    torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


# Advantages


def random_segments(
    segments: int = 7, horizon: int = 13, seed: int = 0, dtype: torch.dtype = torch.float32
) -> list:
    generator = torch.Generator().manual_seed(seed)

    def normal() -> torch.Tensor:
        return torch.randn(segments, horizon, generator=generator, dtype=dtype)

    ends = torch.randint(0, 6, (segments, horizon), generator=generator)
    terminals, truncations = (ends == 0).to(torch.uint8), (ends == 1).to(torch.uint8)
    return [normal(), normal(), normal(), terminals, truncations, normal().exp()]


def plain_vtrace(segments: list, gamma: float, gae_lambda: float, rho_clip: float, c_clip: float) -> tuple:
    """V-trace written as its sum (Espeholt et al. 2018, equation 1), for every start on its own."""
    rewards, values, bootstraps, terminals, truncations, ratios = (x.double().numpy() for x in segments)
    rows, horizon = values.shape
    targets, advantages = np.zeros_like(values), np.zeros_like(values)
    for row, start in itertools.product(range(rows), range(horizon)):
        weight, total, policy = 1.0, 0.0, 0.0
        for t in range(start, horizon):
            end = terminals[row, t] or truncations[row, t]
            following = (
                bootstraps[row, t]
                if truncations[row, t] or t == horizon - 1
                else values[row, min(t + 1, horizon - 1)]
            )
            delta = rewards[row, t] + gamma * (0 if terminals[row, t] else following) - values[row, t]
            rho, c = min(ratios[row, t], rho_clip), min(ratios[row, t], c_clip)
            total += weight * rho * delta
            policy += delta if t == start else weight / min(ratios[row, start], c_clip) * rho * delta
            weight *= gamma * gae_lambda * c
            if end:
                break
        targets[row, start], advantages[row, start] = values[row, start] + total, policy
    return targets, advantages


@pytest.mark.parametrize(
    "settings", [(0.99, 0.95, 1.0, 1.0), (0.9, 0.5, 1.5, 0.7), (1.0, 1.0, 1e6, 1e6), (0.0, 0.9, 1.0, 1.0)]
)
def test_advantages_are_vtrace(settings):
    """The reference equals the sum to 1e-10 in float64; the C kernel equals it to float rounding."""
    segments = random_segments(dtype=torch.float64)
    expected = plain_vtrace(segments, *settings)
    for result, want in zip(advantages_reference(*segments, *settings), expected, strict=True):
        np.testing.assert_allclose(result.numpy(), want, rtol=0, atol=1e-10 * max(1.0, np.abs(want).max()))
    single = [x.float() if x.is_floating_point() else x for x in segments]
    for result, want in zip(cpu.load_advantages()(*single, *settings), expected, strict=True):
        np.testing.assert_allclose(result.numpy(), want, rtol=1e-4, atol=1e-5 * max(1.0, np.abs(want).max()))


def test_advantages_with_ratios_one_are_gae():
    segments = random_segments(seed=3)
    segments[5] = torch.ones_like(segments[5])
    targets, advantages = cpu.load_advantages()(*segments, 0.97, 0.9, 1.0, 1.0)
    torch.testing.assert_close(targets, segments[1] + advantages, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 64), (300, 1), (33, 17)])
def test_kernel_takes_any_shape(shape):
    segments = random_segments(*shape)
    expected = advantages_reference(*segments, 0.99, 0.9, 1.0, 1.0)
    for result, want in zip(cpu.load_advantages()(*segments, 0.99, 0.9, 1.0, 1.0), expected, strict=True):
        torch.testing.assert_close(result, want, rtol=1e-5, atol=1e-5)


# Policy


def test_policy_sees_integers_as_numbers_of_the_order_of_one():
    env = envs.make("squared", 1)
    policy = cleanpuffer.Policy(env.single_observation_space, env.single_action_space, 8, "lstm")
    bytes_space = Box(0, 255, (4,), np.uint8)
    scaled = cleanpuffer.Policy(bytes_space, env.single_action_space, 8, "lstm")
    assert policy.scale == 1 and scaled.scale == pytest.approx(1 / 255)
    white = torch.full((1, 4), 255, dtype=torch.uint8)
    torch.testing.assert_close(scaled.encode(white), torch.relu(scaled.encoder(torch.ones(1, 4))))


def test_lstm_starts_with_memories_of_1_to_128_steps():
    """A unit that is given nothing keeps f = sigmoid(bias) of its cell a step: half of them for longer than
    11 steps."""
    space, actions = Box(0, 1, (4,), np.float32), Discrete(2)
    bias = cleanpuffer.Policy(space, actions, 256, "lstm").lstm.bias_ih_l0.detach()
    forget, steps = bias[256:512], bias[256:512].exp()  # memory 1 / (1 - f) is about exp(bias)
    assert steps.min() >= 1 and steps.max() <= 128 and 8 < steps.median() < 16
    assert torch.equal(bias[:256], -forget) and not bias[512:].any()


# Rollout


KINDS = {
    **{name: {"env": name} for name in envs.names()},
    "continuous": {"env": "pong", "env_config": {"continuous": 1}},
    "normalized": {"env": "cartpole", "normalize_observations": True},
    "gym": {"env": "gym:CartPole-v1", "normalize_observations": True, "groups": 1},
    "gym continuous": {"env": "gym:Pendulum-v1", "normalize_observations": True, "groups": 1},
    "bfloat16": {"env": "pong", "precision": "bfloat16"},
}


@pytest.mark.parametrize("recurrent", ["lstm", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_ratios_are_one_before_the_first_step(kind, recurrent):
    """Training computes what playing did, for every kind of environment, across episode ends, in later
    rollouts."""
    settings = {"groups": 2, "horizon": 32, "precision": "float32", **KINDS[kind]}
    if settings["precision"] == "bfloat16" and not cpu.has_bfloat16():
        pytest.skip("this processor has no products of bfloat16")
    tolerance = 1e-5 if settings["precision"] == "float32" else 2e-2
    trainer = make_trainer(recurrent=recurrent, **settings)
    for _ in range(3):
        trainer.collect()
        s = trainer.segments
        with torch.no_grad():
            outputs, values = trainer.policy(s.observations, (s.h, s.c))
            logprobs, _ = trainer.policy.logprobs(outputs, s.actions)
        assert ((logprobs - s.logprobs).exp() - 1).abs().max() < tolerance
        torch.testing.assert_close(values, s.values, rtol=10 * tolerance, atol=tolerance)
        trainer.update()


def test_what_was_seen_normalizes_the_next_rollout():
    trainer = make_trainer(env="cartpole", normalize_observations=True)
    for _ in range(2):
        trainer.collect()
        seen = trainer.policy.normalizer.count.item()
        trainer.update()
        assert trainer.policy.normalizer.count == seen + trainer.batch
    assert trainer.policy.normalizer.variance[1] > 0.01


def test_a_step_that_an_environment_ignored_is_marked():
    """Gymnasium's own CartPole vector resets in the step after an episode's end."""
    trainer = make_trainer(env="gym:CartPole-v1", horizon=64)
    trainer.collect()
    s = trainer.segments
    done = (s.terminals | s.truncations).bool()
    assert done.any() and torch.equal(s.valid[:, 1:] == 0, done[:, :-1])


def test_a_trainer_plays_legal_moves_only():
    for env, illegal in (("connect4", "full_columns"), ("go", "illegal_moves")):
        trainer = make_trainer(env=env, horizon=64)
        for _ in range(3):
            trainer.collect()
        log = trainer.env.log()
        assert log["n"] and log[illegal] == 0


def test_environments_of_others_need_no_compiler(monkeypatch):
    monkeypatch.setattr(build, "has_compiler", lambda: False)
    trainer = make_trainer(env="gym:CartPole-v1")
    assert trainer.advantages is advantages_reference
    trainer.collect()
    trainer.update()


def test_values_of_what_follows():
    """At cuts the value of the old episode's last observation, at the segment's end that of the next one,
    each under the LSTM state of that moment: recomputed by replaying the actions."""
    settings = {"env": "squared", "env_config": {"size": 5, "max_steps": 7}, "normalize_returns": False}
    settings["state_reset"] = 0.0
    trainer = make_trainer(**settings, horizon=20, minibatch_size=80)
    env, policy = (
        envs.make("squared", 16, trainer.args.seed, config={"size": 5, "max_steps": 7}),
        trainer.policy,
    )
    observations, _ = env.reset()
    state, cuts = policy.initial_state(16), 0
    for _ in range(2):
        trainer.collect()
        s = trainer.segments
        for t in range(20):
            assert torch.equal(s.observations[:, t], torch.from_numpy(observations))
            with torch.no_grad():
                _, _, state = policy.step(torch.from_numpy(observations), state)
                observations, rewards, terminals, truncations, infos = env.step(s.actions[:, t].numpy())
                assert torch.equal(s.rewards[:, t], torch.from_numpy(rewards))
                assert torch.equal(s.terminals[:, t].bool(), torch.from_numpy(terminals))
                assert torch.equal(s.truncations[:, t].bool(), torch.from_numpy(truncations))
                if truncations.any():
                    values = policy.step(torch.from_numpy(infos["final_obs"]), state)[1]
                    where = torch.from_numpy(truncations)
                    torch.testing.assert_close(s.bootstraps[where, t], values[where], rtol=1e-5, atol=1e-6)
                    cuts += int(where.sum())
        with torch.no_grad():
            values = policy.step(torch.from_numpy(observations), state)[1]
        whole = ~s.truncations[:, -1].bool()
        torch.testing.assert_close(s.bootstraps[whole, -1], values[whole], rtol=1e-5, atol=1e-6)
    assert cuts > 30


def test_actions_follow_the_policy():
    """Actions are drawn with the probabilities that the log-probabilities say."""
    trainer = make_trainer(env="bandit", num_envs=256, horizon=64, minibatch_size=256)
    torch.nn.init.normal_(trainer.policy.actor.bias)
    trainer.policy.actor.weight.data.zero_()
    trainer.collect()
    counts = torch.bincount(trainer.segments.actions.flatten(), minlength=8) / trainer.batch
    expected = trainer.policy.actor.bias.detach().softmax(-1)
    assert (counts - expected).abs().max() < 4 * 0.5 / math.sqrt(trainer.batch)  # four standard deviations


def test_some_segments_begin_as_a_fresh_agent_does():
    """The share `state_reset` of the segments begins with a zero state, the rest with the one carried."""
    trainer = make_trainer(num_envs=1024, minibatch_size=64, state_reset=0.25)
    trainer.collect()
    carried = [x.clone() for x in trainer.state]
    trainer.collect()
    fresh = (trainer.segments.h == 0).all(1)
    assert 0.2 < fresh.float().mean() < 0.3  # 0.25 ± 4 standard deviations
    assert torch.equal(trainer.segments.h[~fresh], carried[0][~fresh])
    assert torch.equal(trainer.segments.c[~fresh], carried[1][~fresh])
    assert not trainer.segments.c[fresh].any()


# Update


@pytest.mark.parametrize("vf_clip_coef", [0.05, 0.0])
def test_loss_is_ppos(vf_clip_coef):
    """Losses and gradients equal the formulas written out sample by sample, with ratios on every side of the
    clip."""
    trainer = make_trainer(vf_clip_coef=vf_clip_coef, clip_coef=0.05, vf_coef=0.7, ent_coef=0.3)
    trainer.collect()
    s, index = trainer.segments, torch.tensor([3, 0, 3, 9])
    trainer.old_values = s.values.clone()
    for p in trainer.parameters:
        p.data += 0.15 * torch.randn_like(p)
    advantages, targets = torch.randn(2, 4, 16)
    gradient, stats, _, ratios = trainer.gradients(index, advantages, targets, 64)
    logits, values = trainer.policy(s.observations[index], (s.h[index], s.c[index]))
    policy = value = entropy = clipped = kl = 0.0
    for i, t in itertools.product(range(4), range(16)):
        probabilities, action = logits[i, t].softmax(0), s.actions[index[i], t]
        ratio = probabilities[action] / s.logprobs[index[i], t].exp()
        advantage, target, old = advantages[i, t], targets[i, t], s.values[index[i], t]
        beyond = ratio > 1.05 if advantage > 0 else ratio < 0.95  # where a clipped ratio gives no gradient
        bound = 1.05 if advantage > 0 else 0.95
        policy = policy - advantage * (bound if beyond else ratio) / 64
        error = (values[i, t] - target) ** 2
        if vf_clip_coef:
            near = old + (values[i, t] - old).clamp(-vf_clip_coef, vf_clip_coef)
            error = torch.max(error, (near - target) ** 2)
        value = value + 0.5 * error / 64
        entropy = entropy - (probabilities * probabilities.log()).sum() / 64
        kl = kl + (ratio - 1 - ratio.log()) / 64
        clipped += float(abs(ratio - 1) > 0.05) / 64
    assert (ratios > 1.05).any() and (ratios < 0.95).any() and 0 < clipped < 1
    torch.testing.assert_close(stats, torch.stack([policy, value, entropy, kl, torch.tensor(clipped)]))
    expected = torch.autograd.grad(policy + 0.7 * value - 0.3 * entropy, trainer.parameters)
    expected = torch.cat([x.flatten() for x in expected])
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_minibatches_see_what_training_refreshed():
    """Each minibatch's advantages come from the newest values and ratios; the value clip from the rollout's;
    gradients are cut to max_grad_norm."""
    trainer = make_trainer(update_epochs=4, rho_clip=1.5, c_clip=0.5, max_grad_norm=0.01)
    trainer.collect()
    s, calls, norms = trainer.segments, [], []
    rollout_values, kernel, step = s.values.clone(), trainer.advantages, trainer.optimizer.step

    def advantages(*arguments):
        calls.append([x.clone() if isinstance(x, torch.Tensor) else x for x in arguments])
        return kernel(*arguments)

    def optimizer_step():
        norms.append(torch.cat([p.grad.flatten() for p in trainer.parameters]).norm().item())
        step()

    trainer.advantages, trainer.optimizer.step = advantages, optimizer_step
    trainer.update()
    assert calls[0][6:] == [trainer.args.gamma, trainer.args.gae_lambda, 1.5, 0.5]
    assert torch.equal(calls[0][1], rollout_values) and (calls[0][5] == 1).all()
    assert (calls[-1][1] != rollout_values).any() and (calls[-1][5] != 1).any()
    assert torch.equal(trainer.old_values, rollout_values)
    assert max(norms) <= 0.01 * 1.001


def test_a_trainer_goes_when_it_is_let_go():
    """And not when Python looks for cycles: its buffers are large."""
    trainer = make_trainer()
    trainer.collect()
    trainer.update()
    reference = weakref.ref(trainer)
    gc.disable()
    try:
        del trainer
        assert reference() is None
    finally:
        gc.enable()


def test_shards_give_the_minibatch_gradient():
    """The gradient is the sum of the shards' gradients, whatever their number."""
    results = []
    for shard in (2**40, 3):
        trainer = make_trainer(minibatch_size=256)
        trainer.shard = shard
        trainer.collect()
        trainer.update()
        results.append(torch.cat([p.detach().flatten() for p in trainer.parameters]))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_overridden_gradients_are_given_shards():
    """Also where the network in C would cut a minibatch itself; what is learned is the same."""
    results, given = [], []

    class Counting(Trainer):
        def gradients(self, index, *rest):
            given.append(len(index))
            return super().gradients(index, *rest)

    for kind in (Trainer, Counting):
        trainer = kind(make_trainer(minibatch_size=256, precision="float32").args)
        trainer.shard = 3
        assert trainer.policy.network
        given.clear()  # of the comparison at the start
        trainer.collect()
        trainer.update()
        results.append(torch.cat([p.detach().flatten() for p in trainer.parameters]))
    assert given and max(given) == 3
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_parallel_waits_for_all_before_it_raises():
    """What others still do would write where nothing is any more."""
    trainer, done = make_trainer(num_threads=2), []

    def work(item):
        if threading.current_thread() is threading.main_thread():
            raise ZeroDivisionError
        time.sleep(0.2)
        done.append(item)

    with pytest.raises(ZeroDivisionError):
        trainer.parallel(work, range(2))
    assert len(done) == 1


@pytest.mark.parametrize("alpha, beta0, progress, beta", [(1.0, 1.0, 0.0, 1.0), (0.5, 0.2, 0.5, 0.6)])
def test_prioritised_sampling(monkeypatch, alpha, beta0, progress, beta):
    """Segments are drawn in proportion to |advantage|^alpha and weighted by (segments x probability)^-beta,
    where beta rises from beta0 to 1."""
    trainer = make_trainer(num_envs=64, horizon=8, minibatch_size=8 * 32, prio_alpha=alpha, prio_beta0=beta0)
    trainer.args.learning_rate = 0.0
    trainer.optimizer.param_groups[0]["initial_lr"] = trainer.optimizer.param_groups[1]["initial_lr"] = 0.0
    trainer.collect()
    trainer.steps = int(progress * trainer.args.total_timesteps)
    captured = []
    original = Trainer.gradients

    def gradients(self, index, advantages, targets, samples):
        captured.append((index, advantages))
        return original(self, index, advantages, targets, samples)

    monkeypatch.setattr(Trainer, "gradients", gradients)
    trainer.args.update_epochs = 200.0
    trainer.update()
    s, args = trainer.segments, trainer.args
    experience = s.rewards, s.values, s.bootstraps, s.terminals, s.truncations, torch.ones_like(s.values)
    _, advantages = advantages_reference(*experience, args.gamma, args.gae_lambda, 1.0, 1.0)
    probabilities = advantages.abs().sum(1) ** alpha
    probabilities /= probabilities.sum()
    drawn = torch.bincount(torch.cat([index for index, _ in captured]), minlength=64).float()
    error = (drawn / drawn.sum() - probabilities) / (probabilities / drawn.sum()).sqrt()
    assert error.abs().max() < 5  # standard deviations
    index, weighted = captured[0]
    plain = advantages[index]
    plain = (plain - plain.mean()) / (plain.std(correction=0) + 1e-8)
    weights = (64 * probabilities[index]) ** -beta
    torch.testing.assert_close(weighted, plain * weights.unsqueeze(1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("epochs, count", [(0.01, 1), (0.5, 2), (1.0, 4), (2.0, 8)])
def test_number_of_minibatches(monkeypatch, epochs, count):
    trainer = make_trainer(update_epochs=epochs, minibatch_size=64)
    calls = []
    monkeypatch.setattr(trainer.optimizer, "step", lambda: calls.append(1))
    trainer.collect()
    trainer.update()
    assert len(calls) == count


@pytest.mark.parametrize("schedule, middle", [("cosine", 0.55), ("linear", 0.55), ("constant", 1.0)])
def test_schedule_scales_every_group(schedule, middle):
    trainer = make_trainer(schedule=schedule, learning_rate=0.1, min_learning_rate=0.01, total_timesteps=1000)
    trainer.optimizer.param_groups[1]["initial_lr"] = 0.5
    trainer.collect()
    trainer.steps = 500
    trainer.update()
    assert [group["lr"] for group in trainer.optimizer.param_groups] == pytest.approx(
        [0.1 * middle, 0.5 * middle]
    )
    trainer.steps = 2000
    assert trainer.learning_rate_factor() == pytest.approx(1.0 if schedule == "constant" else 0.1)


@pytest.mark.parametrize("name", ["learning_rate", "gamma"])
def test_not_finite_is_caught(name):
    trainer = make_trainer()
    trainer.collect()
    setattr(trainer.args, name, math.nan)
    for group in trainer.optimizer.param_groups:
        group["initial_lr"] = trainer.args.learning_rate
    with pytest.raises(cleanpuffer.Diverged):
        trainer.update()


@pytest.mark.parametrize("name", ["losses", "return_moment", "parameter"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_each_number_is_looked_at(name, value, monkeypatch):
    """One of a kind ends a run if it is not finite, and only then."""
    trainer = make_trainer()
    trainer.collect()
    monkeypatch.setattr(trainer, "learn", lambda *_: None)
    if name == "losses":
        monkeypatch.setattr(trainer, "average", lambda _: [torch.tensor([0, value])])
    elif name == "return_moment":
        trainer.return_moment[0] = value
    else:
        value = min(value, 1e15)
        trainer.parameters[-1].data[-1] = value
    with nullcontext() if math.isfinite(value) else pytest.raises(cleanpuffer.Diverged):
        trainer.update()


def test_gradients_belong_to_their_parameters():
    """Also after somebody has taken them away; others than there are parameters are an error."""
    trainer, other = make_trainer(), make_trainer()
    for each in (trainer, other):
        each.collect()
        if each is other:
            other.policy.zero_grad()
            other.policy.critic.weight.grad = torch.ones_like(other.policy.critic.weight)
        each.update()
    assert all(map(torch.equal, trainer.parameters, other.parameters))
    gradients = trainer.gradients
    trainer.gradients = lambda *work: (torch.cat((gradients(*work)[0], torch.ones(1))), *gradients(*work)[1:])
    trainer.collect()
    with pytest.raises(RuntimeError):
        trainer.update()


@pytest.mark.parametrize(
    ("rows", "settings", "groups"),
    [
        (256, {}, 2),
        (128, {}, 1),
        (1024, {}, 4),
        (255, {}, 1),
        (1024, {"recurrent": "none"}, 2),
        (512, {"hidden_size": 24}, 1),
        (512, {"env_config": {"continuous": 1}}, 1),
        (256, {"normalize_observations": True}, 1),
    ],
)
def test_groups(rows, settings, groups):
    """Where torch plays, each takes as many operations as one of all rows."""
    args = Args(env="pong", num_envs=rows, minibatch_size=1024, horizon=16, device="cpu", **settings)
    choose_sizes(args)
    assert args.groups == groups


# Same bits


def weights_after(updates: int = 3, **settings) -> torch.Tensor:
    trainer = make_trainer(num_envs=32, minibatch_size=256, **settings)
    trainer.shard = 4  # so that threads have something to share
    for _ in range(updates):
        trainer.collect()
        trainer.update()
    return torch.cat([p.detach().flatten() for p in trainer.parameters])


@pytest.mark.parametrize("hidden_size", [16, 64])  # of 64, matrices are orthogonalised in parallel, too
def test_threads_do_not_change_a_bit(hidden_size):
    """Other groups do: matrix products of another number of rows may round differently."""
    same = {"groups": 4, "hidden_size": hidden_size}
    reference = weights_after(**same)
    torch.testing.assert_close(reference, weights_after(**same | {"groups": 1}), rtol=1e-2, atol=1e-3)
    for settings in (
        {"num_threads": 2},
        {"num_threads": 3, "env_threads": 3},
        {"num_threads": 2, "env_threads": 2},
    ):
        assert torch.equal(reference, weights_after(**same, **settings)), settings
    assert not torch.equal(reference, weights_after(**same, seed=2))


def test_state_continues_with_the_same_bits():
    """Saved and loaded into a new trainer in the middle, a run ends in the same weights."""
    reference = make_trainer(env="squared")
    for _ in range(6):
        reference.collect()
        reference.update()
    first = make_trainer(env="squared")
    for _ in range(3):
        first.collect()
        first.update()
    second = make_trainer(env="squared", seed=7)
    second.load(first.save())
    for _ in range(3):
        second.collect()
        second.update()
    for p, q in zip(reference.parameters, second.parameters, strict=True):
        assert torch.equal(p, q)


# Score


def test_score_window():
    """Episodes since the last line; where they are fewer than 100, whole reports before it as well."""
    scores = Scores()
    assert scores.means() == {"score": None, "episodes": 0}
    scores.add({"score": 9.0, "perf": 0.9, "n": 50.0})
    scores.add({"n": 0.0})
    scores.add({"score": 0.0, "perf": 0.0, "n": 90.0})
    scores.since_line = 0
    scores.add({"score": 1.0, "perf": 0.5, "n": 20.0})
    assert scores.means() == {
        "score": pytest.approx(20 / 110),
        "episodes": 110,
        "perf": pytest.approx(10 / 110),
    }
    scores.add({"score": 2.0, "perf": 0.5, "n": 80.0})
    assert scores.means()["episodes"] == 100
    scores.add({"score": 2.0, "perf": 0.5, "n": 80.0})
    assert scores.means()["episodes"] == 180


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs g++")
@pytest.mark.parametrize(
    "settings", [{"recurrent": "none"}, {"env": "pong", "env_config": {"continuous": 1}}]
)
def test_a_compiled_policy_learns_the_same(monkeypatch, settings):
    """To rounding, which fused operations change. Of what torch does, also round an LSTM in C; a whole
    network in C is not compiled."""
    monkeypatch.setattr(cpu.Kernel, "__call__", cpu.Kernel.__call__)  # which is changed
    losses = []
    for compiled in (False, True):
        trainer = make_trainer(compile=compiled, **settings)
        trainer.collect()
        trainer.update()
        losses.append(trainer.losses)
    torch.testing.assert_close(*losses, atol=1e-4, rtol=1e-3)
