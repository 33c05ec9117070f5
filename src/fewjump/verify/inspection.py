"""What a checkpoint is, and whether its network behaves as a denoiser should."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewjump.checkpoint.opening import open_model, place_of
from fewjump.checkpoint.originals import Reading
from fewjump.denoiser import Denoiser
from fewjump.law import Law
from fewjump.publish.conditions import read_conditions
from fewjump.publish.models import said_vocabulary
from fewjump.sampler import sample

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
NORMALISED_WITHIN = 1e-4


@dataclass
class TimeCheck:
    """A denoiser at one time, asked about noised samples of its own.

    x₀ are samples of the model, x_t ~ q(x_t|x₀) the same sequences noised to time t, p = p(x₀ⁱ|x_t)
    the model's answer at each position. A model that is a consistent denoiser has
    ``confidence`` = ``right`` and, under uniform noise, ``kept`` = ``kept_expected``, up to the
    error of the mean; a network given the wrong noise level, mask or head has not.

    Attributes:
        sigma_bar: σ̄(t), what the network is given if it reads time at all.
        open: share of positions that are asked about: masked ones; under other noise all but those
            of tokens that it keeps.
        normalised: largest |Σp − 1|.
        confidence: mean over those positions of the largest entry of p.
        right: share of them where that entry is x₀ⁱ.
        error: standard error of the difference of the two, positions taken as independent.
        kept: uniform noise: mean of p(x_tⁱ) over those positions, the model's probability that
            noise left the token.
        kept_expected: α + (1−α)/V, the share that it leaves, of V tokens that it does not keep.
    """

    t: float
    sigma_bar: float
    open: float
    finite: bool
    normalised: float
    confidence: float | None
    right: float | None
    error: float | None
    kept: float | None = None
    kept_expected: float | None = None


def inspect(
    source: str | Path,
    *,
    check: bool = True,
    samples: int = 16,
    steps: int = 16,
    length: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    **reading: Any,
) -> dict[str, Any]:
    """Facts about a model as plain data, and a check of its network.

    Args:
        source, device: see :func:`fewjump.load`.
        check: whether to run the network.
        samples, steps: sequences drawn from the model for the check, and steps of each.
        length: tokens of a sequence; by default the model's length, at most 128.
        seed: of the draws.
        **reading: further options of :func:`fewjump.load`.

    Returns:
        The fields of :class:`~fewjump.checkpoint.originals.Facts`, ``process``, ``schedule``, the
        ``samplers`` that the model carries (:mod:`fewjump.sampler.carried`), and
        with ``check`` the key ``check``: ``ok`` (finite and normalised), ``times`` (fields of
        :class:`TimeCheck`) and what was drawn.

    Raises:
        ValueError, FileNotFoundError: as load does.
    """
    if samples < 1 or steps < 1:
        raise ValueError(f"samples and steps must be at least 1, got {samples} and {steps}")
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        denoiser, facts = open_model(place_of(source), Reading(**reading), device, told=False)
    found = asdict(facts)
    schedule = denoiser.process.schedule
    found["process"] = denoiser.process.config()
    found["schedule"] = schedule.config()
    found["samplers"] = denoiser.samplers or []
    found["noise_levels"] = {str(t): float(schedule.sigma_bar(t)) for t in (*TIMES, 1.0)}
    if check:
        own = min(denoiser.length or 32, denoiser.longest or 128)
        length = min(own, 128) if length is None else length
        framed = read_conditions(said_vocabulary(denoiser, source), samples, length)
        found["check"] = check_denoiser(
            denoiser, samples, steps, length, seed, framed.prompt, framed.fixed
        )
    return found


@torch.no_grad()
def check_denoiser(
    denoiser: Denoiser,
    samples: int = 16,
    steps: int = 16,
    length: int = 32,
    seed: int = 0,
    prompt: Tensor | None = None,
    fixed: Tensor | None = None,
) -> dict[str, Any]:
    """Ask a denoiser about noised samples of its own; see :class:`TimeCheck`.

    One with classes is asked for none in particular. ``prompt`` and ``fixed`` are those of
    :func:`fewjump.sample`: what frames the model's texts.
    """
    if denoiser.classes is not None:
        denoiser = denoiser.conditioned(denoiser.classes)
    given: dict[str, Any] = {"length": length, "prompt": prompt, "fixed": fixed}
    x0 = sample(denoiser, samples, steps, generator=seed, **given)
    generator = torch.Generator(x0.device).manual_seed(seed + 1)
    rows = [_at(denoiser, x0, t, generator) for t in TIMES]
    ok = all(row.finite and row.normalised <= NORMALISED_WITHIN for row in rows)
    return {
        "ok": ok,
        "samples": samples,
        "steps": steps,
        "length": length,
        "seed": seed,
        "times": [asdict(row) for row in rows],
    }


def _at(denoiser: Denoiser, x0: Tensor, t: float, generator: torch.Generator) -> TimeCheck:
    process = denoiser.process
    x_t = process.corrupt(x0, 0.0, t, generator)
    law: Law = denoiser(x_t, t)
    p = law.precise_marginals()
    asked = process.hidden(x_t)
    rows = p[asked]
    row = TimeCheck(
        t=t,
        sigma_bar=float(process.schedule.sigma_bar(t)),
        open=float(asked.double().mean()),
        finite=bool(p.isfinite().all()),
        normalised=float((p.sum(-1) - 1).abs().max()),
        confidence=None,
        right=None,
        error=None,
    )
    if rows.shape[0]:
        best, token = rows.max(-1)
        hits = (token == x0[asked]).double()
        row.confidence, row.right = float(best.mean()), float(hits.mean())
        row.error = float((hits - best).std(correction=0) / rows.shape[0] ** 0.5)
    if process.uniform and not process.absorbing and rows.shape[0]:
        alpha = float(process.schedule.alpha(t))
        row.kept = float(rows.gather(-1, x_t[asked][:, None]).mean())
        row.kept_expected = alpha + (1 - alpha) / (process.vocab_size - len(process.kept))
    return row
