"""What a training step asks of a process, where a table of V×V entries would be refused."""

from __future__ import annotations

import pytest
import torch

from fewjump.process import Process
from fewjump.process import kernel as kernels
from fewjump.process.recovery import RecoveryMethod
from fewjump.random import generator_for


def takes_a_step_without_a_square_matrix(
    process: Process, method: RecoveryMethod, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Corrupt, recover, step back: 2×3 positions, a time for each row, posteriors of ``dtype``."""
    vocab, source = process.vocab_size, generator_for(2)
    monkeypatch.setattr(kernels, "DENSE_LIMIT", 1000)
    x0 = torch.randint(vocab, (2, 3), generator=source)
    s, t = (torch.tensor(v, dtype=torch.float64) for v in ([0.2, 0.3], [0.5, 0.9]))
    x_t = process.corrupt(x0, 0.0, t, source)
    posterior = torch.full((2, 3, vocab), 1 / vocab, dtype=dtype)
    ratios = process.ratios_from_posterior(posterior, x_t, t)
    assert ratios.dtype == dtype
    process.recover(ratios, x_t, t, method)
    process.reverse_marginals(posterior, x_t, s, t)
    process.bridge(x_t, x0, s, t, source)
    process.reverse_rates(ratios, x_t, t)
    with pytest.raises(ValueError, match="too large"):
        process.kernel(0.0, 0.5).dense()
