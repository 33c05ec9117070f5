"""What a run of a sampler is asked for: checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

from fewjump.config import check_count, check_counts
from fewjump.denoiser.base import Condition, Denoiser
from fewjump.denoiser.condition import ConditionedDenoiser
from fewjump.law.base import Decoding
from fewjump.registry import DECODINGS
from fewjump.sampler.base import Sampler
from fewjump.sampler.carried import carried_grid, chosen_sampler
from fewjump.sampler.prior_law import check_product
from fewjump.sampler.time_grid import GridSpec, check_spec, is_fitted

#: An autoregressive law is drawn by a walk along its positions.
SEQUENTIAL = "sequential"
# Beyond it, and below its inverse, logits in single precision run out of range.
EXTREME_TEMPERATURE = 1e6


def check_sizes(
    denoiser: Denoiser, num_samples: int, length: int | None, batch_size: int | None
) -> int:
    """The length of samples, the denoiser's where none is said.

    Raises:
        ValueError: for numbers below 1, and for a length that the denoiser has not.
    """
    length = denoiser.length if length is None else length
    if length is None:
        raise ValueError("this denoiser has no length of its own; pass length=")
    check_counts(num_samples=num_samples, length=length)
    if batch_size is not None:
        check_count(batch_size, "batch_size")
    denoiser.check_length(length)
    return length


def check_temperature(temperature: float, top_p: float) -> None:
    """Raise ValueError for what logits in single precision cannot be divided or cut by."""
    if temperature != 0 and not 1 / EXTREME_TEMPERATURE <= temperature <= EXTREME_TEMPERATURE:
        raise ValueError(
            f"temperature must be 0 (the most likely token) or from {1 / EXTREME_TEMPERATURE:g} to "
            f"{EXTREME_TEMPERATURE:g}, got {temperature}"
        )
    if not 1 / EXTREME_TEMPERATURE <= top_p <= 1:
        raise ValueError(
            f"top_p must be from {1 / EXTREME_TEMPERATURE:g} to 1, got {top_p}; the most likely "
            "token alone is temperature 0"
        )


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


def for_grid(denoiser: Denoiser, condition: Condition | None) -> Denoiser:
    """What a grid is fitted to: the denoiser, of the first sample's class where it has classes."""
    if condition is None:
        return denoiser
    scale = None if denoiser.guidance_range is None else condition.scale
    first = Condition(condition.labels[:1], None if scale is None else scale[:1])
    return ConditionedDenoiser(denoiser, first)


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
    """Raise ValueError where :func:`fewjump.sampler.run` would refuse a number of steps.

    For what draws often: none of it is then drawn in vain.

    Args:
        denoiser: asked once about noise where a law's kind decides.
        budgets: numbers of steps.
        sampler, grid, length: as for :func:`fewjump.sampler.run`.
    """
    for steps in budgets:
        check_spec(grid, steps, denoiser.process.schedule)
        method, spec = chosen_sampler(denoiser, sampler, steps, grid)
        check_options(method, denoiser, spec, True)
        if not method.uses_grid:
            continue
        size = denoiser.length if length is None else length
        fitted = is_fitted(spec) and size is not None
        if fitted and carried_grid(denoiser, steps, size) is None:
            check_product(denoiser, size)
        if spec is None or isinstance(spec, str):
            method.check_intervals(steps - 1)
