"""What each knob brings: steps to the solved score, over environments and seeds, beside the defaults.

    python benchmarks/ablation.py                          every setting, five environments, three seeds
    python benchmarks/ablation.py --settings defaults once --envs pong --seeds 5

Steps, not seconds: they do not depend on the machine's load. The score is that of each update, over its last
100 or more episodes. A run that never gets there counts as twice its schedule. The last column is the
geometric mean of the ratios of medians to those of the first setting.
"""

import argparse
import concurrent.futures
import json
import math
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cleanpuffer
import envs
from settings import choose_sizes, parse_arguments


class Once(cleanpuffer.Trainer):
    """Advantages and priorities by the rollout's values and ratios alone, not anew for every minibatch."""

    def update(self) -> None:
        self.estimated = None
        super().update()

    def estimate(self) -> tuple:
        self.estimated = self.estimated or super().estimate()
        return self.estimated


class TargetEntropy(cleanpuffer.Trainer):
    """An entropy coefficient that rises while entropy is below its target, a share of the highest there is,
    and falls while it is above (as the temperature of Haarnoja et al. 2018, "Soft Actor-Critic")."""

    share = 0.3

    def update(self) -> None:
        super().update()
        wanted = self.share * math.log(self.policy.outputs)
        change = math.exp(0.2 * max(-1, min(1, (wanted - self.losses[2].item()) / wanted)))
        self.args.ent_coef = min(0.1, max(1e-5, self.args.ent_coef * change))


class HigherEntropy(TargetEntropy):
    share = 0.6


SETTINGS: dict[str, tuple[list[str], type]] = {
    "defaults": ([], cleanpuffer.Trainer),
    "prio 0": (["--prio-alpha", "0"], cleanpuffer.Trainer),
    "prio 0.8": (["--prio-alpha", "0.8"], cleanpuffer.Trainer),
    "replay 0.25": (["--replay-factor", "0.25"], cleanpuffer.Trainer),
    "replay 0.5": (["--replay-factor", "0.5"], cleanpuffer.Trainer),
    "replay 1": (["--replay-factor", "1"], cleanpuffer.Trainer),
    "replay 0.5, clips 2": (
        ["--replay-factor", "0.5", "--rho-clip", "2", "--c-clip", "2"],
        cleanpuffer.Trainer,
    ),
    "clips 0.9": (["--rho-clip", "0.9", "--c-clip", "0.9"], cleanpuffer.Trainer),
    "clips 2": (["--rho-clip", "2", "--c-clip", "2"], cleanpuffer.Trainer),
    "once": ([], Once),
    "target entropy 0.3": ([], TargetEntropy),
    "target entropy 0.6": ([], HigherEntropy),
}


def run(env: str, setting: str, seed: int) -> float:
    """Steps to the solved score, as a share of the schedule; 2 if it is never reached."""
    words, kind = SETTINGS[setting]
    words = ["--env", env, "--seed", str(seed), "--num-threads", "1", *words]
    args = parse_arguments(words, cleanpuffer.Args)
    choose_sizes(args)
    trainer, scores, solved = kind(args), cleanpuffer.Scores(), envs.spec(env).solved
    while trainer.steps < args.total_timesteps:
        trainer.collect()
        trainer.update()
        scores.add(trainer.env.log())
        scores.since_line = 0
        means = scores.means()
        if means["episodes"] >= scores.ENOUGH and means["score"] >= solved:
            return trainer.steps / args.total_timesteps
    return 2.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--envs", nargs="+", default=["pong", "squared", "cartpole", "memory", "breakout"])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the shares to this file")
    options = parser.parse_args()
    jobs = [(e, s, k) for k in range(1, options.seeds + 1) for e in options.envs for s in options.settings]
    with concurrent.futures.ProcessPoolExecutor(options.processes) as pool:
        shares = dict(zip(jobs, pool.map(run, *zip(*jobs, strict=True)), strict=True))
    if options.json:
        options.json.write_text(json.dumps([[*job, share] for job, share in shares.items()]))
    print(f"| setting | {' | '.join(options.envs)} | mean |\n|{'---|' * (len(options.envs) + 2)}")
    for setting in options.settings:
        cells, ratios = [], []
        for env in options.envs:
            own, base = (
                [shares[env, s, k] for k in range(1, options.seeds + 1)]
                for s in (setting, options.settings[0])
            )
            ratios.append(statistics.median(own) / statistics.median(base))
            missed = sum(share == 2 for share in own)
            steps = [share * envs.spec(env).train["total_timesteps"] / 1e6 for share in own]
            cell = f"{statistics.median(steps):.2f} ({min(steps):.2f}, {max(steps):.2f})"
            cells.append(cell + f", {missed} missed" * bool(missed))
        mean = math.exp(statistics.mean(map(math.log, ratios)))
        print(f"| {setting} | {' | '.join(cells)} | {mean:.2f} |")


if __name__ == "__main__":
    main()
