"""Comparisons that need no sampling: enumerated laws, and where a sampler's error comes from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewjump.law.base import enumerate_states

if TYPE_CHECKING:
    from fewjump.denoiser.base import Denoiser
    from fewjump.problem.base import Problem
    from fewjump.process import Process
    from fewjump.sampler.base import Sampler
    from fewjump.sampler.time_grid import GridSpec


def entropy(p: Tensor) -> float:
    """−Σ p log p in nats, of a law given as a tensor of any shape."""
    p = _law(p, "p")
    return -float(torch.xlogy(p, p).sum())


def kl(p: Tensor, q: Tensor) -> float:
    """KL(p‖q) = Σ p log(p/q) in nats; infinite where p > 0 and q = 0.

    Args:
        p, q: probabilities, of the same shape, each summing to 1.

    Raises:
        ValueError: for different shapes, negative entries or sums other than 1 (within 1e-6).
    """
    p, q = _pair(p, q)
    if bool(((p > 0) & (q <= 0)).any()):
        return float("inf")
    here = p > 0
    a, b = p[here], q[here]
    # Each term a·log(a/b) − a + b is ≥ 0, so that two near-equal laws do not cancel to noise; the
    # terms that were added sum to Σ_{p>0} b − 1, which is −Σ_{p=0} q.
    terms = a * torch.log(a / b) - a + b
    return float(terms.sum() + q[~here].sum() + (p.sum() - q.sum()))


def tv(p: Tensor, q: Tensor) -> float:
    """Total variation ½ Σ |p − q|; arguments as for :func:`kl`."""
    p, q = _pair(p, q)
    return 0.5 * float((p - q).abs().sum())


def conditional_total_correlation(coupling: Tensor, vocab_size: int) -> float:
    """TC(x₀|x₁) = E KL(π(x₀|x₁) ‖ Πᵢ π(x₀ⁱ|x₁)) in nats: what one step of a product law loses.

    Args:
        coupling: (N, V^L), the joint probability of each start x₁ and each sequence x₀, the last
            position fastest (:func:`fewjump.sampler.exact_coupling`).
        vocab_size: V.

    Raises:
        ValueError: for a width that is no power of V, negative entries or another sum than 1.
    """
    coupling = _law(coupling, "coupling")
    length = round(math.log(coupling.shape[1], vocab_size)) if vocab_size > 1 else 0
    if vocab_size**length != coupling.shape[1]:
        raise ValueError(f"{coupling.shape[1]} columns are not {vocab_size}^L sequences")
    table = coupling.reshape(-1, *(vocab_size,) * length)
    # H(x₀ⁱ|x₁) and H(x₀|x₁), each with H(x₁) added.
    aside = (table.movedim(i + 1, 1).reshape(len(table), vocab_size, -1) for i in range(length))
    each = [entropy(one.sum(-1)) for one in aside]
    return sum(each) - entropy(table) - (length - 1) * entropy(coupling.sum(1))


@dataclass(frozen=True)
class ErrorDecomposition:
    """KL of a sampler's output law from the data, in nats, as three numbers that add up.

    Attributes:
        factorization: what the product of exact marginals loses at this number of steps, with
            exact steps.
        euler: what the sampler's steps add to that (time discretisation); 0 for ``ancestral``,
            and negative if the sampler happens to be better than the exact product step.
        network: what the network adds to that.
        total: KL(data ‖ output law of the sampler with the network), their sum.
        total_variation: of the same two laws.

    A law that misses part of the data's support has infinite KL: the first number that is
    infinite says whose fault it is, and those after it are NaN.
    """

    factorization: float
    euler: float
    network: float
    total: float
    total_variation: float


def data_law(problem: Problem) -> Tensor:
    """The law of an enumerable problem: L axes of size V, float64.

    Raises:
        ValueError: if V^L exceeds 1e6.
    """
    states = enumerate_states(problem.vocab_size, problem.length)
    return problem.log_prob(states).exp().reshape((problem.vocab_size,) * problem.length)


def decompose_error(
    problem: Problem,
    process: Process,
    denoiser: Denoiser,
    sampler: str | Sampler,
    steps: int,
    grid: GridSpec | None = None,
) -> ErrorDecomposition:
    """Split a few-step sampler's error on an enumerable problem; no Monte Carlo.

    With E the exact product denoiser, N the network, S the sampler and K steps on one grid:
    factorization = KL(data ‖ ancestral, E); euler = KL(data ‖ S, E) − factorization;
    network = KL(data ‖ S, N) − KL(data ‖ S, E).

    Raises:
        ValueError: if the denoiser's tokens or length are not the problem's, and as
            ``exact_output_law`` does.
    """
    from fewjump.sampler.exact import exact_output_law

    if denoiser.clean_vocab_size != problem.vocab_size or denoiser.length != problem.length:
        raise ValueError(
            f"the denoiser makes {denoiser.length} tokens below {denoiser.clean_vocab_size}, the "
            f"problem has {problem.length} below {problem.vocab_size}"
        )
    truth = data_law(problem)
    exact = problem.denoiser(process)
    with_network = exact_output_law(denoiser, steps, sampler, grid).cpu()
    floor = kl(truth, exact_output_law(exact, steps, "ancestral", grid))
    without_network = kl(truth, exact_output_law(exact, steps, sampler, grid))
    total = kl(truth, with_network)
    return ErrorDecomposition(
        factorization=floor,
        euler=without_network - floor,
        network=total - without_network,
        total=total,
        total_variation=tv(truth, with_network),
    )


def _law(p: Tensor, name: str) -> Tensor:
    p = p.detach().double().cpu()
    total = float(p.sum())
    if p.numel() == 0 or bool((p < 0).any()) or not abs(total - 1) < 1e-6:
        raise ValueError(f"{name} must be probabilities ≥ 0 that sum to 1; the sum is {total:.8g}")
    return p


def _pair(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    if p.shape != q.shape:
        raise ValueError(f"laws of different shapes: {tuple(p.shape)} and {tuple(q.shape)}")
    return _law(p, "p"), _law(q, "q")
