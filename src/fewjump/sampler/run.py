"""Draw samples: the loop that every sampler shares, and the steps of a whole trajectory.

**The last step.** With ``denoise`` every interval that ends above 0 is walked by the sampler, and
x₀ is then drawn from the law at the last positive time. A grid 1 → 0 of K intervals therefore costs
K evaluations for a one-evaluation sampler and 2(K−1)+1 for a two-evaluation one; one interval is
one-shot generation for all; a grid that ends above 0 costs one evaluation more. Without
``denoise`` the sampler's own step is used down to the last time.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser, eval_mode
from fewjump.denoiser.condition import make_condition
from fewjump.law.base import Decoding
from fewjump.process import Process
from fewjump.progress import Progress
from fewjump.random import SampleStreams, draw_seed
from fewjump.sampler.arguments import (
    SEQUENTIAL,
    check_options,
    check_sizes,
    check_temperature,
    for_grid,
    make_decoding,
)
from fewjump.sampler.base import Move, Moves, Sampler, Step, draw_step
from fewjump.sampler.carried import chosen_sampler
from fewjump.sampler.moves import LawMove
from fewjump.sampler.prompt import PromptedDenoiser, make_prompt, synchronise
from fewjump.sampler.time_grid import GridSpec, check_spec, times_for

_BATCH_LIMIT = 256
_LOGIT_LIMIT = 1 << 26
NOISE_LEFT = (
    "the denoiser's law gives probability to a state that is no clean token, such as the mask; "
    "have its logits pass fewjump.denoiser.constrain.constrain_logits"
)


@dataclass(frozen=True)
class SamplerRun:
    """What :func:`run` returns.

    Attributes:
        samples: (N, L) int64, on the denoiser's device.
        nfe: network evaluations of a batch, counted (the largest over batches).
        seconds: wall-clock time of all batches.
        network_seconds: the part of it inside the denoiser's call; what remains is drawing,
            which for a joint law includes drawing from its head.
        clamped_mass: probability per position that the sampler's formula asked for and could not
            have, summed over the trajectory (see :class:`fewjump.sampler.base.Move`).
        seed: all that is needed to draw the same samples again.
        times: (K + 1,) float64, the grid.
        sampler: the sampler's name, with options that are not the defaults.
        decoding: how an autoregressive law's draws were made, and what they took; None for a walk
            from position to position, and for other laws.
    """

    samples: Tensor
    nfe: int
    seconds: float
    network_seconds: float
    clamped_mass: float
    seed: int
    times: Tensor
    sampler: str
    decoding: Decoding | None = None


class RunProgress(NamedTuple):
    """What the observer of :func:`run` is told after every step of every batch.

    Attributes:
        step: steps that the batch has done, from 1.
        steps: steps that it has in all: ``step == steps`` ends it.
        indices: (B,) int64 numbers of the batch's samples.
        x: (B, L) int64 their state, noisy before the end. Not to be written to.
    """

    step: int
    steps: int
    indices: Tensor
    x: Tensor


def prompt_of_kept(process: Process, rows: Tensor | None) -> dict[str, Any]:
    """``prompt`` and ``fixed`` of :func:`run`: what a process keeps, where ``rows`` (N, L) have it.

    A process never makes the tokens that it keeps: where sequences end and what frames them is
    given. Nothing without rows, or for a process that keeps none.
    """
    if rows is None or not process.kept:
        return {}
    return {"prompt": rows, "fixed": process.is_kept(rows)}


def sample(
    denoiser: Denoiser,
    num_samples: int,
    steps: int | None,
    sampler: str | Sampler | None = None,
    grid: GridSpec | None = None,
    generator: torch.Generator | int | None = None,
    *,
    length: int | None = None,
    batch_size: int | None = None,
    prompt: Tensor | None = None,
    fixed: Tensor | None = None,
    label: Tensor | Sequence[int] | int | None = None,
    guidance: Tensor | Sequence[float] | float | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    denoise: bool = True,
    decoding: str = SEQUENTIAL,
    draft: Denoiser | None = None,
    progress: bool = False,
) -> Tensor:
    """Draw samples: (N, L) int64. Arguments and errors are those of :func:`run`."""
    return run(
        denoiser,
        num_samples,
        steps,
        sampler,
        grid,
        generator,
        length=length,
        batch_size=batch_size,
        prompt=prompt,
        fixed=fixed,
        label=label,
        guidance=guidance,
        temperature=temperature,
        top_p=top_p,
        denoise=denoise,
        decoding=decoding,
        draft=draft,
        progress=progress,
    ).samples


@torch.no_grad()
def run(
    denoiser: Denoiser,
    num_samples: int,
    steps: int | None,
    sampler: str | Sampler | None = None,
    grid: GridSpec | None = None,
    generator: torch.Generator | int | None = None,
    *,
    length: int | None = None,
    batch_size: int | None = None,
    prompt: Tensor | None = None,
    fixed: Tensor | None = None,
    label: Tensor | Sequence[int] | int | None = None,
    guidance: Tensor | Sequence[float] | float | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    denoise: bool = True,
    decoding: str = SEQUENTIAL,
    draft: Denoiser | None = None,
    progress: bool = False,
    watch: Callable[[RunProgress], None] | None = None,
    first: int = 0,
) -> SamplerRun:
    """Draw samples and say what they cost.

    Sample i depends on the seed and on i only: not on ``batch_size`` nor on ``num_samples`` (as
    far as the network's own arithmetic is independent of the batch).

    Args:
        denoiser: put in eval mode meanwhile.
        num_samples: N ≥ 1.
        steps: intervals of the grid; None when ``grid`` holds the times.
        sampler: a name of :data:`fewjump.sampler.SAMPLERS`, or a sampler. By default the one that
            the denoiser carries for this number of steps (``fewjump distill --method lsd``), with
            its own times, if no grid is given; else ``ancestral``. :attr:`SamplerRun.sampler` says
            which it was.
        grid: ``uniform`` (default), ``cosine``, ``log-linear``, ``fitted`` (to the denoiser, see
            :mod:`fewjump.sampler.fitted_grid`; once), or times from noise to data.
        generator: a seed, a generator that one seed is drawn from, or None for torch's global one.
        length: L; the denoiser's by default.
        batch_size: samples per batch; by default at most 256, fewer for large vocabularies.
        prompt: clean tokens, (L,) or (N, L) int64. Without ``fixed``, (P,) or (N, P) with P < L
            is a prefix.
        fixed: (L,) or (N, L) boolean: the positions of ``prompt`` that are given. They are shown
            clean to the network at every step. A joint law is conditioned on them exactly; what a
            product law says of the other positions is up to the network. Under noise that is no
            mask, only one that was trained with ``known`` tells them from noisy ones.
        label: class of the samples, for a denoiser with classes: one, or (N,) of them, K for no
            class.
        guidance: scale of classifier-free guidance, or (N,) of them, 1 by default
            (:mod:`fewjump.sampler.guided_rates`). Costs two evaluations, unless the denoiser takes
            it as an input. A fitted grid is that of the first sample's class: without guidance, or
            under its scale where the denoiser takes it as an input.
        temperature, top_p: as in :meth:`fewjump.law.Law.tempered`, at every step. A guided law is
            tempered as a whole, and steps are then its own.
        denoise: draw x₀ at the last positive time (see :mod:`fewjump.sampler.run`).
            Without it an absorbing process may leave masks.
        decoding: how autoregressive laws are drawn: ``sequential``, one position after another;
            or, with all positions side by side, ``fixed-point`` (the same samples, but for uniform
            numbers within rounding of the boundary between two tokens) or ``draft`` (other samples
            of the same law); see :mod:`fewjump.law.decoding`.
        draft: what ``draft`` drafts with, and implies it: a denoiser of the same tokens and mask,
            of a product, mixture, chain or autoregressive law; by default the head's own product.
            It is told the class and the guidance scale where it can take them.
        progress: show progress on stderr (:mod:`fewjump.progress`).
        watch: told the state after every step (see :class:`RunProgress`); batches come in order.
        first: number of the first sample: what is drawn are samples ``first`` to ``first`` + N − 1
            of the seed. Rows of ``prompt``, ``label`` and ``guidance`` belong to these.

    Raises:
        ValueError, TypeError: for arguments that make no sense, before anything is computed.
    """
    method, grid = chosen_sampler(denoiser, sampler, steps, grid, denoise)
    length = check_sizes(denoiser, num_samples, length, batch_size)
    condition = make_condition(denoiser, label, guidance, num_samples)
    check_spec(grid, steps, denoiser.process.schedule)
    check_options(method, denoiser, grid, denoise)
    check_temperature(temperature, top_p)
    way = make_decoding(denoiser, decoding, draft, length)
    device = denoiser.device
    vocab_size, mask = denoiser.clean_vocab_size, denoiser.process.mask
    given = make_prompt(prompt, fixed, num_samples, length, vocab_size, device, mask)
    deaf = not (denoiser.process.absorbing or denoiser.joint)
    kept = denoiser.process.is_kept
    if deaf and given is not None and bool((given.fixed & ~kept(given.x0)).any()):
        warnings.warn(
            f"under {denoiser.process} a product law hears little of a prompt in few steps, unless "
            "its network was trained with known=… (--known), which tells given tokens from noisy "
            "ones; joint students and masked models hear it",
            stacklevel=2,
        )
    # A fit costs more than all that is checked above.
    times = times_for(grid, steps, for_grid(denoiser, condition), length)
    seed = draw_seed(generator)
    if batch_size is None:
        fits = _LOGIT_LIMIT // (length * denoiser.process.vocab_size)
        batch_size = max(1, min(_BATCH_LIMIT, fits))
    on_device = times.to(device)
    asked = PromptedDenoiser(denoiser, temperature, top_p, way, draft)
    meter = _Meter()
    samples: list[Tensor] = []
    nfe, started = 0, time.perf_counter()
    starts = range(0, num_samples, batch_size)
    drafting = nullcontext() if draft is None else eval_mode(draft)
    with eval_mode(denoiser), drafting, Progress(progress, label="sampling:") as bar:
        for begin in starts:
            rows = torch.arange(begin, min(begin + batch_size, num_samples), device=device)
            indices = rows + first
            streams = SampleStreams(seed, indices)
            here = given.rows(rows) if given is not None else None
            asked.prompt = here
            asked.condition = None if condition is None else condition.rows(rows)
            before = denoiser.evaluations
            x = denoiser.process.prior_sample((len(indices), length), streams, device)
            x = x if here is None else here.pin(x)
            path = trajectory(method, asked, x, on_device, denoise)
            bar.total = len(path) * len(starts)
            for number, step in enumerate(path, 1):
                pin = None if here is None else here.pin
                x = draw_step(step(x), streams, pin, meter)
                bar.update()
                if watch is not None:
                    watch(RunProgress(number, len(path), indices, x))
            samples.append(x)
            nfe = max(nfe, denoiser.evaluations - before)
            meter.end_batch(len(indices))
        synchronise(device)
        seconds = time.perf_counter() - started
    made = torch.cat(samples)
    # Beyond the clean tokens, or the mask among them.
    noisy = (made >= vocab_size) | (made == (vocab_size if mask is None else mask))
    if denoise and bool(noisy.any()):
        raise ValueError(NOISE_LEFT)
    return SamplerRun(
        samples=made,
        nfe=nfe,
        seconds=seconds,
        network_seconds=asked.seconds,
        clamped_mass=meter.total / num_samples,
        seed=seed,
        times=times,
        sampler=method.label,
        decoding=way,
    )


class _Meter:
    """Adds up the clamped mass of the moves, weighted by batch size."""

    def __init__(self) -> None:
        self.total = 0.0
        self._batch: list[Tensor] = []

    def __call__(self, move: Move) -> None:
        if move.clamped is not None:
            self._batch.append(move.clamped)

    def end_batch(self, size: int) -> None:
        if self._batch:
            self.total += size * float(torch.stack(self._batch).sum())
        self._batch = []


def trajectory(
    sampler: Sampler, denoiser: Denoiser, x: Tensor, times: Tensor, denoise: bool = True
) -> list[Step]:
    """All steps from ``x`` at ``times[0]`` to the output; see the module docstring."""
    denoiser = sampler.opened(denoiser)
    if not sampler.uses_grid:
        return sampler.steps(denoiser, x, times)
    if not denoise:
        return sampler.steps(denoiser, x, times)
    walked = times[times > 0]
    return [
        *sampler.steps(denoiser, x, walked),
        partial(_final, denoiser, walked[-1]),
    ]


def _final(denoiser: Denoiser, t: Tensor, x: Tensor) -> Moves:
    yield LawMove(denoiser(x, t), x, denoiser.process)
