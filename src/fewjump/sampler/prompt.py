"""Clean tokens that are given (prompts and infilling), and the denoiser as a sampler asks it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fewjump.denoiser.base import Condition, Denoiser
from fewjump.denoiser.condition import ask, can_guide
from fewjump.law import Law
from fewjump.law.base import Decoding, whole_numbers
from fewjump.process.base import Process


@dataclass(frozen=True)
class Prompt:
    """Known clean tokens of a batch.

    Attributes:
        x0: (B, L) int64, read where ``fixed`` holds.
        fixed: (B, L) boolean.
    """

    x0: Tensor
    fixed: Tensor

    def pin(self, x: Tensor) -> Tensor:
        """``x`` with the known positions set to their clean tokens."""
        return torch.where(self.fixed, self.x0, x)

    def shown(self, x_t: Tensor, process: Process) -> bool:
        """Whether every law of ``x_t`` has the known tokens already: under a mask what is visible
        is certain."""
        return process.absorbing and torch.equal(self.pin(x_t), x_t)

    def rows(self, index: Tensor) -> Prompt:
        """The prompt of some samples."""
        return Prompt(self.x0[index], self.fixed[index])


def make_prompt(
    prompt: Tensor | None,
    fixed: Tensor | None,
    num_samples: int,
    length: int,
    clean_vocab_size: int,
    device: torch.device,
    mask: int | None = None,
) -> Prompt | None:
    """Validate and spread a prompt over all samples; None where there is none.

    Tokens that the process keeps, such as padding, may be given: samples show them where they are.

    Raises:
        ValueError: for shapes that do not fit, a prompt that leaves nothing to draw without saying
            so through ``fixed``, or tokens that are not clean ones: the process's mask is none.
    """
    if prompt is None:
        if fixed is not None:
            raise ValueError("fixed= says which tokens of a prompt are given; pass prompt= too")
        return None
    x0 = torch.as_tensor(prompt, device=device)
    # Of nothing torch makes floats.
    x0 = whole_numbers(x0, "prompt") if x0.numel() else x0.long()
    if x0.dim() not in (1, 2) or (x0.dim() == 2 and x0.shape[0] != num_samples):
        raise ValueError(
            f"prompt must be (L,) or ({num_samples}, L), one row a sample; got {tuple(x0.shape)}"
        )
    given = x0.shape[-1]
    if fixed is None:
        if given >= length:
            raise ValueError(
                f"a prompt of {given} tokens leaves none of the {length} to draw; pass fixed= to "
                "say which are given, or a shorter prefix"
            )
        known = torch.arange(length, device=device) < given
        x0 = torch.nn.functional.pad(x0, (0, length - given))
    else:
        known = torch.as_tensor(fixed, device=device)
        if known.dtype != torch.bool:
            raise ValueError(f"fixed must be boolean, got {known.dtype}")
        if given != length or known.shape not in ((length,), (num_samples, length)):
            raise ValueError(
                f"with fixed=, prompt and fixed must have {length} columns (and 1 or {num_samples} "
                f"rows); got {tuple(x0.shape)} and {tuple(known.shape)}"
            )
    x0, known = x0.expand(num_samples, length), known.expand(num_samples, length)
    tokens = x0[known]
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < clean_vocab_size:
        raise ValueError(
            f"prompt tokens must lie in [0, {clean_vocab_size}) where they are fixed; got "
            f"{int(tokens.min())} to {int(tokens.max())}"
        )
    if mask is not None and bool((tokens == mask).any()):
        raise ValueError(
            f"the prompt gives token {mask}, the mask, as a clean one; leave it out, or, where a "
            "token is to be drawn, make fixed= false there or give an infilling (infill=, --infill)"
        )
    return Prompt(torch.where(known, x0, 0), known)


class PromptedDenoiser(Denoiser):
    """The denoiser as the sampler sees it: timed, conditioned on class and prompt, tempered.

    Its laws are drawn by ``decoding``, where that is not None, with the laws of ``draft``.
    """

    def __init__(
        self,
        inner: Denoiser,
        temperature: float,
        top_p: float,
        decoding: Decoding | None = None,
        draft: Denoiser | None = None,
    ) -> None:
        super().__init__(inner.process, inner.length, inner.clean_vocab_size)
        self.inner = inner
        self.take_after(inner)
        self.temperature, self.top_p = temperature, top_p
        self.decoding, self.draft = decoding, draft
        self.prompt: Prompt | None = None
        self.condition: Condition | None = None
        self.seconds = 0.0

    def law(self, x_t: Tensor, t: Tensor) -> Law:
        prompt, condition = self.prompt, self.condition
        given = () if prompt is None else (prompt.x0, prompt.fixed)
        if condition is not None:
            scale = () if condition.scale is None else (condition.scale,)
            given = (*given, condition.labels, *scale)
        if not _alike(x_t, t, *given):
            return self._law(x_t, t, prompt, condition)
        # As an absorbing process starts. The law is one, computed once, and B rows draw from it.
        first = torch.zeros(1, dtype=torch.int64, device=x_t.device)
        one = self._law(
            x_t[:1],
            t[:1],
            None if prompt is None else prompt.rows(first),
            None if condition is None else condition.rows(first),
        )
        law = one.expand(x_t.shape[0])
        if one.untempered is not None:
            law.untempered = one.untempered.expand(x_t.shape[0])
        return law

    def _law(
        self, x_t: Tensor, t: Tensor, prompt: Prompt | None, condition: Condition | None
    ) -> Law:
        law = self._conditioned(self.inner, x_t, t, prompt, condition)
        if (self.temperature, self.top_p) != (1, 1):
            plain, law = law, law.tempered(self.temperature, self.top_p)
            law.untempered = plain
        if self.decoding is None:
            return law
        draft = None
        if self.draft is not None:
            told = _told(self.draft, condition)
            draft = self._conditioned(self.draft, x_t, t, prompt, told)
        if draft is not None and self.temperature not in (0, 1):
            # Not truncated: what is settled must remain possible.
            draft = draft.tempered(self.temperature)
        return law.decoded(self.decoding, draft)

    def _conditioned(
        self,
        denoiser: Denoiser,
        x_t: Tensor,
        t: Tensor,
        prompt: Prompt | None,
        condition: Condition | None,
    ) -> Law:
        with self._clock():
            law = ask(denoiser, x_t, t, condition)
        # The head's product is part of the network, whenever it is computed.
        law = law.timed(self._clock)
        if prompt is not None and not prompt.shown(x_t, self.process):
            law = law.given(prompt.x0, prompt.fixed)
        return law

    @contextmanager
    def _clock(self) -> Iterator[None]:
        device = self.inner.device
        synchronise(device)
        started = time.perf_counter()
        yield
        synchronise(device)
        self.seconds += time.perf_counter() - started


def _told(draft: Denoiser, condition: Condition | None) -> Condition | None:
    """What a draft hears of the condition: any draft will do, one nearer to the law is quicker."""
    if draft.classes is None or condition is None or condition.scale is None:
        return None if draft.classes is None else condition
    scale = condition.scale
    if draft.guidance_range is not None:
        return Condition(condition.labels, scale.clamp(*draft.guidance_range))
    return Condition(condition.labels, scale if can_guide(draft, scale) else None)


def _alike(*values: Tensor) -> bool:
    """Whether each of the tensors (B, ...) has B > 1 equal rows."""
    return values[0].shape[0] > 1 and all(bool((v == v[:1]).all()) for v in values)


def synchronise(device: torch.device) -> None:
    """Wait until an accelerator has done what it was asked to: times would miss it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
