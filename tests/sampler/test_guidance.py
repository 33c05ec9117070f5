"""Guidance: the exact guided law of enumerated class-conditional problems, by brute force."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from fewjump.law import LinearLogits, ProductLaw
from fewjump.law.base import enumerate_states
from fewjump.law.guided import guided
from fewjump.process import Absorbing, FixedRate, Process, ResetToPrior, Uniform
from fewjump.sampler import Ancestral, Euler, exact_output_law, run, sample
from fewjump.sampler.base import draw_step
from fewjump.schedule import LogLinear
from laws.registry import random_rate
from sampler.by_class import ByClass, by_class
from sampler.oracle import chi_square_p

PROCESSES = {
    "absorbing": Absorbing(4, LogLinear()),
    "uniform": Uniform(3, LogLinear()),
    "reset": ResetToPrior(torch.tensor([0.2, 0.3, 0.5]), LogLinear()),
    "dense": FixedRate(random_rate(3), LogLinear()),
}
each_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=list(PROCESSES))


def posteriors(model: ByClass, x: Tensor, t: Tensor, label: int) -> tuple[Tensor, Tensor]:
    """p(x₀ⁱ|x_t, y) and p(x₀ⁱ|x_t) of states (N, L), from the tables alone: (N, L, V) each."""
    kernel = model.process.kernel(0.0, t).dense()
    out = []
    for one in (model.each[label], model.each[-1]):
        probs = one.problem.probs
        columns = kernel[: probs.shape[0], x]
        joint = torch.einsum("ab,an,bn->nab", probs, columns[..., 0], columns[..., 1])
        joint = joint / joint.sum((1, 2), keepdim=True)
        rows = torch.stack([joint.sum(2), joint.sum(1)], 1)
        missing = model.process.vocab_size - rows.shape[-1]
        out.append(torch.nn.functional.pad(rows, (0, missing)))
    return out[0], out[1]


def tempered(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """0 where either is."""
    powers = conditional**scale * unconditional ** (1 - scale)
    return torch.where((conditional > 0) & (unconditional > 0), powers, 0.0)


def normalised(rows: Tensor) -> Tensor:
    return rows / rows.sum(-1, keepdim=True)


def transitions(process: Process, posterior: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Σ_a p(a|x_t)·P_{s|0}[a, y]·P_{t|s}[y, x]/P_{t|0}[a, x], position by position."""
    to_s, between = process.kernel(0.0, s).dense(), process.kernel(s, t).dense()
    whole = process.kernel(0.0, t).dense()
    weights = torch.nan_to_num(posterior / whole[:, x].movedim(0, -1), posinf=0.0)
    return weights @ to_s * between[:, x].movedim(0, -1)


def rates(process: Process, posterior: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """σ·Q[y, x]·p_t(x with y)/p_t(x), off the diagonal."""
    to_t = process.kernel(0.0, t).dense()
    weights = torch.nan_to_num(posterior / to_t[:, x].movedim(0, -1), posinf=0.0)
    found = weights @ to_t * process.rate(t)[:, x].movedim(0, -1)
    return found.scatter(-1, x[..., None], 0.0)


def products(rows: Tensor) -> Tensor:
    return torch.einsum("na,nb->nab", rows[:, 0], rows[:, 1]).flatten(1)


def brute_force(model: ByClass, label: int, scale: float, times: list[float]) -> Tensor:
    """The law of guided ancestral sampling, by its definition."""
    process = model.process
    vocab = process.vocab_size
    states = enumerate_states(vocab, 2)
    law = products(process.prior().expand(1, 2, vocab))[0]
    grid = [torch.tensor(t, dtype=torch.float64) for t in times]
    for t, s in itertools.pairwise(grid):
        given, free = posteriors(model, states, t, label)
        if float(s) == 0 or process.absorbing:
            posterior = normalised(tempered(given, free, scale))
            step = posterior if float(s) == 0 else transitions(process, posterior, states, t, s)
        else:
            pair = (transitions(process, p, states, t, s) for p in (given, free))
            step = normalised(tempered(*pair, scale))
        if process.absorbing:
            certain = torch.nn.functional.one_hot(states, vocab).double()
            step = torch.where((states == process.mask)[..., None], step, certain)
        law = law @ products(step)
    clean = model.clean_vocab_size
    return law.reshape(vocab, vocab)[:clean, :clean]


@each_process
@pytest.mark.parametrize("scale", [0.5, 2.0, 4.0])
def test_the_guided_transition_law_is_the_definition(process: Process, scale: float) -> None:
    model = by_class(process)
    for label in (0, 1):
        view = model.conditioned(label, guidance=scale)
        found = exact_output_law(view, 3)
        assert (
            found - brute_force(model, label, scale, [1.0, 2 / 3, 1 / 3, 0.0])
        ).abs().max() < 1e-12


@each_process
def test_guided_rates_are_powers_of_the_two_rates(process: Process) -> None:
    """What Euler's step does from every state, for three scales."""
    model = by_class(process)
    states = enumerate_states(process.vocab_size, 2)
    t, s = torch.tensor([0.6, 0.55], dtype=torch.float64)
    given, free = posteriors(model, states, t, 1)
    for scale in (0.5, 1.5, 3.0):
        view = model.conditioned(1, guidance=scale)
        move = next(Euler().moves(view, states, t, s))
        expected = tempered(*(rates(process, p, states, t) for p in (given, free)), scale)
        expected = expected * (t - s)
        stay = 1 - expected.sum(-1, keepdim=True)
        expected = expected.scatter(-1, states[..., None], stay)
        assert float(stay.min()) > 0
        # The generator above is a difference quotient.
        assert (move.rows() - expected).abs().max() < 1e-6


@each_process
@pytest.mark.parametrize("sampler", ["ancestral", "euler", "tau-leaping", "theta-trapezoidal"])
def test_scale_one_is_the_class_and_scale_zero_no_class(process: Process, sampler: str) -> None:
    """By the short way, and, within a batch of several scales, by the powers."""
    model = by_class(process)
    for label, scale in ((0, 1.0), (1, 0.0)):
        alone = model.each[label if scale else -1]
        law = exact_output_law(alone, 2, sampler)
        assert torch.equal(exact_output_law(model.conditioned(label, scale), 2, sampler), law)
        near = exact_output_law(model.conditioned(label, scale + 1e-9), 2, sampler)
        assert (near - law).abs().max() < 1e-7
    unconditional = exact_output_law(model.conditioned(2, 3.0), 2, sampler)
    assert (unconditional - exact_output_law(model.each[-1], 2, sampler)).abs().max() < 1e-12


@pytest.mark.parametrize("name", ["absorbing", "uniform"])
@pytest.mark.parametrize("sampler", ["ancestral", "euler"])
def test_samples_follow_the_enumerated_law(name: str, sampler: str) -> None:
    """Labels and scales of each sample's own, drawn together."""
    model = by_class(PROCESSES[name])
    count = 6000
    label = torch.arange(count) % 2
    scale = torch.where(label == 0, 3.0, 0.7)
    x = sample(model, count, 3, sampler, generator=0, label=label, guidance=scale)
    for y, w in ((0, 3.0), (1, 0.7)):
        chosen = x[label == y]
        law = exact_output_law(model.conditioned(y, w), 3, sampler)
        assert chi_square_p(chosen, law, 3) > 1e-3


@pytest.mark.parametrize("name", ["absorbing", "uniform"])
def test_labels_belong_to_samples_not_to_batches(name: str) -> None:
    model = by_class(PROCESSES[name])
    label, scale = torch.arange(12) % 3, torch.linspace(0, 3, 12)
    options = {"label": label, "guidance": scale}
    whole = sample(model, 12, 4, generator=7, **options)
    for batch_size in (1, 5):
        assert torch.equal(
            sample(model, 12, 4, generator=7, batch_size=batch_size, **options), whole
        )
    rest = run(model, 5, 4, generator=7, first=7, label=label[7:], guidance=scale[7:])
    assert torch.equal(rest.samples, whole[7:])


@each_process
@pytest.mark.parametrize("sampler", ["ancestral", "euler", "tau-leaping", "theta-trapezoidal"])
def test_a_scale_of_one_or_zero_draws_the_same_beside_others(
    process: Process, sampler: str
) -> None:
    """One evaluation is enough where all rows are at it; the draws are the same where not all."""
    model = by_class(process)
    label = torch.arange(60) % 2
    for scale in (1.0, 0.0):
        same = torch.full((60,), scale)
        alone = sample(model, 60, 3, sampler, generator=3, label=label, guidance=same)
        mixed = torch.where(torch.arange(60) % 3 == 0, 2.5, same)
        mixed = torch.where(torch.arange(60) % 5 == 1, 1 - scale, mixed)
        beside = sample(model, 60, 3, sampler, generator=3, label=label, guidance=mixed)
        kept = mixed == scale
        assert torch.equal(beside[kept], alone[kept])
        assert not torch.equal(beside[~kept], alone[~kept])


def test_a_guided_step_costs_two_evaluations_and_one_where_that_is_enough() -> None:
    model = by_class(PROCESSES["uniform"])
    for scale, nfe in ((2.0, 8), (1.0, 4), (0.0, 4), (None, 4)):
        assert run(model, 3, 4, generator=0, label=1, guidance=scale).nfe == nfe
    view = model.conditioned(1, 2.0)
    view(torch.zeros(2, 2, dtype=torch.int64), 0.5)
    assert view.evaluations == 2


def test_deferred_logits_are_guided_as_those_that_exist() -> None:
    torch.manual_seed(0)
    features, weight, bias = (
        torch.randn(2, 3, 2, 4).double(),
        torch.randn(5, 4).double(),
        torch.zeros(5).double(),
    )
    scale = torch.tensor([2.0, 0.5, 0.0]).double()
    deferred = [ProductLaw(LinearLogits(f, weight, bias)) for f in features]
    dense = [ProductLaw(law.logits) for law in deferred]
    one, other = guided(*deferred, scale), guided(*dense, scale)
    expected = normalised(
        torch.stack(
            [
                tempered(dense[0].marginals()[b], dense[1].marginals()[b], float(scale[b]))
                for b in range(3)
            ]
        )
    )
    for law in (one, other):
        torch.testing.assert_close(law.marginals(), expected)
        read = law.source.read(torch.arange(6)).softmax(-1).reshape(3, 2, 5)
        torch.testing.assert_close(read, expected)
        x = torch.tensor([[0, 1], [2, 3], [4, 0]])
        torch.testing.assert_close(
            law.token_log_prob(x), expected.log().gather(-1, x[..., None])[..., 0]
        )
        torch.testing.assert_close(law.select(torch.tensor([2])).marginals(), expected[2:])
        torch.testing.assert_close(law.tempered(0.5).marginals(), normalised(expected**2))


def test_a_prompt_is_kept_and_the_guided_law_conditioned_on_it() -> None:
    for process in (PROCESSES["absorbing"], PROCESSES["uniform"]):
        model = by_class(process)
        x = sample(model, 200, 3, generator=1, label=0, guidance=2.0, prompt=torch.tensor([2]))
        assert bool((x[:, 0] == 2).all())
        assert x[:, 1].unique().numel() == 3


def test_clear_errors() -> None:
    model = by_class(PROCESSES["uniform"])
    plain = model.each[0]
    with pytest.raises(ValueError, match="2 classes: give label=0 to 1, or 2 for no class"):
        sample(model, 2, 2)
    with pytest.raises(ValueError, match="label is for models with classes"):
        sample(plain, 2, 2, label=0)
    with pytest.raises(ValueError, match="guidance is for models with classes"):
        sample(plain, 2, 2, guidance=2.0)
    with pytest.raises(ValueError, match=r"label must lie in 0..1 .*got 3"):
        sample(model, 2, 2, label=3)
    with pytest.raises(ValueError, match="one number, or 2"):
        sample(model, 2, 2, label=torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match="guidance must lie between 0 and"):
        sample(model, 2, 2, label=0, guidance=-1.0)
    with pytest.raises(ValueError, match="whole numbers"):
        sample(model, 2, 2, label=torch.tensor([0.5, 1.0]))
    with pytest.raises(ValueError, match="asked about 3; use"):
        model.conditioned(torch.tensor([0, 1]))(torch.zeros(3, 2, dtype=torch.int64), 0.5)
    joint = EnumeratedJointByClass(model)
    with pytest.raises(ValueError, match="this model's is joint"):
        sample(joint, 2, 2, label=0, guidance=2.0)


class EnumeratedJointByClass(ByClass):
    """With joint laws, of one class."""

    def __init__(self, model: ByClass) -> None:
        tables = torch.stack([one.problem.probs for one in model.each[:-1]])
        super().__init__(tables, torch.ones(2).double() / 2, model.process)

    def conditional_law(self, x_t, t, condition):
        return self.each[0].problem.denoiser(self.process, joint=True).law(x_t, t)


def test_rows_of_a_view_follow_their_classes() -> None:
    model = by_class(PROCESSES["uniform"])
    x = enumerate_states(3, 2)[:4]
    labels = torch.tensor([0, 1, 2, 1])
    view = model.conditioned(labels, 2.0)
    index = torch.tensor([3, 0])
    whole = view(x, 0.5).marginals()
    torch.testing.assert_close(view.rows(index)(x[index], 0.5).marginals(), whole[index])
    assert model.rows(index) is model
    assert view.unconditioned is model
    step = Ancestral().moves(view, x, torch.tensor(0.5).double(), torch.tensor(0.4).double())
    assert draw_step(step, torch.Generator().manual_seed(0)).shape == (4, 2)
