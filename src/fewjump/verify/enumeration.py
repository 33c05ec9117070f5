"""``fewjump verify``: the method's identities against enumeration, on a problem of 4³ states.

The paper's first experiment (recovery of the conditionals from exact ratios) and what the rest of
the library stands on. Each formula of the library is compared in float64 with full tables over V^L
states, whose only input is the generator Q and σ̄: dense, and slow on purpose.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fewjump.evaluate.exact import kl
from fewjump.law.base import enumerate_states, ravel
from fewjump.problem import EnumeratedJoint, MarkovChain
from fewjump.process import Absorbing, FixedRate, Process, ResetToPrior, Uniform
from fewjump.random import generator_for
from fewjump.sampler.exact import exact_output_law
from fewjump.schedule import LogLinear

TOLERANCE = 1e-10
EARLIER, LATER = 0.35, 0.8


@dataclass(frozen=True)
class Identity:
    """One comparison of the library with the truth.

    Attributes:
        name: what was compared.
        process: on which process.
        error: the largest that was found.
        explanation: what it means, in one sentence.
    """

    name: str
    process: str
    error: float
    explanation: str

    @property
    def passed(self) -> bool:
        """Whether it holds, up to rounding."""
        return self.error <= TOLERANCE


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


def run_checks(vocab_size: int = 4, length: int = 3, seed: int = 0) -> list[Identity]:
    """Check every identity. Takes a second or two."""
    joint = random_joint(vocab_size, length, seed)
    checks = []
    for name, process in processes(vocab_size, seed).items():
        table = tables(process, pad_for_mask(joint, process.vocab_size), EARLIER, LATER)
        for label, error, explanation in _identities(process, table):
            checks.append(Identity(label, name, error, explanation))
    return [*checks, *_floors(joint, seed)]


def _identities(process: Process, table: Tables) -> Iterator[tuple[str, float, str]]:
    vocab, states = process.vocab_size, table.states
    rows = (table.law_t > 0).nonzero()[:, 0]
    x_t = states[rows]
    posterior = position_marginals(table.posterior_t[rows], states, vocab)
    reverse = position_marginals(table.reverse[rows], states, vocab)

    kernel = position_kernel(process, EARLIER, LATER)
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
    ratios = ratio_table(table.law_t, states, vocab)[rows]
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
    kernel = position_kernel(process, EARLIER, LATER)
    solved = torch.linalg.solve(kernel.T, ratios.unsqueeze(-1)).squeeze(-1)
    return solved * kernel.T[x_t]


def _bridge_error(process: Process) -> float:
    to_s = position_kernel(process, 0.0, EARLIER)
    between = position_kernel(process, EARLIER, LATER)
    joint = torch.einsum("as,sb->abs", to_s, between)
    total = joint.sum(-1, keepdim=True)
    clean, noisy = (total[..., 0] > 1e-12).nonzero(as_tuple=True)
    exact = (joint / total.clamp(min=1e-300))[clean, noisy]
    ours = process.bridge_marginals(noisy[:, None], clean[:, None], EARLIER, LATER)[:, 0]
    return _gap(ours, exact)


def _floors(joint: Tensor, seed: int) -> Iterator[Identity]:
    problem = EnumeratedJoint(joint)
    law = exact_output_law(problem.denoiser(Absorbing(joint.shape[0] + 1, LogLinear())), 1)
    product = joint.new_ones(())
    for axis, size in enumerate(joint.shape):
        product = product[..., None] * joint.movedim(axis, 0).reshape(size, -1).sum(-1)
    correlation = kl(joint, product)
    yield Identity(
        "one-step floor",
        "absorbing",
        abs(kl(joint, law) - correlation),
        f"the exact product teacher misses the data by its total correlation, "
        f"{correlation:.4f} nats, in one step",
    )
    source = generator_for(seed, 3)
    transition = torch.rand(4, 4, generator=source, dtype=torch.float64) ** 3
    transition /= transition.sum(-1, keepdim=True)
    stationary = torch.linalg.matrix_power(transition, 512)[0]
    chain = MarkovChain(stationary, transition, 4)
    dense = EnumeratedJoint(chain_tensor(stationary, transition, 4))
    yield Identity(
        "Markov floor",
        "any",
        abs(chain.one_step_floor() - dense.one_step_floor()),
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


def position_kernel(process: Process, s: float, t: float) -> Tensor:
    """exp((σ̄(t) − σ̄(s))·Q) by the matrix exponential: (V, V)."""
    gap = float(process.schedule.level(t)) - float(process.schedule.level(s))
    return torch.linalg.matrix_exp(gap * process.base_rate())


def state_kernel(process: Process, s: float, t: float, length: int) -> Tensor:
    """The kernel of the whole sequence, the Kronecker power of one position's: (S, S)."""
    one = position_kernel(process, s, t)
    whole = one
    for _ in range(length - 1):
        whole = torch.kron(whole, one)
    return whole


class Tables(NamedTuple):
    """All laws of one problem at two times s < t, over S = V^L states.

    Attributes:
        states: (S, L) int64.
        law0, law_s, law_t: (S,) the data law and its noised forms.
        posterior_s: (S, S), row x_s: p(x₀ | x_s); posterior_t likewise. Rows of impossible
            states are 0.
        reverse: (S, S), row x_t: p(x_s | x_t).
    """

    states: Tensor
    law0: Tensor
    law_s: Tensor
    law_t: Tensor
    posterior_s: Tensor
    posterior_t: Tensor
    reverse: Tensor


def tables(process: Process, probs: Tensor, s: float, t: float) -> Tables:
    """Enumerate everything for a joint ``probs`` with L axes of size ``process.vocab_size``."""
    length = probs.dim()
    law0 = probs.double().reshape(-1)
    to_s = state_kernel(process, 0.0, s, length)
    to_t = state_kernel(process, 0.0, t, length)
    between = state_kernel(process, s, t, length)
    law_s, law_t = law0 @ to_s, law0 @ to_t
    return Tables(
        states=enumerate_states(process.vocab_size, length),
        law0=law0,
        law_s=law_s,
        law_t=law_t,
        posterior_s=_condition(law0[:, None] * to_s),
        posterior_t=_condition(law0[:, None] * to_t),
        reverse=_condition(law_s[:, None] * between),
    )


def position_marginals(law: Tensor, states: Tensor, vocab_size: int) -> Tensor:
    """Per-position marginals of laws over states: (N, S) → (N, L, V)."""
    hot = torch.nn.functional.one_hot(states, vocab_size).double()
    return torch.einsum("ns,slv->nlv", law, hot)


def ratio_table(law_t: Tensor, states: Tensor, vocab_size: int) -> Tensor:
    """p_t(x with xⁱ→y)/p_t(x) for every state: (S, L, V); 0 where p_t(x) = 0."""
    count, length = states.shape
    neighbours = states[:, None, None, :].expand(count, length, vocab_size, length).clone()
    index = torch.arange(length)
    neighbours[:, index, :, index] = torch.arange(vocab_size).expand(length, count, vocab_size)
    numerator = law_t[ravel(neighbours, vocab_size)]
    denominator = law_t[:, None, None]
    return torch.where(denominator > 0, numerator / denominator.clamp(min=1e-300), 0.0)


def _condition(joint: Tensor) -> Tensor:
    """Joint table (earlier, later) → rows later, conditional on the later state."""
    total = joint.sum(0)
    return torch.where(total > 0, joint / total.clamp(min=1e-300), 0.0).T.contiguous()
