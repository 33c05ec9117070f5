"""At V = 50,257 nothing V×V exists: every tensor that an operation creates is recorded."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fewjump.process import Absorbing, DenseKernel, ResetToPrior, Uniform
from fewjump.schedule import LogLinear

V, B, L = 50_257, 2, 3


class Allocations(TorchDispatchMode):
    """Records the largest tensor (in entries) and the bytes of all storages that were created."""

    def __init__(self):
        super().__init__()
        self.largest, self.total = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        known = {
            t.untyped_storage().data_ptr()
            for t in tree_leaves((args, kwargs))
            if isinstance(t, torch.Tensor)
        }
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and t.untyped_storage().data_ptr() not in known:
                self.largest = max(self.largest, t.numel())
                self.total += t.untyped_storage().nbytes()
        return out


def processes():
    weights = torch.arange(V, dtype=torch.float64) % 7
    return [
        Uniform(V, LogLinear()),
        Absorbing(V, LogLinear()),
        ResetToPrior(weights / weights.sum(), LogLinear()),
    ]


@pytest.mark.parametrize("process", processes(), ids=repr)
@pytest.mark.parametrize("batched", [False, True])
def test_memory_is_linear_in_the_vocabulary(process, batched, generator):
    s, t = (torch.full((B,), v, dtype=torch.float64) if batched else v for v in (0.2, 0.6))
    x0 = torch.randint(V - 1, (B, L), generator=generator)
    x_t = process.corrupt(x0, 0.0, t, generator)  # fills caches of size V
    process.prior_sample((1,), generator)
    posterior = torch.zeros(B, L, V, dtype=torch.float64).scatter_(-1, x0[..., None], 1.0)
    ratios = process.ratios_from_posterior(posterior, x_t, t)
    full = B * L * V
    # Largest tensor in entries; all that is ever created, in float64 copies of (B, L, V).
    for name, call, largest, copies in (
        ("corrupt", lambda: process.corrupt(x0, s, t, generator), V, 1),
        ("prior_sample", lambda: process.prior_sample((B, L), generator), V, 1),
        ("bridge", lambda: process.bridge(x_t, x0, s, t, generator), V, 1),
        ("coefficients", lambda: process.bridge_to(x_t, s, t).coefficients, 64, 0.01),
        ("likelihood", lambda: process.likelihood(x_t, t), full, 1.1),
        ("reverse_marginals", lambda: process.reverse_marginals(posterior, x_t, s, t), full, 1.1),
        ("reverse_rates", lambda: process.reverse_rates(ratios, x_t, t), full, 1.1),
        ("ratios", lambda: process.ratios_from_posterior(posterior, x_t, t), full, 8),
        ("exact", lambda: process.posterior_from_ratios(ratios, x_t, t), full, 10),
        ("clip", lambda: process.posterior_from_ratios(ratios, x_t, t, "clip"), full, 16),
        ("project", lambda: process.posterior_from_ratios(ratios, x_t, t, "project"), full, 20),
        ("condition_number", lambda: process.condition_number(t), V, 1),
    ):
        with Allocations() as seen:
            call()
        assert seen.largest <= largest, name
        assert seen.total <= copies * full * 8, (name, seen.total / full / 8)
    with Allocations() as seen:
        process.recover(ratios[:, :1], x_t[:, :1], t, "multiplicative")
    assert seen.largest <= B * V


def test_the_recorder_sees_a_square_matrix():
    process = Uniform(300, LogLinear())
    x = torch.zeros(B, L, dtype=torch.int64)
    with Allocations() as seen:
        DenseKernel(process.kernel(0.0, 0.5).dense()).sample(x)
    assert seen.largest == 300 * 300
