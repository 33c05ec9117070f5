"""SEDD and MDLM: every tensor of their oracles from this library's processes and samplers."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from experiments.originals_ledger import (
    Ledger,
    compare_chain,
    gumbel_draw,
    seeded,
)
from fewjump.checkpoint import load
from fewjump.denoiser import Denoiser, NetworkDenoiser, ScoreDenoiser, ScoreNetwork, Transformer
from fewjump.objective.elbo import rate_divergence
from fewjump.process import Absorbing
from fewjump.sampler import Ancestral, Euler, Sampler
from fewjump.sampler.moves import JumpMove, LawMove
from fewjump.schedule import LogLinear

HUB, RUN, CKPT, FOLDER = "SEDD hub", "SEDD run", "Lightning", "Hugging Face"
# MDLM's cached sampler takes 1 − α to be t itself.
CACHED = LogLinear(1e-12)


def compare_schedule(ledger: Ledger, denoiser: Denoiser) -> None:
    """σ̄ and its rate over [0, 1] and at the oracle's times."""
    schedule = denoiser.process.schedule
    for prefix, t in (("schedule/", ledger["schedule/t"]), ("", ledger["t"])):
        t = t.double()
        names = ("total", "rate") if prefix else ("sigma", "dsigma")
        ledger.compare(prefix + "t", t, "input")
        ledger.compare(prefix + names[0], schedule.sigma_bar(t), "schedule")
        ledger.compare(prefix + names[1], schedule.sigma(t), "rate")


def compare_inputs(ledger: Ledger, *names: str) -> None:
    """What the oracle was computed from, and the positions its tables are of: all of them."""
    for name in names:
        ledger.compare(name, ledger[name], "input")
    ledger.compare("positions", torch.arange(ledger["x"].shape[1]), "input")


def step_rows(
    denoiser: Denoiser, sampler: Sampler, x: Tensor, t: Tensor, s: Tensor | None
) -> Tensor:
    """The table (B, L, V) of a sampler's step from t (B,) to s (B,), or of the last draw."""
    tables = []
    for row in range(x.shape[0]):
        state, now = x[row : row + 1], t[row]
        if s is None:
            tables.append(LawMove(denoiser(state, now), state, denoiser.process).rows())
        else:
            move = next(sampler.moves(denoiser, state, now, s[row]))
            tables.append(cast(JumpMove, move).rows())
    return torch.cat(tables)


def condition_and_blocks(trunk: Transformer, x: Tensor, sigma: Tensor) -> tuple[Tensor, list[Any]]:
    """The condition c (B, C), and what each block returns."""
    blocks: list[Any] = []
    hooks = [
        block.register_forward_hook(lambda _m, _i, out: blocks.append(out))
        for block in trunk.blocks
    ]
    trunk.features(x, sigma)
    for hook in hooks:
        hook.remove()
    return nn.functional.silu(trunk.noise(sigma)), blocks


# -- SEDD ----------------------------------------------------------------------------------------


def sedd(ledger: Ledger) -> None:
    """Scores of all weights, the graph's rates, losses, both predictors and the denoiser."""
    x, x0, t = ledger["x"], ledger["x0"], ledger["t"].double()
    sigma = ledger["sigma"]
    compare_inputs(ledger, "x", "x0")
    for name, weights in (("run_raw", "raw"), ("run_ema", "ema")):
        denoiser = load(ledger.folder / "run", weights=weights)  # type: ignore[arg-type]
        score = denoiser.log_score(x, sigma)
        ledger.compare(f"log_score_{name}", score, "output", RUN, weights)
    denoiser = cast(ScoreDenoiser, load(ledger.folder / "hf"))
    network = cast(ScoreNetwork, denoiser.network)
    ledger.compare("log_score_hf", denoiser.log_score(x, sigma), "output", HUB, "ema")
    network.scaled = False
    ledger.compare("log_score_hf_unscaled", denoiser.log_score(x, sigma), "output", HUB, "ema")
    network.scaled = True
    condition, blocks = condition_and_blocks(cast(Transformer, network.trunk), x, sigma)
    ledger.compare("c", condition, "output", HUB, "ema")
    for i, hidden in enumerate(blocks):
        ledger.compare(f"hidden/{i}", hidden, "output", HUB, "ema")
    compare_schedule(ledger, denoiser)
    _graph(ledger, denoiser)
    ratios = denoiser.log_score(x, sigma).double().exp()
    rate = denoiser.process.schedule.sigma(t)
    density = rate_divergence(denoiser.process, ratios, x, x0, t, direct=True)
    ledger.compare("score_entropy", density / rate[:, None], "rate", HUB, "ema")
    ledger.compare("loss", density.sum(-1), "rate", HUB, "ema")
    for name, sampler in (("euler", Euler()), ("analytic", Ancestral())):
        table = sedd_step(denoiser, name, x, t, t - 0.04)
        ledger.compare(f"{name}_probs", table, "probability", HUB, "ema")
        drawn = step_rows(denoiser, sampler, x, t, t - 0.04)
        ledger.compare(f"{name}_probs", drawn, "probability", HUB, "ema", as_drawn=True)
        ledger.compare(f"{name}_sample", seeded(table.float()), "draw", HUB, "ema")
        _sedd_chain(ledger, denoiser, name, sampler)
    table = _unnormalised_denoise(denoiser, x, t)
    ledger.compare("denoise_probs", table, "probability", HUB, "ema")
    ledger.compare("denoise_sample", seeded(table.float()), "draw", HUB, "ema")


def _graph(ledger: Ledger, denoiser: ScoreDenoiser) -> None:
    """Rates and transitions of the forward process, and the scores moved along it."""
    process, x, t = denoiser.process, ledger["x"], ledger["t"].double()
    base = process.base_rate()
    ledger.compare("rate", base[x], "rate")
    ledger.compare("transp_rate", base.T[x], "rate")
    kernel = process.kernel(0.0, t).dense()
    columns = torch.stack([kernel[row].T[x[row]] for row in range(x.shape[0])])
    ledger.compare("transp_transition", columns, "probability")
    ratios = denoiser.log_score(x, ledger["sigma"]).double().exp()
    rates = process.reverse_rates(ratios, x, t) / process.schedule.sigma(t)[:, None, None]
    ledger.compare("reverse_rate", rates, "rate", HUB, "ema")
    # The oracle moved the scores by a tenth of σ̄.
    earlier = process.schedule.time_of_sigma_bar(0.9 * process.schedule.sigma_bar(t))
    moved = process.kernel(0.0, earlier).push(process.weights_from_ratios(ratios, t))
    ledger.compare("staggered_score", moved, "rate", HUB, "ema")


def sedd_step(denoiser: ScoreDenoiser, name: str, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """SEDD's table of a step, with what it puts below zero and the samplers never draw."""
    process, ratios = denoiser.process, denoiser.ratios(x, t).double()
    if name == "euler":
        step = (t - s)[:, None, None] * process.reverse_rates(ratios, x, t)
        return one_hot(x, process.vocab_size) + step
    posterior = process.posterior_from_ratios(ratios, x, t)
    return process.reverse_marginals(posterior, x, s, t)


def _unnormalised_denoise(denoiser: ScoreDenoiser, x: Tensor, t: Tensor) -> Tensor:
    """SEDD's last table: the step to time 0 without the column of the mask."""
    posterior = denoiser.process.posterior_from_ratios(denoiser.ratios(x, t).double(), x, t)
    return posterior[..., :-1]


def _sedd_chain(ledger: Ledger, denoiser: ScoreDenoiser, name: str, sampler: Sampler) -> None:
    def last(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        table = _unnormalised_denoise(denoiser, x, t)
        return table, gumbel_draw(table.float())

    def in_float32(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return float32_analytic(denoiser.ratios(x, t).float(), denoiser.process, x, t, s)

    compare_chain(
        ledger,
        f"{name}_chain",
        lambda shape: torch.full(shape, cast(Absorbing, denoiser.process).mask),
        lambda x, t, s: sedd_step(denoiser, name, x, t, s),
        lambda table, x: gumbel_draw(table.float()),
        last,
        (HUB, "ema"),
        in_float32 if name == "analytic" else None,
        lambda x, t, s: step_rows(denoiser, sampler, x, t, s),
    )


def float32_analytic(
    ratios: Tensor, process: Absorbing | object, x: Tensor, t: Tensor, s: Tensor
) -> Tensor:
    """The analytic step in the originals' float32 arithmetic, which cancels at t = 1.

    There Σr is 1 plus a thousandth, and is multiplied by e^Δσ̄ − 1 = 165: one unit in the last
    place of float32 becomes 2e-5 of probability.
    """
    assert isinstance(process, Absorbing)
    gap = (process.schedule.sigma_bar(t).float() - process.schedule.sigma_bar(s).float())[:, None]
    scores = ratios * gap.exp()[..., None]
    scores[..., process.mask] += (1 - gap.exp()) * ratios.sum(-1)
    table = torch.exp(-gap)[..., None] * one_hot(x, process.vocab_size)
    away = torch.where(x == process.mask, 1 - torch.exp(-gap), 0)
    return scores * (table + away[..., None])


# -- MDLM ----------------------------------------------------------------------------------------


def mdlm(ledger: Ledger) -> None:
    """Logits and SUBS outputs of all weights, scores, the loss, and all three samplers."""
    x, t, sigma = ledger["x"], ledger["t"].double(), ledger["sigma"]
    compare_inputs(ledger, "x", "x0")
    checkpoint = ledger.folder / "last.ckpt"
    for weights in ("raw", "ema"):
        denoiser = cast(NetworkDenoiser, load(checkpoint, weights=weights))  # type: ignore[arg-type]
        logits = denoiser.raw_logits(x, sigma)
        ledger.compare(f"logits_{weights}", logits, "output", CKPT, weights)
        outputs = denoiser(x, t).log_probs()  # type: ignore[attr-defined]
        ledger.compare(f"output_{weights}", outputs, "output", CKPT, weights)
    published = cast(NetworkDenoiser, load(ledger.folder / "hf"))
    ledger.compare("logits_ema", published.raw_logits(x, sigma), "output", FOLDER, "ema")
    denoiser = published
    seen = sigma if denoiser.time_conditioned else torch.zeros_like(sigma)
    ledger.compare("sigma_seen_by_network", seen, "input")
    compare_schedule(ledger, denoiser)
    ledger.compare("score", denoiser.log_score(x, sigma).exp(), "rate", FOLDER, "ema")
    _mdlm_loss(ledger, denoiser)
    visible = x != cast(Absorbing, denoiser.process).mask
    for name in ("ddpm", "ddpm_cache"):
        table = ddpm_rows(denoiser, x, t, t - 0.04, cached=name == "ddpm_cache")
        ledger.compare(f"{name}_probs", table, "probability", FOLDER, "ema")
        drawn = torch.where(visible, x, seeded(table.float()))
        ledger.compare(f"{name}_sample", drawn, "draw", FOLDER, "ema")
        _mdlm_chain(ledger, denoiser, name)
    table = step_rows(denoiser, Ancestral(), x, t, t - 0.04)
    ledger.compare("analytic_probs", table, "probability", FOLDER, "ema")
    ledger.compare("analytic_sample", seeded(table.float()), "draw", FOLDER, "ema")
    table = step_rows(denoiser, Ancestral(), x, t, None)
    ledger.compare("denoise_probs", table, "probability", FOLDER, "ema")
    ledger.compare("denoise_sample", seeded(table.float()), "draw", FOLDER, "ema")
    _mdlm_chain(ledger, denoiser, "analytic")


def ddpm_rows(denoiser: NetworkDenoiser, x: Tensor, t: Tensor, s: Tensor, cached: bool) -> Tensor:
    """MDLM's table p₀·(m_t − m_s) with m_s at the mask, from the ancestral step.

    It is the exact reverse step of a masked position times m_t = 1 − α_t. At visible positions the
    original computes the same and then copies the token.
    """
    process = cast(Absorbing, denoiser.process)
    if cached:
        process = Absorbing(process.vocab_size, CACHED, process.mask)
    posterior = denoiser(x, t).marginals().double()
    masked = torch.full_like(x, process.mask)
    table = process.reverse_marginals(posterior, masked, s, t)
    return table * process.schedule.one_minus_alpha(t)[:, None, None]


def _mdlm_loss(ledger: Ledger, denoiser: NetworkDenoiser) -> None:
    """The training loss from seed 6: antithetic times, then the masked positions."""
    x0, schedule = ledger["x0"], denoiser.process.schedule
    batch = x0.shape[0]
    torch.manual_seed(6)
    share = (torch.rand(batch) / batch + torch.arange(batch) / batch) % 1
    t = (1 - 1e-3) * share + 1e-3
    level = schedule.sigma_bar(t.double())
    hidden = torch.rand(x0.shape) < (1 - torch.exp(-level.float()))[:, None]
    x_t = torch.where(hidden, cast(Absorbing, denoiser.process).mask, x0)
    weight = schedule.sigma(t.double()) / torch.expm1(level)
    cost = -denoiser(x_t, t).token_log_prob(x0) * weight[:, None]  # type: ignore[attr-defined]
    ledger.compare("train_loss_seed6", cost, "rate", FOLDER, "ema")


def _mdlm_chain(ledger: Ledger, denoiser: NetworkDenoiser, name: str) -> None:
    mask = cast(Absorbing, denoiser.process).mask

    def step(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        if name == "analytic":
            return step_rows(denoiser, Ancestral(), x, t, s)
        return ddpm_rows(denoiser, x, t, s, cached=name == "ddpm_cache")

    def draw(table: Tensor, x: Tensor) -> Tensor:
        drawn = gumbel_draw(table.float())
        return drawn if name == "analytic" else torch.where(x == mask, drawn, x)

    def last(x: Tensor, t: Tensor) -> tuple[Tensor | None, Tensor]:
        table = step_rows(denoiser, Ancestral(), x, t, None)
        if name == "analytic":
            return table, gumbel_draw(table.float())
        return None, table.argmax(-1)

    def in_float32(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        ratios = denoiser.log_score(x, denoiser.process.schedule.sigma_bar(t)).exp()
        return float32_analytic(ratios, denoiser.process, x, t, s)

    compare_chain(
        ledger,
        f"{name}_chain",
        lambda shape: torch.full(shape, mask),
        step,
        draw,
        last,
        (FOLDER, "ema"),
        in_float32 if name == "analytic" else None,
    )
