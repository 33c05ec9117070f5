"""How exact recovery from ratios is, against α.

``measure``: exact ratios of one position with a known law. ``measure_trained``: a small score
network on a Markov chain, whose posterior is known, beside a network of the same size and training
that gives posteriors directly. ``measure_checkpoint``: a user's network, whose posterior is
unknown: how much mass is clipped, and how surprised each method is by the true token.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.denoiser.score import ScoreDenoiser
from fewjump.evaluate.bootstrap import half_width
from fewjump.law.product import ProductLaw
from fewjump.objective import CrossEntropyELBO, ScoreEntropy
from fewjump.process import (
    Absorbing,
    FixedRate,
    Process,
    Recovery,
    RecoveryMethod,
    ResetToPrior,
    Uniform,
    discretised_gaussian_rate,
    rescale_to_gap,
)
from fewjump.process.fixed_rate import ExponentialKernel
from fewjump.random import generator_for
from fewjump.schedule import Linear, LogLinear, Time
from fewjump.verify.ratio_sources import (
    DENSE,
    METHODS,
    POSTERIOR_NETWORK,
    SOURCES,
    STRUCTURED,
    Source,
)
from fewjump.verify.subjects import (
    VOCAB,
    chain_and_data,
    small_network,
    trained,
)

#: α = e^−σ̄ at which recovery is tried.
ALPHAS = (
    *(0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 3e-3),
    *(1e-3, 1e-4, 1e-6, 1e-8, 1e-11, 1e-14),
)
NETWORK_ALPHAS = ALPHAS[:10]
#: Below it noisy ratios say nothing any more, and the iterations cost most.
NOISY_ALPHA = 1e-3
# Vocabularies above these are measured at the first seed alone.
_DEAR_DENSE, _DEAR_STRUCTURED = 512, 1 << 14
_SPREAD = math.sqrt(2 / math.pi)  # E|z| of a standard normal z.
_FLOOR = 1e-6


class RememberingRate(FixedRate):
    """A fixed rate that keeps its last kernel and condition number: tried many times at one t."""

    def kernel(self, s: Time, t: Time) -> ExponentialKernel:
        if getattr(self, "_kernel_at", None) != (s, t):
            self._kernel_at, self._kernel = (s, t), super().kernel(s, t)
        return self._kernel

    def condition_number(self, t: Time) -> Tensor:
        if getattr(self, "_condition_at", None) != t:
            self._condition_at, self._condition = t, super().condition_number(t)
        return self._condition


@dataclass(frozen=True)
class Case:
    """One position of a process at every α.

    Attributes:
        process: whose schedule is σ̄(t) = 40·t, so that α reaches 4e-18.
        law0: (V,) law of the clean token.
        positions: N, how many tokens are conditioned on, drawn anew at each time.
        generator: of the draws.
    """

    process: Process
    law0: Tensor
    positions: int
    generator: torch.Generator

    def at(self, alpha: float) -> tuple[float, Tensor, Tensor, Tensor]:
        """t, x_t (1, N), exact posterior (1, N, V), exact ratios (1, N, V)."""
        process = self.process
        t = float(process.schedule.time_of_alpha(alpha))
        noised = process.kernel(0.0, t).push(self.law0[None])[0]
        if process.absorbing:
            # A visible token is known without recovery.
            assert process.mask is not None
            x_t = torch.full((1, self.positions), process.mask)
        else:
            x0 = torch.multinomial(self.law0, self.positions, True, generator=self.generator)
            x_t = process.corrupt(x0[None], 0.0, t, self.generator)
        weights = self.law0 * process.likelihood(x_t, t)
        return t, x_t, weights / weights.sum(-1, keepdim=True), noised / noised[x_t][..., None]


def make_process(family: str, vocab_size: int, generator: torch.Generator) -> Process:
    """A process of a family, with the schedule σ̄ = 40·t; rates have a spectral gap of 1.

    Raises:
        ValueError: for an unknown family, or a dense one that does not fit.
    """
    schedule = Linear(40.0)
    if family == "uniform":
        return Uniform(vocab_size, schedule)
    if family == "absorbing":
        return Absorbing(vocab_size, schedule)
    if family == "random prior":
        return ResetToPrior(peaked_law(vocab_size, generator, 0.7), schedule)
    if family == "discretised Gaussian":
        rate = discretised_gaussian_rate(vocab_size, max(1.0, vocab_size / 8))
        return RememberingRate(rescale_to_gap(rate), schedule)
    if family == "random rate":
        rate = torch.rand(vocab_size, vocab_size, generator=generator, dtype=torch.float64) ** 2
        rate.fill_diagonal_(0)
        rate -= torch.diag(rate.sum(-1))
        return RememberingRate(rescale_to_gap(rate), schedule)
    raise ValueError(f"unknown family {family!r}; known: {', '.join(STRUCTURED + DENSE)}")


def peaked_law(vocab_size: int, generator: torch.Generator, exponent: float = 1.2) -> Tensor:
    """A Zipf law over a random order of the tokens: (V,) float64."""
    order = torch.randperm(vocab_size, generator=generator)
    weights = (order.double() + 1) ** -exponent
    return weights / weights.sum()


def make_case(family: str, vocab_size: int, seed: int) -> Case:
    """A process and a Zipf law over its clean tokens; fewer positions for more tokens."""
    generator = generator_for(seed, vocab_size)
    process = make_process(family, vocab_size, generator)
    law0 = peaked_law(vocab_size, generator)
    if process.absorbing:
        law0[process.mask] = 0
        law0 /= law0.sum()
    return Case(process, law0, max(4, min(64, (1 << 18) // vocab_size)), generator)


def measure(
    families: Sequence[str],
    vocab_sizes: Sequence[int],
    seeds: Sequence[int],
    threshold: float,
    dense_limit: int,
) -> list[dict[str, Any]]:
    """One row for each family, vocabulary, source and method.

    ``l1`` holds E‖p̂ − p‖₁ at each of ``alpha`` (None where recovery was refused because the kernel
    is singular in float64), ``condition`` the condition number, ``predicted`` what 1/α predicts,
    ``break_alpha`` where the error passes ``threshold`` (mean over seeds; None if it never does).
    """
    rows = []
    for family in families:
        for vocab_size in vocab_sizes:
            if family in DENSE and vocab_size > dense_limit:
                continue
            dear = vocab_size > (_DEAR_DENSE if family in DENSE else _DEAR_STRUCTURED)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                cases = [make_case(family, vocab_size, s) for s in (seeds[:1] if dear else seeds)]
            curves = [_curves(case) for case in cases]
            for source, method in curves[0]:
                about = {"family": family, "vocab_size": vocab_size}
                about |= {"source": source, "method": method}
                same = [found[source, method] for found in curves]
                rows.append(about | _over_seeds(same, threshold))
    return rows


def _curves(case: Case) -> dict[tuple[str, str], dict[str, list[Any]]]:
    """For each source and method of one seed: lists over α."""
    curves: dict[tuple[str, str], dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for alpha in ALPHAS:
        t, x_t, posterior, ratios = case.at(alpha)
        condition = float(case.process.condition_number(t))
        for source in SOURCES:
            if source.noise and alpha < NOISY_ALPHA:
                continue
            given = degrade(ratios, x_t, source, case.generator)
            predicted = predict(case.process, ratios, x_t, t, alpha, relative_error(source))
            # Its 200 rounds converge to what the others give where those are right, and are dear.
            dear = not source.iterated or alpha < NOISY_ALPHA
            methods: list[RecoveryMethod] = [
                m for m in METHODS if m != "multiplicative" or not dear
            ]
            for method, found in recoveries(case.process, given, x_t, t, methods):
                point: dict[str, Any] = {"alpha": alpha, "condition": condition}
                point |= {"predicted": predicted, "l1": None, "clipped": None}
                if found is not None:
                    error = (found.posterior.double() - posterior).abs().sum(-1).mean()
                    point["l1"] = float(error)
                    point["clipped"] = float(found.clipped_mass.double().mean())
                for key, value in point.items():
                    curves[source.name, method][key].append(value)
    return curves


def recoveries(
    process: Process, ratios: Tensor, x_t: Tensor, t: float, methods: Iterable[RecoveryMethod]
) -> Iterator[tuple[str, Recovery | None]]:
    """What each method recovers; None where it refuses, the kernel being singular in float64."""
    for method in methods:
        try:
            yield method, process.recover(ratios, x_t, t, method)
        except ValueError:
            yield method, None


def degrade(ratios: Tensor, x_t: Tensor, source: Source, generator: torch.Generator) -> Tensor:
    """Ratios as a source gives them; the entry at the current token stays 1."""
    if source.noise:
        error = torch.randn(ratios.shape, generator=generator, dtype=torch.float64)
        ratios = (ratios * (source.noise * error).exp()).scatter(-1, x_t[..., None], 1.0)
    return ratios.to(getattr(torch, source.dtype))


def relative_error(source: Source) -> float:
    """Standard deviation of a source's relative error; rounding is uniform in half a unit."""
    if source.noise:
        return source.noise
    return torch.finfo(getattr(torch, source.dtype)).eps / 2 / math.sqrt(3)


def predict(
    process: Process, ratios: Tensor, x_t: Tensor, t: float, alpha: float, error: float
) -> float:
    """E‖p̂ − p‖₁ if each ratio's relative error is amplified by exactly 1/α: mean over positions.

    p(a) = P[a, x]·w(a) with w ≈ r/α + (what all entries share), so each p(a) moves by
    P[a, x]·r_a·z/α, z the ratio's relative error; the ratio at x itself is 1 by definition.
    """
    weights = process.likelihood(x_t, t) * ratios
    weights = weights.scatter(-1, x_t[..., None], 0.0)
    return _SPREAD * error * float(weights.sum(-1).mean()) / alpha


def break_point(
    alphas: Sequence[float], l1: Sequence[float | None], threshold: float
) -> float | None:
    """The largest α at which the error reaches the threshold, by log-linear interpolation.

    A refusal counts as an error above it. None if every error is below.
    """
    before: tuple[float, float] | None = None
    for alpha, error in zip(alphas, l1):
        if error is None or error >= threshold:
            if before is None or error is None or before[1] <= 0:
                return alpha
            a, e = before
            share = math.log(threshold / e) / math.log(error / e)
            return math.exp(math.log(a) + share * math.log(alpha / a))
        before = (alpha, error)
    return None


def _over_seeds(curves: Sequence[dict[str, list[Any]]], threshold: float) -> dict[str, Any]:
    """Means over the seeds, in four digits, and where the error passes the threshold."""
    breaks = [break_point(curve["alpha"], curve["l1"], threshold) for curve in curves]
    found = [math.log(at) for at in breaks if at is not None]
    at = low = high = time = None
    if len(found) == len(breaks):
        centre, half = sum(found) / len(found), half_width(found)
        at, low, high = (math.exp(centre + k * half) for k in (0, -1, 1))
        # Where the usual schedule, α = 1 − (1 − 1e-3)·t, has this α; above 1 it never has.
        time = (1 - at) / (1 - LogLinear().eps)
    return {
        "alpha": curves[0]["alpha"],
        **{
            key: [_mean(values) for values in zip(*(curve[key] for curve in curves))]
            for key in ("l1", "clipped", "condition", "predicted")
        },
        "break_alpha": _mean([at]),
        "break_low": _mean([low]),
        "break_high": _mean([high]),
        "break_time": _mean([time]),
        "seeds": len(curves),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean in four digits; None if one of the values is."""
    known = [value for value in values if value is not None]
    return float(f"{sum(known) / len(known):.4g}") if len(known) == len(values) else None


def measure_trained(family: str, steps: int, seed: int) -> list[dict[str, Any]]:
    """Rows of a score network and of a posterior network of equal size and training.

    For each α and method E‖p̂ − p‖₁, and what 1/α predicts. ``ratio_error`` is the network's own:
    the root mean square of log r̂ − log r, weighted by what each ratio contributes to the posterior;
    ``predicted`` amplifies it by 1/α.

    Args:
        family: ``uniform`` or ``absorbing``.
        steps: optimiser steps of each, on a Markov chain of 8 tokens and 8 positions.
        seed: of the chain, the data and the training.
    """
    chain, data = chain_and_data(seed)
    masked = family == "absorbing"
    process: Process = Absorbing(VOCAB + 1, LogLinear()) if masked else Uniform(VOCAB, LogLinear())
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        score = ScoreDenoiser.from_config(small_network(process))
        posterior = NetworkDenoiser.from_config(small_network(process))
    score, direct = (
        trained(model, objective, data, steps, 128, seed)
        for model, objective in ((score, ScoreEntropy()), (posterior, CrossEntropyELBO()))
    )
    exact, rows = chain.denoiser(process), []
    for number, alpha in enumerate(NETWORK_ALPHAS):
        generator = generator_for(seed, 100 + number)
        t = float(process.schedule.time_of_alpha(alpha))
        x_t = process.corrupt(chain.sample(256, generator), 0.0, t, generator)
        keep = process.hidden(x_t)
        truth = _posterior(exact, x_t, t)
        guessed, ratios = _ratios(score, x_t, t), chain.ratios(x_t, t, process)
        weight = process.likelihood(x_t, t) * ratios
        weight = weight.scatter(-1, x_t[..., None], 0.0)[keep]
        gap = (guessed.clamp(min=1e-300).log() - ratios.clamp(min=1e-300).log())[keep]
        error = float(((weight * gap**2).sum() / weight.sum()).sqrt())
        row = {
            "family": family,
            "seed": seed,
            "alpha": alpha,
            "time": t,
            "condition": float(process.condition_number(t)),
            "ratio_error": error,
            "predicted": predict(process, ratios, x_t, t, alpha, error),
        }

        def l1(guess: Tensor, truth: Tensor = truth, keep: Tensor = keep) -> float:
            return float((guess - truth).abs().sum(-1)[keep].mean())

        for method in METHODS:
            found = process.recover(guessed, x_t, t, method)
            clipped = float(found.clipped_mass[keep].mean())
            rows.append(row | {"method": method, "l1": l1(found.posterior), "clipped": clipped})
        own = l1(_posterior(direct, x_t, t))
        rows.append(row | {"method": POSTERIOR_NETWORK, "l1": own, "clipped": 0.0})
    return rows


def _posterior(denoiser: Denoiser, x_t: Tensor, t: float) -> Tensor:
    law = denoiser(x_t, t)
    assert isinstance(law, ProductLaw)
    return law.log_probs().exp().double()


@torch.no_grad()
def measure_checkpoint(denoiser: Denoiser, data: Tensor, seed: int) -> list[dict[str, Any]]:
    """Rows of a saved model: for each α and method the clipped mass and the true token's surprise.

    Args:
        denoiser: a score network, or any other (its ratios are then those of its posterior, in the
            precision it computes in).
        data: (N, L) clean tokens.
        seed: of the noise.

    Returns:
        For each α and method ``clipped``, ``condition``, and ``nll``: −log p̂(x₀ⁱ|x_t) with p̂ at
        least 1e-6, nats per position (masked positions only, where there is a mask).

    Raises:
        ValueError: for tokens that the model does not know.
    """
    if data.numel() == 0 or not 0 <= int(data.min()) <= int(data.max()) < denoiser.clean_vocab_size:
        raise ValueError(
            f"the model knows tokens 0..{denoiser.clean_vocab_size - 1}; the data hold others, or "
            "nothing: give the data it was trained on"
        )
    process, rows = denoiser.process, []
    for number, alpha in enumerate(NETWORK_ALPHAS):
        generator = generator_for(seed, 200 + number)
        t = float(process.schedule.time_of_alpha(alpha))
        x_t = process.corrupt(data, 0.0, t, generator)
        keep = process.hidden(x_t)
        if not bool(keep.any()):
            continue
        ratios = _ratios(denoiser, x_t, t)
        for method, found in recoveries(process, ratios, x_t, t, METHODS):
            row: dict[str, Any] = {"alpha": alpha, "time": t, "method": method}
            row |= dict.fromkeys(("nll", "clipped", "condition"))
            if found is not None:
                picked = found.posterior.gather(-1, data[..., None])[..., 0][keep]
                row["nll"] = float(-picked.clamp(min=_FLOOR).log().mean())
                row["clipped"] = float(found.clipped_mass[keep].mean())
                row["condition"] = float(found.condition_number)
            rows.append(row)
    return rows


def _ratios(denoiser: Denoiser, x_t: Tensor, t: float) -> Tensor:
    if isinstance(denoiser, ScoreDenoiser):
        time = torch.full((x_t.shape[0],), t, dtype=torch.float64, device=x_t.device)
        return denoiser.ratios(x_t, time).double()
    posterior = denoiser(x_t, t).marginals()
    return denoiser.process.ratios_from_posterior(posterior, x_t, t).double()
