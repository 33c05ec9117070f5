"""The exact output law of the ancestral sampler under masking, by patterns of masked positions.

A general process has V^L states, each with a law of V^L entries. Under masking a state says its
visible tokens for certain, so all states of one pattern of masked positions share one table of V^L
entries, and a step costs 2^L tables instead of (V+1)^L.
"""

from __future__ import annotations

from itertools import pairwise, product

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.law.base import Law, enumerate_states, ravel
from fewjump.process import Absorbing
from fewjump.sampler.time_grid import time_grid

PATTERN_LIMIT = 1 << 26
_ROWS = 1 << 14

Pattern = tuple[bool, ...]


class MaskedTables:
    """p(x₀|x_t) of a denoiser for every state of a mask pattern, as one table.

    Args:
        denoiser: over an absorbing process, with a length; it must ignore time
            (``time_conditioned=False``), so that a table serves all steps.

    Raises:
        ValueError: for another process, a denoiser that reads time, or more than 2^26 entries.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        process = denoiser.process
        if not isinstance(process, Absorbing) or denoiser.length is None:
            raise ValueError("tables by mask pattern need an absorbing process and a length")
        if denoiser.time_conditioned:
            raise ValueError(
                "tables by mask pattern need a denoiser that ignores time: build the network with "
                "time_conditioned=False"
            )
        self.denoiser, self.length = denoiser, denoiser.length
        self.vocab, self.mask = denoiser.clean_vocab_size, process.mask
        self.states = enumerate_states(self.vocab, self.length)
        self.tables: dict[Pattern, Tensor] = {}

    @torch.no_grad()
    def __call__(self, masked: Pattern) -> Tensor:
        """log p(x₀|x₀ with the positions of ``masked`` hidden): L axes of size V, float64."""
        if masked not in self.tables:
            hidden = torch.where(torch.tensor(masked), self.mask, self.states)
            base = ravel(torch.where(torch.tensor(masked), 0, self.states), self.vocab)
            seen, row = base.unique(return_inverse=True)
            law = self.denoiser(hidden[seen], 1.0)
            values = _log_prob(law, self.states, row)
            self.tables[masked] = values.reshape((self.vocab,) * self.length)
        return self.tables[masked]


def one_step_law(denoiser: Denoiser) -> Tensor:
    """The law of one step from all masks: L axes of size V, float64. One trunk evaluation."""
    process = denoiser.process
    if not isinstance(process, Absorbing) or denoiser.length is None:
        raise ValueError("the one-step law needs an absorbing process and a length")
    states = enumerate_states(denoiser.clean_vocab_size, denoiser.length)
    with torch.no_grad():
        law = denoiser(torch.full((1, denoiser.length), process.mask), 1.0)
        values = _log_prob(law, states, torch.zeros(len(states), dtype=torch.int64))
    return values.exp().reshape((denoiser.clean_vocab_size,) * denoiser.length)


def masked_output_law(tables: MaskedTables, steps: int) -> Tensor:
    """What ``sample(denoiser, …, steps, "ancestral")`` follows, with no Monte Carlo.

    Returns:
        Probabilities, float64, with L axes of size V.

    Raises:
        ValueError: if the patterns' tables have more than 2^26 entries in all.
    """
    length, schedule = tables.length, tables.denoiser.process.schedule
    entries = 2**length * tables.vocab**length
    if steps > 1 and entries > PATTERN_LIMIT:
        raise ValueError(
            f"{steps} steps need tables of {entries} entries (limit {PATTERN_LIMIT}); use one "
            "step (one_step_law), a smaller problem, or frequencies of samples"
        )
    times = time_grid(None, steps, schedule).tolist()
    # For each pattern the law of the visible tokens; masked axes have size 1.
    laws: dict[Pattern, Tensor] = {(True,) * length: torch.ones((1,) * length, dtype=torch.float64)}
    for t, s in pairwise(times[:-1]):
        stay = float(schedule.one_minus_alpha(s) / schedule.one_minus_alpha(t))
        after: dict[Pattern, Tensor] = {}
        for masked, law in laws.items():
            full = law * tables(masked).exp()
            for left in _subsets(masked):
                shown = sum(masked) - sum(left)
                hidden = [i for i in range(length) if left[i]]
                part = full.sum(hidden, keepdim=True) if hidden else full
                part = part * (stay ** sum(left) * (1 - stay) ** shown)
                after[left] = after[left] + part if left in after else part
        laws = after
    return torch.stack([law * tables(masked).exp() for masked, law in laws.items()]).sum(0)


def _subsets(masked: Pattern) -> list[Pattern]:
    """Patterns that are left masked after some masked positions were shown."""
    return list(product(*[(True, False) if m else (False,) for m in masked]))


def _log_prob(law: Law, states: Tensor, row: Tensor) -> Tensor:
    """log p of every state under the row of ``law`` that it belongs to: (N,) float64."""
    parts = [
        law.select(row[i : i + _ROWS]).log_prob(states[i : i + _ROWS]).double()
        for i in range(0, len(states), _ROWS)
    ]
    return torch.cat(parts)
