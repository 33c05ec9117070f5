"""The oracle-Markov protocol: letters from a known chain, and the exact posterior as teacher.

A chain over a–z and space is estimated from text, after arXiv 2602.19619, which asks how far
samplers are from the chain when the network makes no mistake. Here students are distilled from its
exact posterior too, at length 128, and drawn at 128 and 1,024. KL and TV rates are of the bigrams
of samples; what a whole sequence loses in one evaluation is known from its density. Run as
``python -m experiments.oracle_markov``; it goes on where it was stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.harness import Content, Options, Rows, digest, kept, main, place, with_ends
from experiments.training import distilled, network
from fewjump.data import load_data
from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.bootstrap import bootstrap, mean
from fewjump.evaluate.ngrams import frequencies, ngram_keys
from fewjump.problem import MarkovChain
from fewjump.process import Absorbing, Process
from fewjump.random import fold_seed, generator_for
from fewjump.sampler import run as draw
from fewjump.schedule import LogLinear

SAMPLES, EXACT = "samples of the chain", "exact product teacher"
#: Share of every transition that goes anywhere, by frequency: none is impossible.
TELEPORT = 1e-3
STEPS = (1, 2, 4, 8)
TEACHER_STEPS = (*STEPS, 64)


@dataclass(frozen=True)
class Sizes:
    """Budget of the experiment.

    Attributes:
        trained_length: of the sequences that students are trained on.
        tokens: drawn at each length, which gives the number of samples.
        heads: options of each student's head, none of which is told of positions.
    """

    trained_length: int = 128
    lengths: tuple[int, ...] = (128, 1024)
    tokens: int = 1 << 17
    steps: int = 200
    batch_size: int = 16
    lr: float = 5e-3
    near: float = 0.02
    heads: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {
            "product": {},
            "shared-chain": {"states": 64},
            "any-order": {"width": 64, "neighbours": (1,)},
            "autoregressive": {"width": 64},
        }
    )


def rates(chain: MarkovChain, samples: Tensor, seed: int) -> dict[str, float | None]:
    """Numbers of the protocol for samples (n, L), with 95% intervals over samples.

    With p̂(·|a) the frequencies after a and w(a) how often a comes first: ``kl_rate`` is
    Σ w(a)·KL(p̂(·|a) ‖ P(·|a)), ``tv_rate`` Σ w(a)·TV; ``unigram_l1`` is Σ|frequency − π|. The
    plug-in estimates are above 0 for exact samples too: compare with these. ``duplicates`` is one
    less the share of different sequences.
    """
    vocab, transition = chain.vocab_size, chain.transition
    pi = chain.stationary()

    def pair_law(p: Tensor) -> tuple[Tensor, Tensor]:
        p = p.reshape(vocab, vocab)
        return p, p.sum(1, keepdim=True) * transition

    def kl_rate(p: Tensor) -> Tensor:
        found, wanted = pair_law(p)
        return torch.where(found > 0, found * (found / wanted).log(), 0.0).sum()

    def tv_rate(p: Tensor) -> Tensor:
        found, wanted = pair_law(p)
        return 0.5 * (found - wanted).abs().sum()

    ways: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
        "kl_rate": (2, kl_rate),
        "tv_rate": (2, tv_rate),
        "unigram_l1": (1, lambda p: (p - pi).abs().sum()),
    }
    out: dict[str, float | None] = {}
    for name, (width, functional) in ways.items():

        def statistic(
            cells: Tensor,
            weights: Tensor,
            functional: Callable[[Tensor], Tensor] = functional,
            count: int = vocab**width,
        ) -> Tensor:
            return torch.stack([functional(frequencies(cells, count, w)) for w in weights])

        cells = ngram_keys(samples, width, vocab)
        found = bootstrap(cells, statistic, generator_for(seed, 5))
        out |= with_ends(name, found)
    out["duplicates"] = 1 - len(samples.unique(dim=0)) / len(samples)
    return out


@torch.no_grad()
def sequence_kl(model: Denoiser, chain: MarkovChain, x0: Tensor) -> dict[str, float | None]:
    """KL(chain ‖ one evaluation) in nats per token, from sequences x0 of the chain, with ends."""
    assert model.process.mask is not None
    law = model(torch.full((1, chain.length), model.process.mask), 1.0)
    log_q = torch.cat([law.expand(len(part)).log_prob(part).double() for part in x0.split(32)])
    found = bootstrap((chain.log_prob(x0) - log_q) / chain.length, mean, generator_for(0))
    return with_ends("kl", found)


def drawn_row(
    model: Denoiser, chain: MarkovChain, steps: int, sizes: Sizes, seed: int
) -> dict[str, Any]:
    """One row: samples in so many steps, and the exact density in one."""
    count = sizes.tokens // chain.length
    batch = max(16, (1 << 15) // chain.length)
    result = draw(
        model, count, steps, "ancestral", generator=seed, length=chain.length, batch_size=batch
    )
    row = {
        "length": chain.length,
        "steps": steps,
        "samples": count,
        "seconds": round(result.seconds, 3),
        **rates(chain, result.samples, seed),
    }
    if steps == 1:
        row |= sequence_kl(model, chain, chain.sample(count // 4, generator_for(seed, 4)))
    return row


def train_student(
    chain: MarkovChain, head: dict[str, Any], sizes: Sizes, seed: int, out: Path | None = None
) -> Denoiser:
    """Distil the exact joint posterior on the four-step grid; averaged weights."""
    return distilled(
        network(masked(chain), chain.length, fold_seed(seed, 1), head, time_conditioned=False),
        chain,
        sizes.near,
        seed,
        out,
        steps=sizes.steps,
        batch_size=sizes.batch_size,
        lr=sizes.lr,
    )


def masked(chain: MarkovChain) -> Process:
    """The process: a mask beside the letters."""
    return Absorbing(chain.vocab_size + 1, LogLinear())


@dataclass
class Config(Options):
    """The oracle-Markov protocol, with students.

    Attributes:
        text: text file, reduced to a–z and space; without it the documentation that Python ships.
        seeds: trainings of every student.
        kinds: of students.
    """

    text: Path | None = None
    seeds: int = 1
    kinds: tuple[str, ...] = ("product", "shared-chain", "any-order", "autoregressive")


def measure(config: Config, sizes: Sizes | None = None) -> Content:
    """Exact samples, the exact teacher, then every student, at every length."""
    sizes = Sizes() if sizes is None else sizes
    source = "text" if config.text is None else config.text
    data = load_data(source, sizes.trained_length, normalise=True)
    chains = {
        length: MarkovChain.from_text(data.all("train"), data.vocab_size, length, TELEPORT)
        for length in sizes.lengths
    }
    rows: Rows = []
    key = digest(chains[sizes.lengths[0]].transition.tolist(), asdict(sizes))
    parent = config.runs / "oracle-markov"
    for length, chain in chains.items():
        count = sizes.tokens // length
        about = {"student": SAMPLES, "seed": config.seed, "length": length, "samples": count}
        rows.append({**about, **rates(chain, chain.sample(count, generator_for(9)), config.seed)})
        teacher = chain.denoiser(masked(chain))
        for steps in TEACHER_STEPS:

            def judge(steps: int = steps, model: Denoiser = teacher, chain=chain) -> dict[str, Any]:
                return drawn_row(model, chain, steps, sizes, config.seed)

            file = place(parent, f"teacher-{config.seed}", key) / f"row-{length}-{steps}.json"
            rows.append({"student": EXACT, "seed": config.seed, **kept(file, judge)})
    for seed in range(config.seed, config.seed + config.seeds):
        for kind in config.kinds:
            rows += student_rows(kind, chains, sizes, seed, place(parent, f"{kind}-{seed}", key))
    first = chains[sizes.lengths[0]]
    return {
        "data": data.description,
        "teleport": TELEPORT,
        "entropy_rate": first.entropy_rate(),
        "floor": {str(n): chain.one_step_floor() / n for n, chain in chains.items()},
        "sizes": asdict(sizes),
        "rows": rows,
    }


def student_rows(
    kind: str, chains: dict[int, MarkovChain], sizes: Sizes, seed: int, folder: Path
) -> Rows:
    """Train (or go on with) one student and judge it at every length."""
    begin = time.perf_counter()
    head = {"kind": kind, **sizes.heads[kind]}
    student = train_student(chains[sizes.trained_length], head, sizes, seed, folder)
    about = {
        "student": kind,
        "seed": seed,
        "parameters": sum(p.numel() for p in student.parameters()),
    }
    seconds = kept(folder / "seconds.json", lambda: round(time.perf_counter() - begin, 1))
    out = []
    for length, chain in chains.items():
        # At other lengths than that of the training the question is whether one evaluation holds.
        for steps in STEPS if length == sizes.trained_length else (1,):

            def judge(steps: int = steps, chain: MarkovChain = chain) -> dict[str, Any]:
                return drawn_row(student, chain, steps, sizes, seed)

            row = kept(folder / f"row-{length}-{steps}.json", judge)
            out.append({**about, "training_seconds": seconds, **row})
    return out


if __name__ == "__main__":
    main("oracle_markov", Config, measure)
