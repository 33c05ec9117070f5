"""Recovery from a trained score network: against the exact posterior, or on a user's checkpoint.

On a Markov chain the exact posterior is known, so that the error of what is recovered can be set
beside the error of the network's own ratios, and beside a network of the same size and training
that gives posteriors directly. A checkpoint's posterior is unknown; there the clipped mass, and how
surprised each method's posterior is by the true token, say where it breaks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.denoiser.score import ScoreDenoiser
from fewjump.law.product import ProductLaw
from fewjump.objective import CrossEntropyELBO, ScoreEntropy
from fewjump.problem import MarkovChain
from fewjump.process import Absorbing, Process, Uniform
from fewjump.random import generator_for
from fewjump.schedule import LogLinear
from fewjump.train import TrainConfig, train
from fewjump.verify.recovery_cases import METHODS
from fewjump.verify.recovery_measure import predict

ALPHAS = (0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.003)
POSTERIOR_NETWORK = "posterior network"
_VOCAB, _LENGTH, _FLOOR = 8, 8, 1e-6


class Trained(NamedTuple):
    """A problem with a score network and a posterior network of equal size and training."""

    chain: MarkovChain
    process: Process
    score: ScoreDenoiser
    posterior: Denoiser


def train_networks(family: str, steps: int, seed: int) -> Trained:
    """Two small transformers on a Markov chain of 8 tokens and 8 positions.

    Args:
        family: ``uniform`` or ``absorbing``.
        steps: optimiser steps of each.
        seed: of the chain, the data and the training.
    """
    chain = MarkovChain.random(_VOCAB, _LENGTH, concentration=0.4, generator=generator_for(seed, 1))
    process: Process = (
        Absorbing(_VOCAB + 1, LogLinear())
        if family == "absorbing"
        else Uniform(_VOCAB, LogLinear())
    )
    data = chain.sample(20_000, generator_for(seed, 2))
    config = TrainConfig(
        steps=steps, batch_size=128, lr=3e-3, ema=0.98, seed=seed, log_every=steps, progress=False
    )
    described = {
        "process": process.config(),
        "trunk": {"hidden": 32, "blocks": 2, "heads": 2, "conv_kernel": 3},
        "length": _LENGTH,
    }
    torch.manual_seed(seed)
    score = ScoreDenoiser.from_config(described)
    posterior = NetworkDenoiser.from_config(described)
    scored = train(score, ScoreEntropy(), data, config).averaged()
    assert isinstance(scored, ScoreDenoiser)
    return Trained(
        chain, process, scored, train(posterior, CrossEntropyELBO(), data, config).averaged()
    )


@torch.no_grad()
def measure_trained(trained: Trained, seed: int, samples: int = 256) -> list[dict[str, Any]]:
    """Rows of one trained pair: for each α and method E‖p̂ − p‖₁, and what 1/α predicts.

    ``ratio_error`` is the network's own: the root mean square of log r̂ − log r, weighted by what
    each ratio contributes to the posterior; ``predicted`` amplifies it by 1/α.
    """
    chain, process, score, direct = trained
    exact, rows = chain.denoiser(process), []
    for number, alpha in enumerate(ALPHAS):
        generator = generator_for(seed, 100 + number)
        t = float(process.schedule.time_of_alpha(alpha))
        x_t = process.corrupt(chain.sample(samples, generator), 0.0, t, generator)
        keep = x_t == process.mask if isinstance(process, Absorbing) else torch.ones_like(x_t) > 0
        truth = _marginals(exact, x_t, t)
        time = torch.full((samples,), t, dtype=torch.float64)
        guessed, ratios = score.ratios(x_t, time).double(), chain.ratios(x_t, t, process)
        weight = process.likelihood(x_t, t) * ratios
        weight = weight.scatter(-1, x_t[..., None], 0.0)[keep]
        gap = (guessed.clamp(min=1e-300).log() - ratios.clamp(min=1e-300).log())[keep]
        error = float(((weight * gap**2).sum() / weight.sum()).sqrt())
        row = {
            "alpha": alpha,
            "time": t,
            "condition": float(process.condition_number(t)),
            "ratio_error": error,
            "predicted": predict(process, ratios, x_t, t, alpha, error),
        }
        for method in METHODS:
            found = process.recover(guessed, x_t, t, method)
            l1 = (found.posterior - truth).abs().sum(-1)[keep].mean()
            rows.append(
                row
                | {"method": method, "l1": float(l1)}
                | {"clipped": float(found.clipped_mass[keep].mean())}
            )
        own = (_marginals(direct, x_t, t) - truth).abs().sum(-1)[keep].mean()
        rows.append(row | {"method": POSTERIOR_NETWORK, "l1": float(own), "clipped": 0.0})
    return rows


def _marginals(denoiser: Denoiser, x_t: Tensor, t: float) -> Tensor:
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
    for number, alpha in enumerate(ALPHAS):
        generator = generator_for(seed, 200 + number)
        t = float(process.schedule.time_of_alpha(alpha))
        x_t = process.corrupt(data, 0.0, t, generator)
        keep = x_t == process.mask if isinstance(process, Absorbing) else torch.ones_like(x_t) > 0
        if not bool(keep.any()):
            continue
        ratios = _ratios(denoiser, x_t, t)
        for method in METHODS:
            row = {"alpha": alpha, "time": t, "method": method, "nll": None, "clipped": None}
            try:
                found = process.recover(ratios, x_t, t, method)
            except ValueError:
                rows.append(row | {"condition": None})
                continue
            picked = found.posterior.gather(-1, data[..., None])[..., 0][keep]
            nll = -picked.clamp(min=_FLOOR).log().mean()
            rows.append(
                row
                | {"nll": float(nll), "clipped": float(found.clipped_mass[keep].mean())}
                | {"condition": float(found.condition_number)}
            )
    return rows


def _ratios(denoiser: Denoiser, x_t: Tensor, t: float) -> Tensor:
    time = torch.full((x_t.shape[0],), t, dtype=torch.float64, device=x_t.device)
    if isinstance(denoiser, ScoreDenoiser):
        return denoiser.ratios(x_t, time).double()
    posterior = denoiser(x_t, t).marginals()
    return denoiser.process.ratios_from_posterior(posterior, x_t, t).double()


def exceeds(rows: Sequence[Mapping[str, Any]], method: str, key: str, limit: float) -> float | None:
    """The largest α at which ``key`` of a method's rows is above ``limit``, or was refused."""
    for row in sorted((r for r in rows if r["method"] == method), key=lambda r: -r["alpha"]):
        if row[key] is None or not row[key] <= limit or math.isnan(row[key]):
            return row["alpha"]
    return None
