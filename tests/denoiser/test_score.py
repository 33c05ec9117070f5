"""Exact concrete scores in, exact posteriors out: against an enumerated joint, in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from fewjump.denoiser import ScoreDenoiser, ScoreNetwork, Transformer, TransformerConfig
from fewjump.law import ProductLaw
from fewjump.process import Absorbing, Process, ResetToPrior, Uniform
from fewjump.schedule import LogLinear

V, L = 3, 3
PRIOR = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)


class Truth:
    """Ratios and posteriors of a random joint, by sums over all V^L clean states."""

    def __init__(self, process: Process, clean: int) -> None:
        generator = torch.Generator().manual_seed(7)
        self.process, self.clean = process, clean
        self.states = list(itertools.product(range(clean), repeat=L))
        weights = torch.rand(len(self.states), generator=generator, dtype=torch.float64) ** 3
        self.joint = weights / weights.sum()

    def noised(self, x: tuple[int, ...], kernel: Tensor) -> Tensor:
        """Pr(x₀)·Pr(x_t = x | x₀) for every x₀: (number of states,)."""
        terms = [
            self.joint[n] * torch.stack([kernel[a, b] for a, b in zip(x0, x, strict=True)]).prod()
            for n, x0 in enumerate(self.states)
        ]
        return torch.stack(terms)

    def ratios(self, x_t: Tensor, t: Tensor) -> Tensor:
        size = self.process.vocab_size
        out = torch.zeros(*x_t.shape, size, dtype=torch.float64)
        for b, x in enumerate(x_t.tolist()):
            kernel = self.process.kernel(0.0, float(t[b])).dense()
            here = self.noised(tuple(x), kernel).sum()
            for i, y in itertools.product(range(L), range(size)):
                moved = (*x[:i], y, *x[i + 1 :])
                out[b, i, y] = self.noised(moved, kernel).sum() / here
        return out

    def posterior(self, x_t: Tensor, t: Tensor) -> Tensor:
        out = torch.zeros(*x_t.shape, self.process.vocab_size, dtype=torch.float64)
        for b, x in enumerate(x_t.tolist()):
            weights = self.noised(tuple(x), self.process.kernel(0.0, float(t[b])).dense())
            for n, x0 in enumerate(self.states):
                for i in range(L):
                    out[b, i, x0[i]] += weights[n] / weights.sum()
        return out


CASES = {
    "uniform": Truth(Uniform(V, LogLinear()), V),
    "prior": Truth(ResetToPrior(PRIOR, LogLinear()), V),
    "absorbing": Truth(Absorbing(V + 1, LogLinear()), V),
}


def noised_states(truth: Truth) -> tuple[Tensor, Tensor]:
    """All single-token states of a few kinds, at an early, a middle and a late time."""
    mask = truth.process.mask if isinstance(truth.process, Absorbing) else V - 1
    base = truth.clean - 1
    rows = [(0, base, base), (mask, base, 0), (mask, mask, base), (mask, mask, mask)]
    return torch.tensor(rows).repeat(3, 1), torch.tensor([0.05, 0.5, 0.95]).repeat_interleave(4)


@pytest.mark.parametrize("case", ["uniform", "prior", "absorbing"])
@pytest.mark.parametrize("method", ["clip", "project"])
@pytest.mark.parametrize("log", [False, True])
def test_exact_ratios_give_exact_posteriors(case: str, method: str, log: bool) -> None:
    truth = CASES[case]
    x, t = noised_states(truth)

    def network(x_t: Tensor, time: Tensor) -> Tensor:
        ratios = truth.ratios(x_t, time)
        return ratios.log() if log else ratios

    denoiser = ScoreDenoiser(network, truth.process, method, log)  # type: ignore[arg-type]
    law = denoiser(x, t)
    expected = truth.posterior(x, t.double())
    torch.testing.assert_close(law.marginals(), expected, atol=1e-11, rtol=0)
    assert denoiser.last_recovery is not None
    assert denoiser.last_recovery.clipped_mass.max() < 1e-11
    assert denoiser.evaluations == 1


def test_multiplicative_recovery_comes_close_too() -> None:
    truth = CASES["uniform"]
    x, t = noised_states(truth)
    marginals = ScoreDenoiser(truth.ratios, truth.process, "multiplicative")(x, t).marginals()
    error = (marginals - truth.posterior(x, t.double())).abs().amax((1, 2))
    assert error[:8].max() < 1e-3, "at t = 0.05 and 0.5 the iterations have converged"


def test_wrong_ratios_are_repaired_and_the_repair_is_reported() -> None:
    truth = CASES["uniform"]
    x, t = noised_states(truth)
    generator = torch.Generator().manual_seed(0)

    def noisy(x_t: Tensor, time: Tensor) -> Tensor:
        ratios = truth.ratios(x_t, time)
        noise = torch.randn(ratios.shape, generator=generator, dtype=torch.float64)
        return ratios * (0.3 * noise).exp()

    denoiser = ScoreDenoiser(noisy, truth.process)
    marginals = denoiser(x, t).marginals()
    assert (marginals >= 0).all()
    torch.testing.assert_close(marginals.sum(-1), torch.ones(x.shape, dtype=torch.float64))
    report = denoiser.last_recovery
    assert report is not None
    assert report.clipped_mass.shape == x.shape
    assert report.clipped_mass[8:].mean() > report.clipped_mass[:4].mean(), "1/α amplifies"
    torch.testing.assert_close(
        report.condition_number, torch.linalg.cond(truth.process.kernel(0.0, t.double()).dense())
    )


def test_ratios_are_the_networks_with_one_at_the_current_token() -> None:
    process = Uniform(V, LogLinear())
    x = torch.tensor([[0, 1, 2]])
    raw = torch.rand(1, L, V, dtype=torch.float64) + 0.5
    ratios = ScoreDenoiser(lambda x_t, t: raw, process).ratios(x, torch.ones(1))
    expected = raw.clone()
    expected[0, [0, 1, 2], [0, 1, 2]] = 1.0
    assert torch.equal(ratios, expected)


def test_a_masked_score_gives_no_mass_to_the_mask_and_copies_what_it_sees() -> None:
    process = Absorbing(V + 1, LogLinear())
    x = torch.tensor([[0, V, V]])
    denoiser = ScoreDenoiser(lambda x_t, t: torch.rand(1, L, V + 1) + 0.1, process)
    marginals = denoiser(x, 0.5).marginals()
    assert (marginals[..., V] == 0).all()
    assert marginals[0, 0, 0] == 1
    torch.testing.assert_close(marginals.sum(-1), torch.ones(1, L))


def test_scores_that_allow_no_clean_token_are_refused() -> None:
    process = Absorbing(V + 1, LogLinear())
    denoiser = ScoreDenoiser(lambda x_t, t: torch.zeros(1, L, V + 1), process)
    with pytest.raises(ValueError, match="no positive ratio"):
        denoiser(torch.tensor([[0, V, 1]]), 0.5)


def test_the_closed_form_is_no_law() -> None:
    with pytest.raises(ValueError, match="clip, project or multiplicative"):
        ScoreDenoiser(lambda x, t: x, Uniform(V, LogLinear()), "exact")  # type: ignore[arg-type]


@pytest.mark.parametrize("process", [Uniform(V + 1, LogLinear()), Absorbing(V + 1, LogLinear())])
def test_score_network(process: Process) -> None:
    trunk = {"hidden": 8, "blocks": 1, "heads": 2, "condition_dim": 4}
    config = {"process": process.config(), "trunk": trunk, "length": L}
    denoiser = ScoreDenoiser.from_config(config)
    assert ScoreDenoiser.from_config(denoiser.config()).config() == denoiser.config()
    x = torch.full((2, L), V)
    ratios = denoiser.ratios(x, torch.tensor([0.3, 0.9]))
    if isinstance(process, Absorbing):
        fresh = torch.full((V,), 1 / V)
        marginals = denoiser(x, torch.tensor([0.3, 0.9])).marginals()
        torch.testing.assert_close(marginals[0, 0, :V], fresh)
        keep = process.schedule.alpha(0.3)
        torch.testing.assert_close(ratios[0, 0, 0].double(), keep / (1 - keep) / V)
    else:
        torch.testing.assert_close(ratios, torch.ones_like(ratios))


def test_gradients_survive_a_clipped_posterior() -> None:
    process = Uniform(V, LogLinear())
    network = ScoreNetwork(Transformer(TransformerConfig(V, 8, 1, 2, condition_dim=4)), process)
    with torch.no_grad():
        network.linear.bias.copy_(torch.tensor([4.0, -6.0, 0.0]))
    denoiser = ScoreDenoiser(network, process, log=True)
    x = torch.tensor([[1, 2, 0]])
    law = denoiser(x, 0.9)
    assert isinstance(law, ProductLaw)
    assert denoiser.last_recovery is not None
    assert denoiser.last_recovery.clipped_mass.max() > 0.01, "the case must clip something"
    best = law.marginals().argmax(-1)
    (-law.log_prob(best).sum()).backward()
    gradient = network.linear.weight.grad
    assert gradient is not None
    assert gradient.isfinite().all()


def test_only_a_known_network_can_be_described() -> None:
    with pytest.raises(ValueError, match="ScoreNetwork"):
        ScoreDenoiser(lambda x, t: x, Uniform(V, LogLinear())).config()


@pytest.mark.parametrize("method", ["clip", "project", "multiplicative"])
@pytest.mark.parametrize("masked", [True, False])
def test_recovery_in_parts_is_recovery(
    method: str, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few positions at a time, computed again in the backward pass: the same law, gradients."""
    from fewjump.denoiser import score
    from fewjump.process import Absorbing, Uniform
    from fewjump.schedule import LogLinear

    process = Absorbing(5, LogLinear()) if masked else Uniform(5, LogLinear())
    trunk = {"hidden": 8, "blocks": 1, "heads": 2, "condition_dim": 4, "conv_kernel": 0}
    config = {"process": process.config(), "trunk": trunk, "length": 7, "method": method}
    torch.manual_seed(0)
    model = score.ScoreDenoiser.from_config(config).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x0 = torch.randint(4, (3, 7))
    x_t = process.corrupt(x0, 0.0, 0.6, torch.Generator().manual_seed(1))
    found = []
    for step in (7, 2):
        parts = [slice(k, min(7, k + step)) for k in range(0, 7, step)]
        monkeypatch.setattr(score, "row_chunks", lambda *_, parts=parts: iter(parts))
        model.zero_grad()
        law = model(x_t, 0.6)
        law.log_prob(x0).sum().backward()
        assert model.last_recovery is not None
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        with torch.no_grad():
            quiet = model(x_t, 0.6)
        torch.testing.assert_close(quiet.log_prob(x0), law.log_prob(x0).detach())
        found.append((law.logits.detach(), model.last_recovery.clipped_mass, torch.cat(grads)))
    for whole, part in zip(*found):
        torch.testing.assert_close(part, whole, rtol=1e-12, atol=1e-12)


def test_ratios_stand_in_for_what_the_other_positions_say_at_low_noise() -> None:
    """Why a student of a uniform score network starts from its scores: over the states x_t that
    occur, r_y·P[y, x_t], normalised, is the posterior up to an error of the order of 1 − α."""
    truth = CASES["uniform"]
    errors = []
    for t in (0.01, 0.1):
        x = torch.tensor(list(itertools.product(range(V), repeat=L)))
        time = torch.full((len(x),), t, dtype=torch.float64)
        kernel = truth.process.kernel(0.0, t).dense()
        occurs = torch.stack([truth.noised(tuple(row), kernel).sum() for row in x.tolist()])
        torch.testing.assert_close(occurs.sum(), torch.ones((), dtype=torch.float64))
        weights = truth.ratios(x, time) * truth.process.likelihood(x, t)
        law = weights / weights.sum(-1, keepdim=True)
        error = (law - truth.posterior(x, time)).abs().sum(-1).mean(-1)
        forgotten = 1 - float(truth.process.schedule.alpha(t))
        errors.append(float((occurs * error).sum()) / forgotten)
    assert errors[1] < 1
    assert errors[0] == pytest.approx(errors[1], rel=0.5), "in proportion to 1 − α"


@pytest.mark.parametrize("method", ["clip", "project", "multiplicative"])
def test_a_student_of_scores_has_no_zeros(method: str) -> None:
    trunk = {"hidden": 8, "blocks": 1, "heads": 2, "condition_dim": 4}
    for process in (
        Uniform(V, LogLinear()),
        ResetToPrior(PRIOR, LogLinear()),
        Absorbing(V + 1, LogLinear()),
    ):
        config = {"process": process.config(), "trunk": trunk, "length": L, "method": method}
        torch.manual_seed(0)
        teacher = ScoreDenoiser.from_config(config)
        torch.nn.init.normal_(teacher.network.linear.weight, std=0.5)  # type: ignore[union-attr]
        student = teacher.as_student()
        kept = isinstance(process, Absorbing) and method == "clip"
        assert isinstance(student, ScoreDenoiser) == kept
        assert all(p.requires_grad for p in student.parameters())
        x = torch.full((1, L), process.vocab_size - 1)
        marginals = student(x, 0.5).marginals()[..., : student.clean_vocab_size]
        assert bool((marginals > 0).all())
