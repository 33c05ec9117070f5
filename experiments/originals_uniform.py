"""UDLM and Duo: every tensor of their oracles from this library's processes and samplers."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from experiments.originals_ledger import UNIT, Ledger, compare_chain, gumbel_draw, seeded
from experiments.originals_masked import (
    CACHED,
    CKPT,
    FOLDER,
    compare_inputs,
    step_rows,
)
from fewjump.checkpoint import load
from fewjump.checkpoint.families import CODE_EPS
from fewjump.denoiser import NetworkDenoiser, Transformer
from fewjump.denoiser.constrain import LeftOneOut, constrain_logits
from fewjump.law import ProductLaw
from fewjump.objective.elbo import rate_divergence
from fewjump.process import Process, Uniform
from fewjump.sampler import Ancestral
from fewjump.schedule import Cosine


def _weights(ledger: Ledger, published: str) -> NetworkDenoiser:
    """Logits of all weights; the published network is returned."""
    x, sigma = ledger["x"], ledger["sigma"]
    for weights in ("raw", "ema"):
        denoiser = load(ledger.folder / "last.ckpt", weights=weights)  # type: ignore[arg-type]
        logits = denoiser.raw_logits(x, sigma)
        ledger.compare(f"logits_{weights}", logits, "output", CKPT, weights)
        if weights == "ema":
            ledger.compare("output_ema", logits.log_softmax(-1), "output", CKPT, weights)
    denoiser = cast(NetworkDenoiser, load(ledger.folder / "hf"))
    ledger.compare(published, denoiser.raw_logits(x, sigma), "output", FOLDER, "ema")
    return denoiser


def _first_state(vocab_size: int, shape: tuple[int, int]) -> Tensor:
    return torch.randint(0, vocab_size, shape, dtype=torch.int64)


# -- UDLM ----------------------------------------------------------------------------------------


def udlm(ledger: Ledger) -> None:
    """Logits of all weights, the ancestral step in both precisions, and the bound's terms."""
    x, t = ledger["x"], ledger["t"].double()
    compare_inputs(ledger, "x", "x0", "t")
    denoiser = _weights(ledger, "logits_hf")
    schedule = denoiser.process.schedule
    ledger.compare("sigma", schedule.sigma_bar(t), "schedule")
    ledger.compare("dsigma", schedule.sigma(t), "rate")
    table = step_rows(denoiser, Ancestral(), x, t, t - 0.04)
    for name, dtype in (("ddpm32", torch.float32), ("ddpm64", torch.float64)):
        ledger.compare(f"{name}/alpha_t", schedule.alpha(t), "schedule")
        ledger.compare(f"{name}/alpha_s", schedule.alpha(t - 0.04), "schedule")
        ledger.compare(f"{name}/probs", table, "probability", FOLDER, "ema")
        ledger.compare(f"{name}/sample", seeded(table.to(dtype)), "draw", FOLDER, "ema")
    compare_chain(
        ledger,
        "chain",
        lambda shape: _first_state(denoiser.process.vocab_size, shape),
        lambda x, t, s: step_rows(denoiser, Ancestral(), x, t, s),
        lambda table, x: gumbel_draw(table.float()),
        lambda x, t: (None, x),
        (FOLDER, "ema"),
    )
    _udlm_bound(ledger, denoiser)


def _udlm_bound(ledger: Ledger, denoiser: NetworkDenoiser) -> None:
    """The bound's terms from seed 6; the original's integral takes α to be 1 − t."""
    x0, process = ledger["x0"], denoiser.process
    batch, vocab_size = x0.shape[0], process.vocab_size
    torch.manual_seed(6)
    share = (torch.rand(batch) / batch + torch.arange(batch) / batch) % 1
    t = (1 - 1e-3) * share + 1e-3
    level = process.schedule.sigma_bar(t.double()).float()
    moved = torch.rand(x0.shape) < (1 - torch.exp(-level))[:, None]
    x_t = torch.where(moved, torch.randint(0, vocab_size, x0.shape), x0)
    plain = Uniform(vocab_size, CACHED)
    seen = cast(Process, LeftOneOut(plain, plain.schedule.sigma_bar(t.double())))
    logits = denoiser.raw_logits(x_t, level).double()
    posterior = ProductLaw(constrain_logits(logits.clone(), x_t, seen)).marginals()
    found = rate_divergence(plain, posterior, x_t, x0, t.double())
    rounding = _integral_rounding(logits.softmax(-1), x_t, x0, t.double())
    # The oracle's configuration leaves the reconstruction out of the loss.
    for name in ("diffusion_loss", "loss"):
        ledger.compare(f"nelbo_seed6/{name}", found, "rate", FOLDER, "ema", rounding=rounding)
    clean = denoiser.raw_logits(x0, 0.0).log_softmax(-1)
    reconstruction = -clean.gather(-1, x0[..., None])[..., 0]
    ledger.compare("nelbo_seed6/recon_loss", reconstruction, "rate", FOLDER, "ema")


def _integral_rounding(p: Tensor, x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
    """What float32 rounds off UDLM's density of the bound, as its paper writes it; (B, L).

    For t near 1 the terms cancel, so the rounding is of the terms' size and not of their sum's.
    """
    vocab_size = p.shape[-1]
    alpha = 1 - t[:, None, None]
    true = vocab_size * alpha * one_hot(x0, vocab_size) + 1 - alpha
    model = vocab_size * alpha * p + 1 - alpha
    true_here, model_here = true.gather(-1, x_t[..., None]), model.gather(-1, x_t[..., None])
    logs = sum(one.log().abs() for one in (model_here, model, true, true_here))
    second = (true / true_here * logs).sum(-1, keepdim=True)
    terms = vocab_size / true_here + vocab_size / model_here + second
    return (UNIT * terms / (vocab_size * alpha))[..., 0]


# -- Duo -----------------------------------------------------------------------------------------


def duo(ledger: Ledger) -> None:
    """Logits of all weights and for soft tokens, both schedules, the loss and both samplers."""
    x, x0, t = ledger["x"], ledger["x0"], ledger["t"].double()
    compare_inputs(ledger, "x", "x0", "t", "soft_input")
    denoiser = _weights(ledger, "logits_ema")
    process, schedule = denoiser.process, denoiser.process.schedule
    ledger.compare("sigma", schedule.sigma_bar(t)[:, None], "schedule")
    ledger.compare("sigma_seen_by_network", schedule.sigma_bar(t), "schedule")
    ledger.compare("alpha", schedule.alpha(t)[:, None], "schedule")
    ledger.compare("dalpha", -(schedule.sigma(t) * schedule.alpha(t))[:, None], "schedule")
    # Duo's derivative of the cosine leaves out the factor 1 − eps.
    for name, table, factor in (
        ("schedule", schedule, 1.0),
        ("cosine_schedule", Cosine(CODE_EPS), 1 - CODE_EPS),
    ):
        times = ledger[f"{name}/t"].double()
        ledger.compare(f"{name}/t", times, "input")
        ledger.compare(f"{name}/alpha", table.alpha(times), "schedule")
        slope = -table.sigma(times) * table.alpha(times) / factor
        ledger.compare(f"{name}/dalpha", slope, "schedule")
    _soft_tokens(ledger, denoiser)
    density = rate_divergence(process, denoiser(x, t).marginals().double(), x, x0, t)
    ledger.compare("nll_per_token", density, "rate", FOLDER, "ema")
    width = ledger.facts["ancestral"]["dt"]
    for name, s in (("ancestral", t - width), ("noise_removal", None)):
        table = step_rows(denoiser, Ancestral(), x, t, s)
        ledger.compare(f"{name}/probs", table, "probability", FOLDER, "ema")
        ledger.compare(f"{name}/sample", seeded(table), "draw", FOLDER, "ema")
    for name in ("chain_ancestral", "chain_greedy"):
        _duo_chain(ledger, denoiser, name)


def _soft_tokens(ledger: Ledger, denoiser: NetworkDenoiser) -> None:
    """Duo's distillation feeds mixtures of tokens: the embedding's rows, averaged."""
    trunk = cast(Transformer, denoiser.trunk)
    soft = ledger["soft_input"].softmax(-1) @ trunk.embedding.weight
    zeros = torch.zeros_like(ledger["x"])
    features = trunk.features(zeros, ledger["sigma"][:, 0], soft - trunk.embedding(zeros))
    logits = denoiser.head.linear(features)  # type: ignore[operator]
    ledger.compare("soft_logits", logits, "output", FOLDER, "ema")


def _duo_chain(ledger: Ledger, denoiser: NetworkDenoiser, name: str) -> None:
    schedule = denoiser.process.schedule

    def last(x: Tensor, t: Tensor) -> tuple[Tensor | None, Tensor]:
        if name == "chain_greedy":
            return None, denoiser.raw_logits(x, schedule.sigma_bar(t)).argmax(-1)
        table = step_rows(denoiser, Ancestral(), x, t, None)
        return table, gumbel_draw(table)

    compare_chain(
        ledger,
        name,
        lambda shape: _first_state(denoiser.process.vocab_size, shape),
        lambda x, t, s: step_rows(denoiser, Ancestral(), x, t, s),
        lambda table, x: gumbel_draw(table),
        last,
        (FOLDER, "ema"),
    )
