"""``fewjump verify``: the method's identities against enumeration, on a problem of 4³ states.

The paper's first experiment (recovery of the conditionals from exact ratios) and what the rest of
the library stands on. Each check compares the library's formula with full tables
(:mod:`fewjump.verify.brute_force`) in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fewjump.process import Absorbing, FixedRate, Process, ResetToPrior, Uniform
from fewjump.random import generator_for
from fewjump.schedule import LogLinear
from fewjump.verify import brute_force as truth

TOLERANCE = 1e-10
EARLIER, LATER = 0.35, 0.8


@dataclass(frozen=True)
class Check:
    """One comparison of the library with the truth.

    Attributes:
        name: what was compared.
        process: on which process.
        value: the largest error found (or the quantity compared).
        limit: what it must not exceed.
        passed: whether it holds.
        explanation: what it means, in one sentence.
    """

    name: str
    process: str
    value: float
    limit: float
    passed: bool
    explanation: str


def processes(vocab_size: int = 4, seed: int = 0) -> dict[str, Process]:
    """The four processes of the paper's first experiment; the absorbing one adds a mask."""
    generator = generator_for(seed, 1)
    prior = torch.rand(vocab_size, generator=generator, dtype=torch.float64) + 0.1
    rate = torch.rand(vocab_size, vocab_size, generator=generator, dtype=torch.float64) + 0.1
    rate.fill_diagonal_(0)
    rate -= torch.diag(rate.sum(-1))
    schedule = LogLinear()
    return {
        "uniform": Uniform(vocab_size, schedule),
        "absorbing": Absorbing(vocab_size + 1, schedule),
        "random prior": ResetToPrior(prior / prior.sum(), schedule),
        "random rate matrix": FixedRate(rate, schedule),
    }


def random_joint(vocab_size: int, length: int, seed: int, roughness: float = 1.0) -> Tensor:
    """A random joint law, exp(roughness·N(0,1)) normalised: L axes of size V, float64."""
    shape = (vocab_size,) * length
    noise = torch.randn(shape, generator=generator_for(seed, 2), dtype=torch.float64)
    weights = (roughness * noise).exp()
    return weights / weights.sum()


def pad_for_mask(probs: Tensor, vocab_size: int) -> Tensor:
    """The same law over a larger vocabulary whose extra (mask) tokens never occur in data."""
    extra = vocab_size - probs.shape[0]
    return torch.nn.functional.pad(probs, (0, extra) * probs.dim())


def run_checks(vocab_size: int = 4, length: int = 3, seed: int = 0) -> list[Check]:
    """Run every check; see :class:`Check`. Takes a second or two."""
    joint = random_joint(vocab_size, length, seed)
    checks: list[Check] = []
    for name, process in processes(vocab_size, seed).items():
        probs = pad_for_mask(joint, process.vocab_size)
        table = truth.tables(process, probs, EARLIER, LATER)
        for label, error, explanation in _identities(process, table):
            checks.append(Check(label, name, error, TOLERANCE, error <= TOLERANCE, explanation))
    checks.extend(_floors(joint, seed))
    return checks


def _identities(process: Process, table: truth.Tables) -> Iterator[tuple[str, float, str]]:
    vocab, states = process.vocab_size, table.states
    rows = table.possible.nonzero()[:, 0]
    x_t = states[rows]
    posterior = truth.position_marginals(table.posterior_t[rows], states, vocab)
    reverse = truth.position_marginals(table.reverse[rows], states, vocab)

    kernel = truth.position_kernel(process, EARLIER, LATER)
    yield (
        "kernel",
        _gap(process.kernel(EARLIER, LATER).dense(), kernel),
        "the closed form of the forward kernel equals the matrix exponential",
    )
    yield (
        "Markov decomposition",
        _gap(table.reverse @ table.posterior_s, table.posterior_t, rows),
        "p(x₀|x_t) is the mixture over x_s of p(x₀|x_s), weighted by the reverse conditional",
    )
    ratios = truth.ratio_table(table.law_t, states, vocab)[rows]
    yield (
        "recovery (Eq. 8)",
        _gap(process.posterior_from_ratios(ratios, x_t, LATER), posterior),
        "exact concrete scores give back the exact posterior",
    )
    used = process.base_rate().T[x_t] > 0
    back = process.ratios_from_posterior(posterior, x_t, LATER)
    yield (
        "ratios from posterior",
        _gap(torch.where(used, back, 0.0), torch.where(used, ratios, 0.0)),
        "the exact posterior gives back every ratio that a reverse step uses",
    )
    stepped = process.reverse_marginals(posterior, x_t, EARLIER, LATER)
    yield (
        "reverse step",
        _gap(stepped, reverse),
        "the ancestral step has the exact reverse marginals",
    )
    yield (
        "ancestral = analytic",
        _gap(stepped, _analytic_step(process, ratios, x_t)),
        "the ancestral step equals SEDD's analytic step written with concrete scores",
    )
    yield ("bridge", _bridge_error(process), "the step with known x₀ has the exact conditional law")


def _analytic_step(process: Process, ratios: Tensor, x_t: Tensor) -> Tensor:
    """(P_{t|s}⁻ᵀ r)(x_s)·P_{t|s}[x_s, x_t] with a plain linear solve."""
    kernel = truth.position_kernel(process, EARLIER, LATER)
    solved = torch.linalg.solve(kernel.T, ratios.unsqueeze(-1)).squeeze(-1)
    return solved * kernel.T[x_t]


def _bridge_error(process: Process) -> float:
    to_s = truth.position_kernel(process, 0.0, EARLIER)
    between = truth.position_kernel(process, EARLIER, LATER)
    joint = torch.einsum("as,sb->abs", to_s, between)
    total = joint.sum(-1, keepdim=True)
    clean, noisy = (total[..., 0] > 1e-12).nonzero(as_tuple=True)
    exact = (joint / total.clamp(min=1e-300))[clean, noisy]
    ours = process.bridge_marginals(noisy[:, None], clean[:, None], EARLIER, LATER)[:, 0]
    return _gap(ours, exact)


def _floors(joint: Tensor, seed: int) -> Iterator[Check]:
    from fewjump.problem import EnumeratedJoint, MarkovChain
    from fewjump.sampler.exact import exact_output_law

    process = Absorbing(joint.shape[0] + 1, LogLinear())
    problem = EnumeratedJoint(joint)
    law = exact_output_law(problem.denoiser(process), 1)
    divergence = float((joint * (joint / law).log()).sum())
    product = joint.new_ones(())
    for axis in range(joint.dim()):
        others = [i for i in range(joint.dim()) if i != axis]
        product = product[..., None] * joint.sum(others)
    correlation = float((joint * (joint / product).log()).sum())
    yield Check(
        "one-step floor",
        "absorbing",
        abs(divergence - correlation),
        TOLERANCE,
        abs(divergence - correlation) <= TOLERANCE,
        f"the exact product teacher misses the data by its total correlation, "
        f"{correlation:.4f} nats, in one step",
    )
    generator = generator_for(seed, 3)
    transition = torch.rand(4, 4, generator=generator, dtype=torch.float64) ** 3
    transition /= transition.sum(-1, keepdim=True)
    stationary = torch.linalg.matrix_power(transition, 512)[0]
    chain = MarkovChain(stationary, transition, 4)
    dense = EnumeratedJoint(chain_tensor(stationary, transition, 4))
    gap = abs(float(chain.one_step_floor()) - float(dense.one_step_floor()))
    yield Check(
        "Markov floor",
        "any",
        gap,
        TOLERANCE,
        gap <= TOLERANCE,
        "for a stationary Markov chain the floor is (L−1)·I(X₁;X₂)",
    )


def chain_tensor(initial: Tensor, transition: Tensor, length: int) -> Tensor:
    """The joint law of a Markov chain as a tensor of L axes."""
    joint = initial
    for _ in range(length - 1):
        joint = joint[..., None] * transition
    return joint


def _gap(ours: Tensor, exact: Tensor, rows: Tensor | None = None) -> float:
    if rows is not None:
        ours, exact = ours[rows], exact[rows]
    return float((ours - exact).abs().max())
