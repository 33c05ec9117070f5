"""Draw samples: the loop that every sampler shares, and the steps of a whole trajectory.

**The last step.** With ``denoise`` every interval that ends above 0 is walked by the sampler, and
x₀ is then drawn from the law at the last positive time. A grid 1 → 0 of K intervals therefore costs
K evaluations for a one-evaluation sampler and 2(K−1)+1 for a two-evaluation one; one interval is
one-shot generation for all; a grid that ends above 0 costs one evaluation more. Without
``denoise`` the sampler's own step is used down to the last time.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, SupportsIndex

import torch
from torch import Tensor

from fewjump.config import check_count
from fewjump.denoiser.base import Condition, Denoiser
from fewjump.denoiser.condition import ConditionedDenoiser, make_condition
from fewjump.law.decoding import Decoding
from fewjump.progress import Progress
from fewjump.random import SampleStreams
from fewjump.registry import DECODINGS
from fewjump.sampler.base import Move, Moves, Sampler, Step, draw_step
from fewjump.sampler.carried_grids import carried_grid
from fewjump.sampler.carried_samplers import chosen_sampler
from fewjump.sampler.moves import LawMove
from fewjump.sampler.prior_law import check_product
from fewjump.sampler.prompt import PromptedDenoiser, eval_mode, make_prompt, synchronise
from fewjump.sampler.time_grid import FITTED, GridSpec, check_spec, times_for

#: An autoregressive law is drawn by a walk along its positions.
SEQUENTIAL = "sequential"
_BATCH_LIMIT = 256
# Beyond it, and below its inverse, logits in single precision run out of range.
EXTREME_TEMPERATURE = 1e6
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
        sampler: a name of :data:`fewjump.sampler.SAMPLERS`, or a sampler. By default
            ``ancestral``; but where the denoiser carries a sampler that was learned for this number
            of steps (``fewjump distill --method lsd``), and no grid is given, that one, with its
            own times. :attr:`SamplerRun.sampler` says which it was.
        grid: ``uniform`` (default), ``cosine``, ``log-linear``, ``fitted`` (to the denoiser, see
            :mod:`fewjump.sampler.fitted_grid`; once), or times from noise to data.
        generator: a seed, a generator that one seed is drawn from, or None for torch's global one.
        length: L; the denoiser's by default.
        batch_size: samples per batch; by default at most 256, fewer for large vocabularies.
        prompt: clean tokens, (L,) or (N, L) int64. Without ``fixed``, (P,) or (N, P) with P < L
            is a prefix.
        fixed: (L,) or (N, L) boolean: the positions of ``prompt`` that are given. They are shown
            clean to the network at every step, and the law is conditioned on them; what a
            product law says of the other positions is up to the network, while a joint law is
            conditioned exactly.
        label: class of the samples, for a denoiser with classes: one, or (N,) of them, K for no
            class.
        guidance: scale of classifier-free guidance, or (N,) of them, 1 by default
            (:meth:`fewjump.denoiser.Denoiser.conditioned`); what it means for a step is in
            :mod:`fewjump.sampler.guided_rates`. Costs two evaluations, unless the denoiser takes it
            as an input. A fitted grid is that of the first sample's class: without guidance, or
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
            of a product, mixture, chain or autoregressive law. It is told the class if it has
            classes, and the guidance scale if it can be guided by it. Without one the head's own
            product drafts.
        progress: show progress on stderr (:mod:`fewjump.progress`).
        watch: told the state after every step (see :class:`RunProgress`); batches come in order.
        first: number of the first sample: what is drawn are samples ``first`` to ``first`` + N − 1
            of the seed. Rows of ``prompt``, ``label`` and ``guidance`` belong to these, from the
            first.

    Raises:
        ValueError, TypeError: for arguments that make no sense, before anything is computed.
    """
    if not isinstance(denoiser, Denoiser):
        raise TypeError(
            f"a Denoiser is sampled, and this is a {type(denoiser).__name__}; a network from "
            "tokens and times to logits becomes one by LogitDenoiser(network, process, length)"
        )
    method, grid = chosen_sampler(denoiser, sampler, steps, grid, denoise)
    length = _check_sizes(denoiser, num_samples, length, batch_size)
    condition = make_condition(denoiser, label, guidance, num_samples)
    check_spec(grid, steps, denoiser.process.schedule)
    check_options(method, denoiser, grid, denoise)
    _check_temperature(temperature, top_p)
    way = make_decoding(denoiser, decoding, draft, length)
    device = denoiser.device
    vocab_size, mask = denoiser.clean_vocab_size, denoiser.process.mask
    given = make_prompt(prompt, fixed, num_samples, length, vocab_size, device, mask)
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


def for_grid(denoiser: Denoiser, condition: Condition | None) -> Denoiser:
    """What a grid is fitted to: the denoiser, of the first sample's class where it has classes."""
    if condition is None:
        return denoiser
    scale = None if denoiser.guidance_range is None else condition.scale
    first = Condition(condition.labels[:1], None if scale is None else scale[:1])
    return ConditionedDenoiser(denoiser, first)


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


def draw_seed(generator: torch.Generator | int | None) -> int:
    """The seed given, or one drawn from the generator (torch's global one for None)."""
    if generator is None or isinstance(generator, torch.Generator):
        device = "cpu" if generator is None else generator.device
        return int(torch.randint(0, 1 << 62, (), generator=generator, device=device))
    if isinstance(generator, bool) or not isinstance(generator, SupportsIndex):
        raise TypeError(
            f"generator must be a torch.Generator, an integer seed or None, got {generator!r}"
        )
    seed = operator.index(generator)
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"a seed must lie in [0, 2^64), got {seed}")
    return seed


def _check_sizes(
    denoiser: Denoiser, num_samples: int, length: int | None, batch_size: int | None
) -> int:
    length = denoiser.length if length is None else length
    if length is None:
        raise ValueError("this denoiser has no length of its own; pass length=")
    for name, value in (("num_samples", num_samples), ("length", length)):
        check_count(value, name)
    if batch_size is not None:
        check_count(batch_size, "batch_size")
    denoiser.check_length(length)
    return length


def _check_temperature(temperature: float, top_p: float) -> None:
    if temperature != 0 and not 1 / EXTREME_TEMPERATURE <= temperature <= EXTREME_TEMPERATURE:
        raise ValueError(
            f"temperature must be 0 (the most likely token) or from {1 / EXTREME_TEMPERATURE:g} to "
            f"{EXTREME_TEMPERATURE:g}, got {temperature}"
        )
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p}")


def make_decoding(
    denoiser: Denoiser, decoding: str, draft: Denoiser | None, length: int
) -> Decoding | None:
    """The way to draw from autoregressive laws; None for a walk.

    Raises:
        ValueError: for an unknown way, one that does not apply, or a draft that does not fit.
    """
    if draft is not None and decoding == SEQUENTIAL:
        decoding = "draft"
    if decoding == SEQUENTIAL:
        return None
    if decoding not in DECODINGS:
        known = ", ".join((SEQUENTIAL, *DECODINGS))
        raise ValueError(f"unknown decoding {decoding!r}; known: {known}")
    if not denoiser.autoregressive:
        raise ValueError(
            f"decoding={decoding!r} is for autoregressive laws (a student of kind autoregressive "
            "or any-order); this model draws all positions at once: leave decoding='sequential'"
        )
    if draft is not None:
        if decoding != "draft":
            raise ValueError(f"decoding={decoding!r} takes no draft=; use decoding='draft'")
        _check_draft(denoiser, draft, length)
    return DECODINGS[decoding]()


def _check_draft(denoiser: Denoiser, draft: Denoiser, length: int) -> None:
    own, other = (
        (model.process.vocab_size, model.process.mask, model.clean_vocab_size)
        for model in (denoiser, draft)
    )
    if own != other:
        raise ValueError(
            "a draft must have the states, the mask and the clean tokens of the model it drafts "
            f"for, {own}; this one has {other}"
        )
    if draft.classes is not None and denoiser.classes not in (None, draft.classes):
        raise ValueError(
            f"a draft must have the classes of the model it drafts for, {denoiser.classes}, or "
            f"none; this one has {draft.classes}"
        )
    if draft.device != denoiser.device:
        raise ValueError(f"the draft is on {draft.device}, the model on {denoiser.device}")
    draft.check_length(length)


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


def check_options(
    sampler: Sampler | None, denoiser: Denoiser, grid: GridSpec | None, denoise: bool
) -> None:
    """Raise ValueError where the sampler does not apply or would ignore an option.

    None, the denoiser's default, always applies.
    """
    if sampler is None:
        return
    sampler.check(denoiser)
    if sampler.uses_grid:
        return
    if grid is not None:
        raise ValueError(f"{sampler.name} draws its own times; leave the grid out")
    if not denoise:
        raise ValueError(f"{sampler.name} has no final denoising step; leave denoise=True")


def check_budgets(
    denoiser: Denoiser,
    budgets: Sequence[int],
    sampler: str | Sampler | None = None,
    grid: GridSpec | None = None,
    length: int | None = None,
) -> None:
    """Raise ValueError where :func:`run` would refuse one of several numbers of steps.

    For what draws often: none of it is then drawn in vain.

    Args:
        denoiser: asked once about noise where a law's kind decides.
        budgets: numbers of steps.
        sampler, grid, length: as for :func:`run`.
    """
    for steps in budgets:
        check_spec(grid, steps, denoiser.process.schedule)
        method, spec = chosen_sampler(denoiser, sampler, steps, grid)
        check_options(method, denoiser, spec, True)
        if not method.uses_grid:
            continue
        size = denoiser.length if length is None else length
        fitted = isinstance(spec, str) and spec == FITTED and size is not None
        if fitted and carried_grid(denoiser, steps, size) is None:
            check_product(denoiser, size)
        if spec is None or isinstance(spec, str):
            method.check_intervals(steps - 1)
