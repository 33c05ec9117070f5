"""Why the students of :mod:`experiments.hybrid_noise` are no better in more steps.

Three suspects: the sampler's bridge, the student's law at the times in between, and the inputs that
its own first step makes. In two steps each evaluation is either the student's or the exact joint
posterior's, which tells them apart: with the exact law twice, what is left is the sampler's own
error; with the student once, it is the student's at that time. Beside it, by time,

    E [log p(x₀|x_t) − log p^φ(x₀|x_t)] = E KL(p_{0|t} ‖ p^φ_{0|t}),

nats per token on the chain's own sequences; and the same of the trained teacher's marginals, at the
times that the student was taught from. Models are those of the other experiment, read from the
same ``--runs``. Run as ``python -m experiments.hybrid_steps``; it goes on where it was stopped.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from experiments.harness import Content, Options, Rows, kept, main, place
from experiments.hybrid_noise import NOISES, folder_of, mean_over_seeds
from experiments.hybrid_noise import Sizes as Trained
from experiments.joint_markov import chain_row
from fewjump.checkpoint import load
from fewjump.denoiser.base import Denoiser, eval_mode
from fewjump.law import Law
from fewjump.problem import MarkovChain, reference_markov_chain
from fewjump.random import generator_for
from fewjump.sampler import run as draw

#: Who answers in the first evaluation, and who in the second.
PAIRS = (("exact", "exact"), ("student", "exact"), ("exact", "student"), ("student", "student"))


@dataclass(frozen=True)
class Sizes:
    """How much is drawn and scored.

    Attributes:
        samples: of each pair of two-step samplers.
        scored: sequences at each time.
        times: at which laws are scored.
        length: positions.
    """

    samples: int = 4096
    scored: int = 4096
    times: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25, 0.1, 0.02)
    length: int = 32


class Switched(Denoiser):
    """One denoiser's law above a time, another's from it on down.

    Args:
        early, late: of one process.
        change: the largest time at which ``late`` answers.
    """

    def __init__(self, early: Denoiser, late: Denoiser, change: float) -> None:
        super().__init__(late.process, late.length, late.clean_vocab_size)
        self.early, self.late, self.change = early, late, change

    def law(self, x_t: Tensor, t: Tensor) -> Law:
        return (self.early if float(t[0]) > self.change else self.late)(x_t, t)


def rows_of(name: str, seed: int, sizes: Sizes, models: Path) -> Rows:
    """Samples of every pair, then the excess of student and teacher at every time.

    Args:
        name: of :data:`experiments.hybrid_noise.NOISES`.
        seed: of draws.
        sizes: see :class:`Sizes`.
        models: folder with ``student/model`` and ``teacher/model``.
    """
    chain = reference_markov_chain(sizes.length)
    student, teacher = (load(models / part / "model") for part in ("student", "teacher"))
    joint, product = (chain.denoiser(student.process, joint=joint) for joint in (True, False))
    rows: Rows = []
    known = {"exact": joint, "student": student}
    for first, second in PAIRS:
        both = Switched(known[first], known[second], 0.5)
        samples = draw(both, sizes.samples, 2, generator=seed + 1, length=sizes.length).samples
        row = chain_row(chain, samples, seed)
        rows.append({"noise": name, "seed": seed, "first": first, "second": second, **row})
    x0 = chain.sample(sizes.scored, generator_for(seed, 11))
    for t in sizes.times:
        for model, one, truth in (("student", student, joint), ("teacher", teacher, product)):
            mean, half = excess(one, truth, chain, x0, t, seed)
            about = {"noise": name, "seed": seed, "model": model, "time": t}
            ends = {"excess_low": mean - half, "excess_high": mean + half}
            rows.append({**about, "excess": mean, **ends})
    return rows


@torch.no_grad()
def excess(
    model: Denoiser, truth: Denoiser, chain: MarkovChain, x0: Tensor, t: float, seed: int
) -> tuple[float, float]:
    """E KL(truth's law ‖ model's law) at x_t in nats per token, and half of its 95% interval.

    From one x_t for each sequence; the same for every model of one process.

    Args:
        model, truth: of one process; both of joint laws, or both of product laws.
        chain: where the sequences come from.
        x0: (N, L) int64.
        t: time.
        seed: of the noise.
    """
    process, out = model.process, []
    generator = generator_for(seed, 12)
    with eval_mode(model):
        for clean in x0.split(128):
            if t == 1:
                # Where samplers begin; corrupting leaves a thousandth of the tokens as they were.
                x_t = process.prior_sample(clean.shape, generator)
            else:
                x_t = process.corrupt(clean, 0.0, t, generator)
            exact, own = (one(x_t, t).log_prob(clean).double() for one in (truth, model))
            out.append((exact - own) / chain.length)
    each = torch.cat(out)
    return float(each.mean()), 1.96 * float(each.std()) / len(each) ** 0.5


@dataclass
class Config(Options):
    """Whose law spoils the second of two steps.

    Attributes:
        seeds: of the models and of the draws.
    """

    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    sizes: Sizes = field(default_factory=Sizes)


def measure(config: Config) -> Content:
    """All noises and seeds, and means over seeds."""
    rows: Rows = []
    for seed in config.seeds:
        for name in NOISES:
            models = folder_of(name, seed, Trained(), config.runs)
            folder = place(config.runs / "hybrid-steps", f"{name}-{seed}", asdict(config.sizes))
            compute = partial(rows_of, name, seed, config.sizes, models)
            rows += kept(folder / "rows.json", compute)
    chain, first = reference_markov_chain(config.sizes.length), config.seeds[0]
    fresh = chain.sample(config.sizes.samples, generator_for(first, 10))
    pairs = [r for r in rows if "first" in r]
    missed = [r for r in rows if "excess" in r]
    return {
        "sizes": asdict(config.sizes),
        "seeds": config.seeds,
        "fresh_samples": chain_row(chain, fresh, first),
        "pair_means": mean_over_seeds(pairs, ("noise", "first", "second"), ("bigram_tv", "nll")),
        "excess_means": mean_over_seeds(missed, ("noise", "model", "time"), ("excess",)),
        "pairs": pairs,
        "excess": missed,
    }


if __name__ == "__main__":
    main("hybrid_steps", Config, measure)
