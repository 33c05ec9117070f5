"""The denoiser as a sampler sees it: in eval mode, timed, given the prompt, tempered."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.law import Law
from fewjump.sampler.prompt import Prompt


class Shown(Denoiser):
    """The denoiser as the sampler sees it: timed, conditioned on the prompt, tempered."""

    def __init__(self, inner: Denoiser, temperature: float, top_p: float) -> None:
        super().__init__(inner.process, inner.length, inner.clean_vocab_size)
        self.inner = inner
        self.time_conditioned = inner.time_conditioned
        self.temperature, self.top_p = temperature, top_p
        self.prompt: Prompt | None = None
        self.seconds = 0.0

    def law(self, x_t: Tensor, t: Tensor) -> Law:
        prompt = self.prompt
        known = () if prompt is None else (prompt.x0, prompt.fixed)
        if not _alike(x_t, t, *known):
            return self._law(x_t, t, prompt)
        # As an absorbing process starts. The law is one, computed once, and B rows draw from it.
        first = torch.zeros(1, dtype=torch.int64, device=x_t.device)
        one = self._law(x_t[:1], t[:1], None if prompt is None else prompt.rows(first))
        return one.expand(x_t.shape[0])

    def _law(self, x_t: Tensor, t: Tensor, prompt: Prompt | None) -> Law:
        with self._clock():
            law = self.inner(x_t, t)
        # The head's product is part of the network, whenever it is computed.
        law = law.timed(self._clock)
        if prompt is not None:
            law = law.given(prompt.x0, prompt.fixed)
        if (self.temperature, self.top_p) != (1, 1):
            law = law.tempered(self.temperature, self.top_p)
        return law

    @contextmanager
    def _clock(self) -> Iterator[None]:
        device = self.inner.device
        synchronise(device)
        started = time.perf_counter()
        yield
        synchronise(device)
        self.seconds += time.perf_counter() - started


def _alike(*values: Tensor) -> bool:
    """Whether each of the tensors (B, ...) has B > 1 equal rows."""
    return values[0].shape[0] > 1 and all(bool((v == v[:1]).all()) for v in values)


@contextmanager
def eval_mode(denoiser: Denoiser) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule is as it was."""
    modes = [(module, module.training) for module in denoiser.modules()]
    denoiser.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def synchronise(device: torch.device) -> None:
    """Wait until an accelerator has done what it was asked to: times would miss it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
