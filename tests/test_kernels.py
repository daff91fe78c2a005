"""The kernels in C against what they are fast versions of."""

import ctypes
import inspect
import itertools
import math
import os
import shlex
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps

import pytest
import torch

import build
import cleanpuffer
from cleanpuffer import Args, Trainer
from envs.vector import VecEnv
from kernels import cpu
from settings import choose_sizes

SIZES = list(itertools.product((16, 48, 128), ((1, 1), (5, 7), (9, 16))))  # hidden, (rows, horizon)
PRECISIONS = pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])


def module(hidden: int) -> torch.nn.LSTM:
    torch.manual_seed(hidden)
    lstm = torch.nn.LSTM(hidden, hidden, batch_first=True)
    for parameter in lstm.parameters():
        torch.nn.init.normal_(parameter, 0, 2 / hidden**0.5)  # gates from shut to open
    return lstm


def needs(bfloat16: bool) -> None:
    if bfloat16 and not cpu.has_bfloat16():
        pytest.skip("this processor has no products of bfloat16")


def make_trainer(**settings) -> Trainer:
    args = Args(**({"num_envs": 16, "horizon": 16, "minibatch_size": 64, "num_threads": 1} | settings))
    choose_sizes(args)
    return Trainer(args)


def by_parameter(trainer: Trainer, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return gradient.split([p.numel() for p in trainer.parameters])


def test_the_reference_is_an_lstm():
    lstm = module(16).double()
    x, state = torch.randn(3, 5, 16).double(), torch.randn(2, 3, 16).double()
    w_ih, w_hh, b_ih, b_hh = lstm.all_weights[0]
    h, last = cpu.lstm_reference(x, tuple(state), torch.cat((w_ih, w_hh), 1), b_ih + b_hh)
    want, wanted_last = lstm(x, (state[:1], state[1:]))
    torch.testing.assert_close(h, want)
    torch.testing.assert_close(torch.stack(last), torch.cat(wanted_last))


@PRECISIONS
@pytest.mark.parametrize(("hidden", "shape"), SIZES)
def test_lstm(hidden, shape, bfloat16):
    """Outputs, last state and all gradients equal the reference's in float64, to rounding: 24 bits of float32
    over sums of 256, or 8 bits of bfloat16."""
    lstm = module(hidden)
    kernel = cpu.LSTM(lstm, bfloat16)
    needs(bfloat16)
    x, *state = (torch.randn(*size, hidden, requires_grad=True) for size in (shape, shape[:1], shape[:1]))
    d, d_last = torch.randn(*shape, hidden), torch.randn(2, shape[0], hidden)
    h, last = kernel(x, state)
    loss, inputs = (h * d).sum() + (torch.stack(last) * d_last).sum(), [x, *state, *lstm.parameters()]
    gradients = torch.autograd.grad(loss, inputs, retain_graph=True)
    twice = torch.autograd.grad(loss, inputs)
    assert all(torch.equal(a, b) for a, b in zip(gradients, twice, strict=True))
    with torch.no_grad():
        again, _ = kernel(x, state)
    assert torch.equal(again, h)  # with gradients or without

    w_ih, w_hh, b_ih, b_hh = (p.double() for p in lstm.all_weights[0])
    wanted, wanted_last = cpu.lstm_reference(
        x.double(), tuple(part.double() for part in state), torch.cat((w_ih, w_hh), 1), b_ih + b_hh
    )
    wanted_loss = (wanted * d).sum() + (torch.stack(wanted_last) * d_last).sum()
    wanted_gradients = torch.autograd.grad(wanted_loss, inputs)
    tolerance = 0.02 if bfloat16 else 1e-5
    for got, want in zip((h, *last, *gradients), (wanted, *wanted_last, *wanted_gradients), strict=True):
        assert (got - want).norm() <= tolerance * want.norm()


def test_no_memory_errors():
    """The tests of the LSTM, of a network with a mask, its blocks and a rollout, with AddressSanitizer and
    UBSan, in both precisions where the processor has them."""
    command = [*shlex.split(build.compiler_command()), "-print-file-name=libasan.so"]
    library = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(library):
        pytest.skip("the compiler has no libasan.so")
    wanted = {"CLEANPUFFER_DEBUG": "1", "ASAN_OPTIONS": "detect_leaks=0", "LD_PRELOAD": library}
    command = [sys.executable, "-m", "pytest", "-n0", "-s", __file__]  # -s shows reports
    command += ["-p", "no:cacheprovider"]
    chosen = "test_lstm or test_blocks or (test_network and connect4)"
    command += ["-k", f"{chosen} or (test_a_rollout_in_c and (settings0 or settings2))"]
    done = subprocess.run(command, env=os.environ | wanted, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("skipped" in done.stdout) != cpu.has_bfloat16()


def test_sigmoids_at_their_ends():
    """Gates far beyond what float32 resolves are 0 or 1, and nothing overflows."""
    lstm = module(16)
    for scale in (1e3, -1e3):
        torch.nn.init.constant_(lstm.bias_ih_l0, scale)
        h, (_, c) = cpu.LSTM(lstm)(torch.zeros(4, 3, 16), (torch.zeros(4, 16), torch.ones(4, 16)))
        want = [[0.9640276, 0.9950548, 0.9993293] if scale > 0 else [0.0] * 3] * 4  # tanh of 2, 3 and 4
        torch.testing.assert_close(h[:, :, 0], torch.tensor(want))
        assert torch.isfinite(c).all()


def test_changed_weights_are_noticed():
    lstm = module(16)
    kernel, x, state = cpu.LSTM(lstm), torch.randn(2, 1, 16), tuple(torch.zeros(2, 2, 16))
    with torch.no_grad():
        before = kernel(x, state)[0]
        lstm.weight_hh_l0 += 1
        lstm.bias_hh_l0 += 1
        after = kernel(x, state)[0]
        assert not torch.allclose(before, after)
        lstm.bias_hh_l0.data -= 1  # which torch does not count
        kernel.weights(anew=True)
        assert not torch.allclose(after, kernel(x, state)[0])


@PRECISIONS
@pytest.mark.parametrize("settings", [{}, {"vf_clip_coef": 0.0, "clip_coef": 0.0}, {"ent_coef": -0.5}])
@pytest.mark.parametrize("env", ["pong", "memory", "bandit", "snake", "connect4"])
def test_network(env, settings, bfloat16):
    """Playing, gradients, losses, values and ratios are those of Policy and Trainer.gradients."""
    trainer = make_trainer(env=env, **settings)
    policy, s = trainer.policy, trainer.segments
    needs(bfloat16)
    cpu.speed_up(policy, bfloat16)
    kernel, network = policy.kernel, policy.network
    trainer.collect()
    s.logprobs += 0.3 * torch.randn_like(s.logprobs)  # ratios on both sides of the clip
    s.valid[1::3] = 0
    trainer.old_values = s.values + 0.5 * torch.randn_like(s.values)
    index, made_up = torch.tensor([3, 0, 3, 9, 15, 3, 1, 2, 4]), torch.randn(2, 16, 16)
    of_segments, of_draws = made_up[:, index], made_up[:, : len(index)]
    rows, noise = slice(3, 14), policy.noise(11, generator=trainer.generator)
    observations, state = s.observations[rows, 0], (s.h[rows] + 0.5, s.c[rows] - 0.5)
    results = []
    for policy.network, policy.kernel in ((None, None), (network, kernel)):
        with torch.no_grad():
            drawn, logprobs, values, last = policy.play(observations, state, noise)
        once, *rest = trainer.gradients(index, *of_segments, 80)  # in C what was drawn often is computed once
        anew, *more = trainer.gradients(index, *of_draws, 80)
        once, anew = by_parameter(trainer, once), by_parameter(trainer, anew)
        results.append((drawn.float(), logprobs, values, *last, *once, *rest, *anew, *more))
    assert all(x.norm() > 0 for x in once)
    for want, got in zip(*results, strict=True):
        assert (got - want).norm() <= (0.05 if bfloat16 else 1e-5) * want.norm() + 1e-7


@PRECISIONS
def test_blocks_and_threads(bfloat16):
    """Any number of segments has torch's gradient, and the same bits whichever threads share its blocks."""
    trainer = make_trainer(env="pong", num_envs=32)
    needs(bfloat16)
    cpu.speed_up(trainer.policy, bfloat16)
    trainer.collect()
    kernel, network = trainer.policy.kernel, trainer.policy.network
    with ThreadPoolExecutor(5) as pool:

        def on_threads(function, items):
            list(pool.map(function, [0] * 5))

        for count in (1, 3, 4, 5, 6, 7, 10, 15, 32):
            made_up = torch.arange(count), *torch.randn(2, count, 16)
            trainer.policy.network = trainer.policy.kernel = None
            wanted, *wanted_rest = trainer.gradients(*made_up, 80)
            trainer.policy.network, trainer.policy.kernel = network, kernel
            got, *rest = trainer.gradients(*made_up, 80)
            wanted_rest += by_parameter(trainer, wanted)
            for a, b in zip(wanted_rest, (*rest, *by_parameter(trainer, got)), strict=True):
                assert (b - a).norm() <= (0.05 if bfloat16 else 1e-4) * a.norm() + 1e-7
            for _ in range(10):
                shared, *same = network.gradients(
                    trainer.segments, trainer.old_values, *made_up, trainer.args, 80, 1, on_threads
                )
                assert all(map(torch.equal, (got, *rest), (shared, *same)))


@pytest.mark.parametrize(("env", "dtype"), [("pong", torch.float64), ("snake", torch.int16)])
def test_observations_of_other_types(env, dtype):
    """Those that C does not take are made floats of before."""
    trainer, index = make_trainer(env=env), torch.tensor([3, 0, 9, 3, 7])
    trainer.collect()
    made_up = torch.randn(2, 16, 16)[:, index]
    want, *_ = trainer.gradients(index, *made_up, 80)
    trainer.segments.observations = trainer.segments.observations.to(dtype)
    got, *_ = trainer.gradients(index, *made_up, 80)
    assert torch.equal(want, got)


def test_blocks_are_added_in_their_order():
    """One that is done before those it comes after waits for them."""
    trainer = make_trainer(env="pong", num_envs=64)
    trainer.collect()
    library, tried = trainer.policy.network.lib, []

    class Late:
        def __getattr__(self, name):
            return getattr(library, name)

        def network_gradients(self, *work):
            lanes, progress = work[2:4]
            for lane in range(lanes):
                progress[lane] = 1  # another thread has begun with the first ones, and is not done
            thread = threading.Thread(target=library.network_gradients, args=work, daemon=True)
            thread.start()
            while [*progress[0:lanes]] == [1] * lanes:
                time.sleep(0.01)
            thread.join(0.3)
            tried.append(thread.is_alive() and [*progress[lanes : 2 * lanes]] == [0] * lanes)
            for lane in range(lanes):
                progress[lanes + lane] = 1
            thread.join(60)
            tried.append(not thread.is_alive() and all(n > 1 for n in progress[lanes : 2 * lanes]))

    trainer.policy.network.lib = Late()
    trainer.shard = 64  # one call
    trainer.gradients(torch.arange(64), *torch.randn(2, 64, 16), 1024)
    assert tried == [True, True]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say where a thread is")
@pytest.mark.parametrize("name", ["keep_apart", "gradients", "rollout", "muon"])
def test_threads_keep_apart(name):
    """One that finds itself on another's core goes to a free one, and may be moved from there, too; all long
    work in C sees to that."""
    allowed = os.sched_getaffinity(0)
    first, *others = sorted(allowed)
    lib = build.load("network", cpu.DECLARATIONS).lib
    where = ctypes.CDLL(None).sched_getcpu
    trainer = make_trainer(env="pong", hidden_size=64, num_threads=1, groups=1)
    trainer.collect()
    trainer.update()
    index, made_up = torch.arange(16), torch.randn(2, 16, 16)
    work = {
        "keep_apart": lambda: [lib.keep_apart() for _ in range(2)],  # the first time it may be an error
        "gradients": lambda: trainer.gradients(index, *made_up, 256),
        "rollout": trainer.collect,
        "muon": trainer.optimizer.step,
    }[name]
    stay, leave = threading.Barrier(2), threading.Barrier(2)

    def take():
        os.sched_setaffinity(0, {first})
        lib.keep_apart()
        stay.wait()
        leave.wait()
        lib.leave_core()

    def follow():
        os.sched_setaffinity(0, {first})  # and is still there when others are allowed
        os.sched_setaffinity(0, allowed)
        work()
        at = where()
        lib.leave_core()
        return at, os.sched_getaffinity(0)

    for _ in range(5):  # other processes may have the system move threads as well
        with ThreadPoolExecutor(2) as pool:
            alone = [pool.submit(follow).result() for _ in range(20)]
            taker = pool.submit(take)
            stay.wait()
            beside = [pool.submit(follow).result() for _ in range(20)]
            leave.wait()
            taker.result()
        assert all(mask == allowed for _, mask in alone + beside)
        stayed, left = sum(at == first for at, _ in alone), sum(at != first for at, _ in beside)
        if stayed >= 15 and left >= (15 if others else 0):
            break
    assert stayed >= 15 and (left >= 15 if others else left == 0)


def test_ratios_are_one_in_bfloat16():
    """Before the first optimizer step: playing and training round alike."""
    needs(True)
    trainer = make_trainer(env="pong", hidden_size=64)
    assert trainer.args.precision == "bfloat16"
    for _ in range(3):
        trainer.collect()
        index = torch.arange(16)
        ratios = trainer.gradients(index, *torch.randn(2, 16, 16), 256)[3]
        assert (ratios - 1).abs().max() < 1e-5
        trainer.update()


def test_parameters_that_lie_elsewhere():
    """And factors that have changed."""
    trainer = make_trainer(env="pong")
    policy, s, noise = trainer.policy, trainer.segments, torch.zeros(16, 3)
    trainer.collect()
    policy.head_factor = 0.5
    for p in policy.parameters():
        p.data = p.data + 0.1
    policy.network.weights(anew=True)
    got = policy.play(s.observations[:, 0], (s.h, s.c), noise)
    policy.network = policy.kernel = None
    with torch.no_grad():
        want = policy.play(s.observations[:, 0], (s.h, s.c), noise)
    torch.testing.assert_close(got[2], want[2], rtol=0.02, atol=0.02)
    assert want[2].abs().max() > 0.1


@pytest.mark.parametrize("which", [0, 1], ids=["advantages", "targets"])
def test_draws_of_a_segment_that_differ(which):
    """In a single number: they are computed each for itself."""
    trainer, index = make_trainer(env="pong", precision="float32"), torch.tensor([3, 5, 3])
    trainer.collect()
    network, made_up = trainer.policy.network, torch.randn(2, 16, 16)[:, index]
    made_up[which, 2, 7] += 3
    got = trainer.gradients(index, *made_up, 48)[0]
    trainer.policy.network = trainer.policy.kernel = None
    want = trainer.gradients(index, *made_up, 48)[0]
    assert (got - want).norm() <= 1e-4 * want.norm()
    trainer.policy.network = network
    for bad in (-1, 16):
        with pytest.raises(IndexError, match="0 to 15"):
            trainer.gradients(torch.tensor([3, bad]), *made_up[:, :2], 48)


def test_policies_that_the_network_is_not_for():
    policy = make_trainer(env="cartpole", normalize_observations=True).policy
    assert policy.kernel and not policy.network
    for settings in ({"recurrent": "none"}, {"hidden_size": 24}):
        policy = make_trainer(**settings).policy
        assert not policy.kernel and not policy.network


def test_an_edited_trainer_is_not_overruled(monkeypatch, capsys):
    """Whoever changes the policy or the loss gets what they wrote, and is told."""
    assert make_trainer().policy.network and not capsys.readouterr().out
    heads, logprobs = cleanpuffer.Policy.heads, cleanpuffer.Policy.logprobs

    def scaled(self, x, observations):
        outputs, values = heads(self, x, observations)
        return outputs * 1.1, values

    def tempered(self, outputs, drawn):
        value, entropy = logprobs(self, outputs, drawn)
        return value, 1.2 * entropy

    for name, edited in (("heads", scaled), ("logprobs", tempered)):
        with monkeypatch.context() as changed:
            changed.setattr(cleanpuffer.Policy, name, edited)
            assert make_trainer(ent_coef=1.0).policy.network is None
            assert "torch takes over" in capsys.readouterr().out


EDITS = {  # method: what to replace there, and by what; some show only with weights or samples of some kind
    "Policy.encode": [
        ("torch.relu(self.encoder(x.flatten(-", "nn.functional.leaky_relu(self.encoder(x.flatten(-"),
        ("torch.relu(self.encoder(x.flatten(-", "nn.functional.relu6(self.encoder(x.flatten(-"),
        ("observations.float()", "observations.float().clamp(-0.7, 0.7)"),
    ],
    "Policy.heads": [
        ("self.actor(x).float()", "10 * torch.tanh(self.actor(x).float() / 10)"),
        ("squeeze(-1).float()", "squeeze(-1).float().clamp(-10, 10)"),
        ("is not None", "is ..."),  # no mask
        ("-1e9", "-5.0"),
    ],
    "Policy.draw": [("outputs + noise", "outputs / 0.5 + noise")],
    "Trainer.gradients": [
        ("torch.min(advantages * ratio, advantages * clipped)", "(advantages * ratio)"),
        ("1 + args.clip_coef)", "1 + 2 * args.clip_coef)"),
        ("1 - args.clip_coef,", "1 - 2 * args.clip_coef,"),
        ("ratio = logratio.exp()", "ratio = logratio.clamp(-1, 1).exp()"),
        ("args.ent_coef * entropy", "args.ent_coef * (1 - self.progress()) * entropy"),
        ("args.ent_coef * entropy", "args.ent_coef * entropy + 0.01 * (ratio - 1 - logratio)"),
        ("(loss * valid)", "(loss * valid * (1 + s.rewards[index].abs()))"),
        ("(loss * valid)", "(loss * valid * (1 - s.terminals[index].float()))"),
        ("(loss * valid)", "(loss * valid * s.ratios[index])"),
    ],
    "Trainer.value_loss": [
        ("if limit", "if False"),
        ("0.5 * loss", "0.505 * loss"),
        ("0.5 * loss", "(0.5 + self.segments.truncations[index]) * loss"),
        ("0.5 * loss", "(0.5 + self.segments.bootstraps[index]) * loss"),
    ],
}


@pytest.mark.parametrize(
    ("name", "old", "new"), [(name, *edit) for name, edits in EDITS.items() for edit in edits]
)
def test_small_edits_are_not_overruled(name, old, new, monkeypatch):
    """Those too that change nothing with the first weights, on the first observations, at the first step."""
    kind, name = name.split(".")
    method = getattr(getattr(cleanpuffer, kind), name)
    source = textwrap.dedent(inspect.getsource(method))
    assert source.count(old) == 1
    globals_ = dict(vars(cleanpuffer))
    exec(source.replace(old, new), globals_)
    monkeypatch.setattr(getattr(cleanpuffer, kind), name, globals_[name])
    for settings in ({}, {"hidden_size": 64}):
        assert make_trainer(env="connect4", **settings).policy.network is None


def test_the_rollout_in_c_is_of_the_one_that_is_written():
    policy, env = cleanpuffer.Policy, VecEnv
    called = Trainer.play_step, policy.play, policy.actions, env.step, env._write_actions, env._result
    now = cpu.fingerprint(Trainer.play, *called)
    assert now == cpu.ROLLOUT, (
        f"bring Network.rollout into line with what was edited, then set ROLLOUT to {now}"
    )


ROLLOUTS = [
    {"env": "cartpole", "env_config": {"max_steps": 7}, "groups": 2},  # episodes are cut
    {"env": "maze", "env_config": {"max_steps": 5}, "num_envs": 15, "groups": 3, "minibatch_size": 16},
    {"env": "snake", "groups": 2, "num_threads": 2},  # several agents a copy
    {"env": "pong", "groups": 4, "num_threads": 2, "horizon": 33, "minibatch_size": 66},
    {"env": "bandit", "hidden_size": 64, "horizon": 1, "minibatch_size": 16},
]


@pytest.mark.parametrize("settings", ROLLOUTS)
def test_a_rollout_in_c(settings, monkeypatch):
    """All that it leaves, bit for bit, through several updates."""
    trainers = [make_trainer(**settings) for _ in range(2)]
    play, plays = cpu.Network.rollout, []
    monkeypatch.setattr(cpu.Network, "rollout", lambda *args: plays.append(1) or play(*args))
    trainers[1].play = partial(trainers[1].play)  # which is not what C knows
    for turn in range(4):
        for trainer in trainers:
            trainer.collect()
        assert len(plays) == (turn + 1) * trainers[0].args.groups
        for (name, x), y in zip(
            vars(trainers[0].segments).items(), vars(trainers[1].segments).values(), strict=True
        ):
            assert torch.equal(x, y), name
        for x, y in zip(*(trainer.state for trainer in trainers), strict=True):
            assert torch.equal(x, y)
        cuts = trainers[0].segments.truncations
        assert cuts.any() == ("env_config" in settings) and (turn or not cuts[:, 0].any())
        assert trainers[0].env.log() == trainers[1].env.log()
        for trainer in trainers:
            trainer.update()
    shares = trainers[0].profile.shares()
    assert shares["rollout forward"] > 0 < shares["rollout environment"] and shares["rollout copy"] == 0


EDITED_ROLLOUTS = [  # what people change there, most of which shows late or never in a few steps
    ("Trainer.play", "torch.from_numpy(new)", "torch.from_numpy(new).sign()"),
    ("Trainer.play_step", "(s.values, values)", "(s.values, 0.9 * values)"),
    ("Policy.actions", "drawn.cpu().numpy()", "drawn.cpu().numpy() % 3"),
    ("VecEnv._result", "return observations, rewards", "return observations, 2 * rewards"),
    ("VecEnv._result", "return observations, rewards", "return observations, rewards"),  # nothing
]


@pytest.mark.parametrize(("name", "old", "new"), EDITED_ROLLOUTS)
def test_an_edited_rollout_is_not_overruled(name, old, new, tmp_path, monkeypatch, capsys):
    kind, name = name.split(".")
    kind = {"Trainer": Trainer, "Policy": cleanpuffer.Policy, "VecEnv": VecEnv}[kind]
    source = inspect.getsource(getattr(kind, name))
    assert old in source
    path = tmp_path / "edited.py"
    path.write_text(f"class {kind.__name__}:\n{source.replace(old, new)}")
    globals_ = dict(vars(inspect.getmodule(kind)))
    exec(compile(path.read_text(), path, "exec"), globals_)
    monkeypatch.setattr(kind, name, vars(globals_[kind.__name__])[name])
    trainer = make_trainer(env="pong")
    assert trainer.policy.network and cpu.plays(trainer, Trainer.play) == (old == new)
    assert ("the text of play() or what it calls" in capsys.readouterr().out) == (old != new)


def test_who_plays_otherwise_is_not_overruled(monkeypatch):
    """Replaced or wrapped, in a class or an instance; or numbers that do not lie as C takes them."""

    def plays(trainer: Trainer) -> bool:
        answer = cpu.plays(trainer, Trainer.play)
        trainer.collect()
        return answer

    assert plays(make_trainer())
    for settings in ({"env_threads": 2, "num_threads": 2}, {"env": "gym:CartPole-v1"}):
        assert not plays(make_trainer(**settings))
    for what in ("env.step", "policy.actions", "policy.play", ".play_step"):
        trainer, called = make_trainer(), []
        owner, name = what.split(".")
        owner = getattr(trainer, owner) if owner else trainer
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *x, f=original, to=called: to.append(1) or f(*x))
        assert not plays(trainer) and len(called) == 16

    with monkeypatch.context() as changed:
        step = VecEnv.step
        changed.setattr(VecEnv, "step", wraps(step)(lambda *x: step(*x)))
        assert not plays(make_trainer())

    class Wrapper:
        def __init__(self, env):
            self.env = env

        def __getattr__(self, name):
            return getattr(self.env, name)

    trainer = make_trainer()
    trainer.env = Wrapper(trainer.env)
    assert not plays(trainer)
    trainer = make_trainer()
    trainer.segments.observations = trainer.segments.observations.half()
    assert not plays(trainer)
    trainer = make_trainer()
    trainer.policy.outputs += 1
    assert not cpu.plays(trainer, Trainer.play)


def test_noise_of_other_kinds(monkeypatch):
    """No noise, in double precision and without memory of its own: the best actions, as in the loop."""
    monkeypatch.setattr(
        cleanpuffer.Policy,
        "noise",
        lambda self, *shape, generator: torch.zeros(()).double().expand(*shape, 3),
    )
    trainers = [make_trainer(env="pong", groups=2) for _ in range(2)]
    trainers[1].play = partial(trainers[1].play)
    for trainer in trainers:
        trainer.collect()
    assert cpu.plays(trainers[0], Trainer.play) and trainers[0].segments.actions.any()
    assert torch.equal(trainers[0].segments.actions, trainers[1].segments.actions)


def test_comparing_leaves_no_traces():
    """Weights, segments and counters are what they were, and other seeds and sizes agree as well."""
    for settings in ({}, {"num_envs": 1, "horizon": 1, "minibatch_size": 1}, {"clip_coef": 0.0}, {"seed": 5}):
        trainer = make_trainer(**settings)
        before = [p.clone() for p in trainer.parameters], trainer.segments, trainer.policy.kernel
        assert trainer.policy.network and cpu.network_agrees(trainer)
        assert all(torch.equal(p, old) for p, old in zip(trainer.parameters, before[0], strict=True))
        assert before[1:] == (trainer.segments, trainer.policy.kernel)
        assert trainer.steps == trainer.updates == 0
        assert not any(x.any() for x in vars(trainer.segments).values())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rewards[:, t] + gamma", "2 * rewards[:, t] + gamma"),
        ("max=c_clip", "max=rho_clip"),
        ("truncations[:, t], bootstraps[:, t]", "truncations[:, t], 0"),  # a cut is an end
        ("-> tuple[Tensor, Tensor]:", "-> tuple[Tensor, Tensor]:\n    return None"),
        ("rewards[:, t] + gamma", "rewards[:, t] + gamma"),  # nothing
    ],
)
def test_edited_advantages_are_not_overruled(old, new, monkeypatch, capsys):
    source = inspect.getsource(cleanpuffer.advantages_reference)
    assert source.count(old) == 1
    globals_ = dict(vars(cleanpuffer))
    exec(source.replace(old, new), globals_)
    edited = globals_["advantages_reference"]
    monkeypatch.setattr(cleanpuffer, "advantages_reference", edited)
    assert (make_trainer().advantages is edited) == (old != new)
    assert ("advantages_reference() is not what" in capsys.readouterr().out) == (old != new)


def test_weights_that_are_not_trained_stay(monkeypatch):
    original = cleanpuffer.Policy.__init__

    def frozen(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.encoder.requires_grad_(False)

    monkeypatch.setattr(cleanpuffer.Policy, "__init__", frozen)
    trainer = make_trainer()
    before = [p.clone() for p in trainer.policy.parameters()]
    trainer.collect()
    trainer.update()
    for p, old in zip(trainer.policy.parameters(), before, strict=True):
        assert torch.equal(p, old) != p.requires_grad


def test_an_edited_network_is_not_overruled(monkeypatch, capsys):
    """Nor one with other layers, or with weights that are not trained."""
    original = cleanpuffer.Policy.__init__

    def wider(self):
        self.actor = torch.nn.Sequential(torch.nn.Linear(32, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))

    def frozen(self):
        self.encoder.requires_grad_(False)

    def deeper(self):
        self.lstm = torch.nn.LSTM(32, 32, num_layers=2, batch_first=True)

    for edit, kernel in ((wider, True), (frozen, True), (deeper, False)):

        def edited(self, *args, edit=edit, **kwargs):
            original(self, *args, **kwargs)
            edit(self)

        monkeypatch.setattr(cleanpuffer.Policy, "__init__", edited)
        policy = make_trainer(hidden_size=32).policy
        assert policy.network is None and bool(policy.kernel) == kernel


def make_muons(adam: bool, dtype: torch.dtype | None = None) -> tuple[cleanpuffer.Muon, cleanpuffer.Muon]:
    """One that is not changed and one whose steps are taken in C, of equal parameters of many shapes."""
    shapes = ((7,), (128, 32), (32, 128), (1, 32), (17, 33), (16, 3, 3, 3), (64, 64), (256, 65), (63, 200))
    muons = []
    for _ in range(2):
        torch.manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
        parameters[1].lr_factor = 0.5
        muons.append(cleanpuffer.Muon(parameters, 0.1, 0.9, 0.99, 1e-6, adam, dtype))
    muons[1].kernel = cpu.load_muon_step(muons[1])
    assert muons[1].kernel
    return tuple(muons)


def parameters_of(muon: cleanpuffer.Muon) -> list[torch.Tensor]:
    return [p for group in muon.param_groups for p in group["params"]]


@pytest.mark.parametrize("adam", [False, True])
def test_muon_in_c(adam):
    """Moves parameters to the same places, with gradients that are not contiguous and with rates, moments and
    betas that are replaced in between; a gradient of zeros moves nothing by itself."""
    torch.manual_seed(1)
    muons = make_muons(adam)
    for turn in range(6):
        gradients = [torch.randn(p.shape) * (turn < 3) for p in parameters_of(muons[0])]
        for muon in muons:
            for p, gradient in zip(parameters_of(muon), gradients if turn < 5 else [], strict=turn < 5):
                p.grad = gradient.mT.contiguous().mT if gradient.ndim > 1 and turn < 4 else gradient
            for group in muon.param_groups:
                group["lr"] = group["initial_lr"] / torch.tensor(1.0 + min(turn, 3))
            versions = [p._version for p in parameters_of(muon)]
            muon.step()
            assert all(p._version > v for p, v in zip(parameters_of(muon), versions, strict=True))
        for expected, p in zip(*map(parameters_of, muons), strict=True):
            torch.testing.assert_close(p, expected, rtol=0, atol=2e-5)
        if turn == 1:
            muons[1].moments = [[[x.clone() for x in part] for part in of] for of in muons[0].moments]
            for muon in muons:
                muon.param_groups[-1]["beta1"] = 0.5
        if turn == 4:  # nothing else is new in the last turn
            for muon in muons:
                muon.moments = [[[torch.zeros_like(x) for x in part] for part in of] for of in muon.moments]
    muon = make_muons(adam)[1]
    before = [p.clone() for p in parameters_of(muon)]
    for p in parameters_of(muon):
        p.grad = torch.zeros_like(p)
    muon.step()
    assert all(torch.equal(a, b) for a, b in zip(before, parameters_of(muon), strict=True))


@PRECISIONS
@pytest.mark.parametrize("shape", [(128, 64), (64, 128), (65, 101), (256, 256), (1, 70)])
def test_orthogonalize_in_c(shape, bfloat16):
    """Singular values, over two powers of ten at first, end between 0.6 and 1.25, as in float64."""
    needs(bfloat16)
    library, count = build.load("network", cpu.DECLARATIONS), min(shape)
    u, v = (torch.linalg.qr(torch.randn(side, count))[0] for side in shape)
    matrix = (u * torch.logspace(0, -2, count)) @ v.T
    x = matrix.clone()
    library.lib.orthogonalize(bfloat16, *shape, cpu.pointer_to(library.ffi, x))
    values = torch.linalg.svdvals(x)
    assert values.min() > 0.6 and values.max() < 1.25
    want = cleanpuffer.orthogonalize(matrix.unsqueeze(0).double())[0]
    assert (x - want).norm() <= (0.05 if bfloat16 else 1e-4) * want.norm()


def test_muon_in_c_with_bfloat16():
    """Only matrices with 64 rows and columns are rounded."""
    needs(True)
    muons = make_muons(False, torch.bfloat16)
    before = [p.clone() for p in parameters_of(muons[0])]
    gradients = [torch.randn(p.shape) for p in before]
    for muon in muons:
        for p, gradient in zip(parameters_of(muon), gradients, strict=True):
            p.grad = gradient
        muon.step()
    for begun, want, got in zip(before, *map(parameters_of, muons), strict=True):
        large = min(want.flatten(1).shape) >= 64 if want.ndim > 1 else False
        assert (got - want).norm() <= (0.05 if large else 1e-4) * (want - begun).norm()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_muon_in_c_does_not_lose_what_is_not_finite(bad):
    """A diverged run is to end as one."""
    muon = make_muons(False)[1]
    for p in parameters_of(muon):
        p.grad = torch.ones_like(p)
        p.grad.view(-1)[-1] = bad
    muon.step()
    assert all(p.isnan().any() for p in parameters_of(muon))


def test_an_edited_muon_is_what_counts(monkeypatch, capsys):
    """Whatever was edited: the iteration, also where it treats wide matrices alone otherwise, or the step."""
    orthogonalize, step = cleanpuffer.orthogonalize, cleanpuffer.Muon.step
    renamed = make_muons(False)[0]
    for group in renamed.param_groups:
        group["first"] = group.pop("beta1")

    def longer(matrices, steps=5, dtype=None):
        return orthogonalize(matrices, steps + 1, dtype)

    def wide(matrices, steps=5, dtype=None):
        return orthogonalize(matrices, steps + (matrices.shape[2] > matrices.shape[1]), dtype)

    def large(matrices, steps=5, dtype=None):
        return orthogonalize(matrices, steps + (min(matrices.shape[1:]) > 100), dtype)

    def in_bfloat16(matrices, steps=5, dtype=None):
        return orthogonalize(matrices, steps + 3 * (dtype is not None), dtype)

    def never_rounded(matrices, steps=5, dtype=None):
        return orthogonalize(matrices, steps)

    def decay(self):
        for group in self.param_groups:
            torch._foreach_mul_(group["params"], 1 - 1e-4 * group["lr"])
        step(self)

    def clipped(self):
        for p in parameters_of(self):
            p.grad = p.grad.clamp(-10, 10)
        step(self)

    def in_c():
        return bool(make_trainer().optimizer.kernel)

    assert in_c() and not capsys.readouterr().out
    for edit in (longer, wide):
        monkeypatch.setattr(cleanpuffer.Muon, "orthogonalize", staticmethod(edit))
        assert not in_c() and "Muon, or orthogonalize(), is not what is in C" in capsys.readouterr().out
    for edit in (orthogonalize, large, in_bfloat16, never_rounded):
        monkeypatch.setattr(cleanpuffer.Muon, "orthogonalize", staticmethod(edit))
        rounds = edit in (in_bfloat16, never_rounded) and not cpu.has_bfloat16()
        assert bool(make_trainer(hidden_size=128).optimizer.kernel) == (edit is orthogonalize or rounds)
    monkeypatch.setattr(cleanpuffer.Muon, "orthogonalize", staticmethod(orthogonalize))
    for edit in (decay, clipped, lambda self, closure: None):
        monkeypatch.setattr(cleanpuffer.Muon, "step", edit)
        assert not in_c()
    assert cpu.load_muon_step(renamed) is None
