"""The exact output law of a sampler, by composing its transition probabilities.

No Monte Carlo: the coroutine that the runner draws from is replayed for every outcome of every
move, and the law of the state is pushed through.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser, eval_mode
from fewjump.inversion import row_chunks
from fewjump.law.base import ENUMERATION_LIMIT, unravel
from fewjump.law.posterior import outer
from fewjump.sampler.arguments import check_options
from fewjump.sampler.base import Move, Moves, Sampler, Step
from fewjump.sampler.carried import chosen_sampler
from fewjump.sampler.run import NOISE_LEFT, trajectory
from fewjump.sampler.time_grid import GridSpec, times_for

COST_LIMIT = 1e11
_CHUNK_ELEMENTS = 1 << 21
# Probability of states that are not clean, beyond what rounds.
_NOISY = 1e-9


@torch.no_grad()
def exact_output_law(
    denoiser: Denoiser,
    steps: int | None,
    sampler: str | Sampler | None = None,
    grid: GridSpec | None = None,
    denoise: bool = True,
) -> Tensor:
    """The law of what ``sample`` returns, started from the process's prior.

    Args:
        denoiser: with a ``length``; V^L states must be few (see Raises).
        steps, sampler, grid, denoise: as for :func:`fewjump.sample`.

    Returns:
        Probabilities, float64, with L axes of size ``denoiser.clean_vocab_size``. With
        ``denoise=False`` the state may still be noisy, and the axes have size
        ``denoiser.process.vocab_size``.

    Raises:
        ValueError: if the denoiser has no length, the sampler does not apply, its times are random
            and the denoiser depends on them, or the cost, steps·(V^L)^(1 + evaluations), exceeds
            1e11.
    """
    law = _output_law(denoiser, steps, sampler, grid, denoise)
    if not denoise:
        return law
    clean = law[(slice(0, denoiser.clean_vocab_size),) * law.dim()].contiguous()
    noisy = float(law.sum() - clean.sum())
    if noisy > _NOISY:
        raise ValueError(f"{NOISE_LEFT} (probability {noisy:.3g})")
    return clean


@torch.no_grad()
def exact_coupling(
    denoiser: Denoiser,
    steps: int | None,
    sampler: str | Sampler = "flow-matching",
    grid: GridSpec | None = None,
) -> Tensor:
    """The joint law of what ``sample`` starts from and of what it returns: (V^L, V^L) float64.

    Rows are starts x₁, from the process's prior, and columns outputs x₀, the last position fastest.
    Arguments and errors are those of :func:`exact_output_law`, which is its sum over the rows.
    """
    starts = range(denoiser.process.vocab_size ** (denoiser.length or 0))
    rows = [_output_law(denoiser, steps, sampler, grid, True, start) for start in starts]
    return torch.stack([row.flatten() for row in rows])


def _output_law(
    denoiser: Denoiser,
    steps: int | None,
    sampler: str | Sampler | None,
    grid: GridSpec | None,
    denoise: bool,
    only: int | None = None,
) -> Tensor:
    """Over all states, L axes of size V; the part of it that began from the state ``only``."""
    method, grid = chosen_sampler(denoiser, sampler, steps, grid, denoise)
    times = times_for(grid, steps, denoiser)
    check_options(method, denoiser, grid, denoise)
    vocab, length = denoiser.process.vocab_size, _length(denoiser, method, times)
    if method.random_times and denoiser.time_conditioned:
        raise ValueError(
            f"{method.name} evaluates the network at random times, so its output law can be "
            "enumerated only for a denoiser that ignores time (time_conditioned=False); use "
            "sampler='ancestral', or estimate the law from samples"
        )
    device, counted = denoiser.device, denoiser.evaluations
    prior = denoiser.process.prior().to(device)
    law = outer(prior.expand(1, length, vocab))[0]
    if only is not None:
        law = torch.zeros_like(law).index_copy(0, torch.tensor([only]).to(device), law[[only]])
    start = denoiser.process.prior_sample((1, length), None, device)
    with eval_mode(denoiser):
        for step in trajectory(method, denoiser, start, times.to(device), denoise):
            law = _push(step, law, vocab, length)
    denoiser.evaluations = counted
    return law.reshape((vocab,) * length)


def enumeration_cost(denoiser: Denoiser, method: Sampler, steps: int) -> float:
    """About how many operations :func:`exact_output_law` takes; infinite where it raises."""
    states = float(denoiser.process.vocab_size) ** (denoiser.length or math.inf)
    if states > ENUMERATION_LIMIT:
        return math.inf
    return steps * states ** (1 + method.evaluations)


def _length(denoiser: Denoiser, method: Sampler, times: Tensor) -> int:
    if denoiser.length is None:
        raise ValueError("the output law needs a sequence length: give the denoiser a length")
    states = float(denoiser.process.vocab_size) ** denoiser.length
    cost = enumeration_cost(denoiser, method, times.shape[0] - 1)
    if cost > COST_LIMIT:
        raise ValueError(
            f"{denoiser.process.vocab_size}^{denoiser.length} = {states:.3g} states (limit "
            f"{ENUMERATION_LIMIT:,}) cost about {cost:.1g} operations with {method.name} (limit "
            f"{COST_LIMIT:.0g}); use a smaller problem, fewer steps, or frequencies of samples"
        )
    return denoiser.length


def _push(step: Step, law: Tensor, vocab: int, length: int) -> Tensor:
    """The law after one step: (S,) → (S,)."""
    out = torch.zeros_like(law)
    occupied = law.nonzero()[:, 0]
    rows = max(1, _CHUNK_ELEMENTS // law.shape[0])
    depth: int | None = None
    # Paths yet to extend: state numbers (N, moves so far + 1) from x_t on, and their probability.
    pending = [(occupied[:, None], law[occupied])]
    while pending:
        paths, mass = pending.pop()
        if paths.shape[0] > rows:
            pending += [(paths[part], mass[part]) for part in row_chunks(paths.shape[0], 1, rows)]
            continue
        moves, move = _replay(step, paths, vocab, length)
        reached = mass[:, None] * move.table().to(law)
        # A step has the same number of moves for every state and outcome.
        if depth is None and _ends(moves, unravel(paths[:, -1], vocab, length)):
            depth = paths.shape[1]
        if paths.shape[1] == depth:
            out += reached.sum(0)
        else:
            row, state = reached.nonzero(as_tuple=True)
            pending.append((torch.cat([paths[row], state[:, None]], -1), reached[row, state]))
    return out


def _replay(step: Step, paths: Tensor, vocab: int, length: int) -> tuple[Moves, Move]:
    """The moves after the given history, and the first of them."""
    states = [unravel(paths[:, i], vocab, length) for i in range(paths.shape[1])]
    moves = step(states[0])
    move = next(moves)
    for state in states[1:]:
        move = moves.send(state)
    return moves, move


def _ends(moves: Moves, state: Tensor) -> bool:
    """Whether no move follows the outcome ``state``."""
    try:
        moves.send(state)
    except StopIteration:
        return True
    return False
