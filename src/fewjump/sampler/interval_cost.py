"""What an interval of the time grid costs a sampler that moves positions independently.

The exact reverse marginals, multiplied over positions, miss p(x_s|x_t) by TC(x_s|x_t) in KL. With
noise that acts on each position alone,

    TC(x_s|x_t) + H(x_s) − H(x_t) = E Σᵢ H(x_sⁱ|x_t) − Σᵢ E H(x_tⁱ|x_sⁱ)

for any process. H(x_s) − H(x_t) telescopes along a grid, so the right-hand side ranks grids by
their path KL as the total correlations themselves do. Its first term needs the reverse marginals of
a network at noised samples, where one evaluation at t serves every s below; its second is closed
form in the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fewjump.inversion import row_chunks, rows_per_chunk
from fewjump.law import ProductLaw
from fewjump.process import Process
from fewjump.sampler.reverse import posterior_logits

_KERNEL_ELEMENTS = 1 << 24


def reverse_entropies(
    law: ProductLaw, process: Process, x_t: Tensor, t: float, earlier: Sequence[float]
) -> Tensor:
    """Σᵢ H(x_sⁱ|x_t) for each row and each earlier time, in nats: (B, S) float64.

    At s = 0 it is that of x₀, which the last step of every sampler draws from the law itself.

    Args:
        law: p(x₀|x_t).
        process: the forward process.
        x_t: (B, L) int64.
        t: float.
        earlier: times s < t.
    """
    batch, length = x_t.shape
    out = torch.zeros(batch, len(earlier), dtype=torch.float64, device=x_t.device)
    logits = posterior_logits(law, process)
    flat = x_t.reshape(-1)
    masked = process.absorbing
    index = (flat == process.mask).nonzero()[:, 0] if masked else torch.arange(flat.shape[0])
    index = index.to(x_t.device)
    # Kernels are made once for all rows, where that is cheaper than to do without.
    dense = process.vocab_size <= process.kernel(0.0, t).dense_up_to
    together = _KERNEL_ELEMENTS if dense else process.vocab_size**2 * len(earlier)
    for times in row_chunks(len(earlier), process.vocab_size**2, together):
        now = earlier[times]
        kernels = _kernels(process, t, now, x_t.device) if dense else None
        step = rows_per_chunk(process.vocab_size * (1 if masked else len(now)), x_t.device)
        for rows in row_chunks(index.shape[0], 1, step):
            part = index[rows]
            p = logits.read(part).double().softmax(-1)
            if masked:
                values = _masked_entropies(p, process, t, now)
            elif kernels is None:
                values = _entropies(p, process, flat[part], t, now)
            else:
                values = kernels.entropies(p, flat[part], now)
            out[:, times].index_add_(0, part // length, values)
    return out


class _Kernels(NamedTuple):
    """What the reverse marginals at S times s need, given x_t.

    Attributes:
        likelihood: (V, V), [x, a] = P_{t|0}[a, x].
        forward: (S, V, V), P_{s|0}.
        backward: (S, V, V), [s, x, a] = P_{t|s}[a, x].
    """

    likelihood: Tensor
    forward: Tensor
    backward: Tensor

    def entropies(self, p: Tensor, x: Tensor, earlier: Sequence[float]) -> Tensor:
        """H(x_sⁱ|x_t) of positions in state x (N,) with posteriors p (N, V): (N, S)."""
        likelihood = self.likelihood[x]
        possible = likelihood > 0
        weights = torch.where(possible, p / torch.where(possible, likelihood, 1.0), 0.0)
        rows = (weights @ self.forward).mul_(self.backward[:, x])
        total = rows.sum(-1, keepdim=True)
        # Where nothing is possible the position stays, with certainty.
        rows = rows.div_(torch.where(total > 0, total, 1.0)).clamp_(min=0)
        times = torch.as_tensor(earlier, dtype=torch.float64, device=p.device)
        rows = torch.where((times > 0)[:, None, None], rows, p)
        return torch.special.entr(rows).sum(-1).mT


def _kernels(
    process: Process, t: float, earlier: Sequence[float], device: torch.device
) -> _Kernels:
    times = torch.as_tensor(earlier, dtype=torch.float64)
    forward = process.kernel(torch.zeros_like(times), times).dense().to(device)
    backward = process.kernel(times, torch.full_like(times, t)).dense().to(device).mT
    return _Kernels(process.kernel(0.0, t).dense().to(device).mT, forward, backward)


def _masked_entropies(p: Tensor, process: Process, t: float, earlier: Sequence[float]) -> Tensor:
    """H(x_sⁱ|x_t) of masked positions, (N, S): still masked with probability q, else as p says."""
    now = torch.as_tensor(earlier, dtype=torch.float64, device=p.device)
    stay = torch.expm1(-process.schedule.between(torch.zeros_like(now), now))
    stay = stay / torch.expm1(-process.schedule.between(0.0, t)).to(p.device)
    own = torch.special.entr(stay) + torch.special.entr(1 - stay)
    return own + (1 - stay) * torch.special.entr(p).sum(-1, keepdim=True)


def _entropies(
    p: Tensor, process: Process, x: Tensor, t: float, earlier: Sequence[float]
) -> Tensor:
    """H(x_sⁱ|x_t) of positions in state x (N,) with posteriors p (N, V): (N, S)."""
    times = torch.as_tensor(earlier, dtype=torch.float64, device=p.device)
    shape = (len(earlier), *p.shape)
    now = torch.full_like(times, t)
    rows = process.reverse_marginals(p.expand(shape), x.expand(shape[:2]), times, now)
    rows = torch.where((times > 0)[:, None, None], rows, p)
    return torch.special.entr(rows.clamp_(min=0)).sum(-1).mT


def forward_entropies(
    process: Process, counts: Tensor, t: float, earlier: Sequence[float]
) -> Tensor:
    """Σᵢ E[H(x_tⁱ|x_sⁱ)] in nats, summed over the clean tokens counted: (G, S) float64.

    Args:
        process: the forward process.
        counts: (G, V) float64, how often each clean token stands in each group of sequences.
        t: float.
        earlier: times s < t.
    """
    columns = []
    for part in row_chunks(len(earlier), process.vocab_size**2, _KERNEL_ELEMENTS):
        times = torch.as_tensor(earlier[part], dtype=torch.float64)
        rows = process.kernel(times, torch.full_like(times, t)).row_entropies()
        columns.append(process.kernel(torch.zeros_like(times), times).pull(rows))
    return counts @ torch.cat(columns).to(counts.device).mT
