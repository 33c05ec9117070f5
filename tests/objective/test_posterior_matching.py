"""D-MMD and Di[M]O: divergences of posteriors, their exact gradients, and the published ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_on_policy import (
    LEGENDRE,
    ExactAuxiliary,
    L,
    V,
    every_process,
    gradient,
    kernels,
    make_student,
    possible,
    prior_law,
    setting,
)
from torch import Tensor, nn

from fewjump.denoiser import NetworkDenoiser
from fewjump.denoiser.base import Denoiser
from fewjump.law.base import Draw, Law, enumerate_states, ravel
from fewjump.law.latent import LatentLaw, PositionLatent
from fewjump.law.mixture import MixtureLaw
from fewjump.law.product import ProductLaw
from fewjump.objective import MomentMatching, TokenMatching, freeze
from fewjump.objective.distribution_matching import PosteriorMatching
from fewjump.objective.on_policy import StudentWithAuxiliary
from fewjump.objective.score_function import DrawnAt
from fewjump.problem import EnumeratedJoint
from fewjump.process import Absorbing, Process, Uniform
from fewjump.random import generator_for
from fewjump.schedule import Linear, LogLinear

TINY = 1e-30
METHODS: dict[str, Callable[..., PosteriorMatching]] = {
    "dmmd": lambda **options: MomentMatching("student", floor=TINY, **options),
    "dimo": lambda **options: TokenMatching(floor=TINY, **options),
    "dimo-both": lambda **options: TokenMatching(floor=TINY, reverse_share=0.3, **options),
}
every_method = pytest.mark.parametrize("name", list(METHODS))


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Σ p·log(p/q) over the last axis; 0 where p is (all but) 0."""
    used = p > 1e-20
    ratio = torch.where(used, p, 1.0).log() - torch.where(used, q, 1.0).log()
    return torch.where(used, p * ratio, 0.0).sum(-1)


def between(name: str, p: Tensor, real: Tensor) -> Tensor:
    """The divergence that a method names, of posteriors (..., V)."""
    if name == "dmmd":
        return 2 * kl((p + real) / 2, real)
    share = 0.3 if name == "dimo-both" else 0.0
    return (1 - share) * kl(real, p) + share * kl(p, real)


def posteriors(student: Denoiser, start: Tensor, u: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Law of x_u (N,), and p^φ(x₀ⁱ|x_u) (N, L, V), enumerated, with gradients, from x_t's law."""
    states = enumerate_states(student.process.vocab_size, L)
    law = student(states, t).enumerate().exp()
    joint = torch.einsum("t,ta,tax->xa", start, law, kernels(student.process, u, t)[0])
    mass = joint.sum(-1)
    tokens = nn.functional.one_hot(states, student.process.vocab_size).double()
    return mass, torch.einsum("xa,alv->xlv", joint, tokens) / mass.clamp(min=1e-300)[:, None, None]


def divergence(
    name: str, student: Denoiser, teacher: Denoiser, start: Tensor, u: Tensor, t: float
) -> Tensor:
    """E_{x_u} Σᵢ h(p, θ) at one u (1,), with gradients."""
    mass, p = posteriors(student, start, u, t)
    states = enumerate_states(student.process.vocab_size, L)
    used = mass > 1e-20
    each = between(name, p[used], teacher(states, u[0]).marginals()[used])
    return (mass[used][:, None] * each).sum()


class Answer(Denoiser):
    """The best auxiliary network of a method: of D-MMD it learns the teacher in equal part."""

    def __init__(self, name: str, exact: ExactAuxiliary, teacher: Denoiser) -> None:
        super().__init__(teacher.process, L)
        self.both = (exact, teacher) if name == "dmmd" else (exact,)

    def law(self, x_t: Tensor, t: Tensor) -> ProductLaw:
        laws = [one(x_t, t).marginals() for one in self.both]
        return ProductLaw.from_probabilities(torch.stack(laws).mean(0))


def answer(name: str, student: Denoiser, teacher: Denoiser, start: Tensor, t: float) -> Answer:
    return Answer(name, ExactAuxiliary(student, {t: start}), teacher)


@every_method
def test_the_reward_is_the_first_variation_of_a_divergence(name):
    """Σ p·R is h ≥ 0, Σ p(R − h)∇log p its gradient (one masked position), R = 0 at p = θ."""
    source = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 50, 2, V, generator=source).double() * 2
    own, real = logits[0].requires_grad_(), logits[1].softmax(-1)
    p = own.softmax(-1)
    value = between(name, p, real)
    expected = torch.autograd.grad(value.sum(), own, retain_graph=True)[0]
    heard = (p.detach() + real) / 2 if name == "dmmd" else p.detach()
    objective = METHODS[name]()
    teacher = ProductLaw.from_probabilities(real)
    reward = objective._table(ProductLaw.from_probabilities(heard), teacher)
    mean = (p.detach() * reward).sum(-1)
    torch.testing.assert_close(mean, value.detach(), atol=1e-12, rtol=1e-10)
    weight = p.detach() * (reward - mean[..., None])
    ours = torch.autograd.grad((weight * own.log_softmax(-1)).sum(), own)[0]
    torch.testing.assert_close(ours, expected, atol=1e-12, rtol=1e-9)
    assert float(mean.min()) > 1e-4
    if name == "dmmd":
        assert -2 * torch.tensor(2.0).log() < reward.min() < -1
    assert float(objective._table(teacher, teacher).abs().max()) < 1e-12


@every_process
@every_method
@pytest.mark.parametrize("kind", ["product", "joint"])
def test_the_gradient_of_the_divergence_is_exact_when_enumerated(process, name, kind):
    problem, teacher, student = setting(process, kind)
    t, u = 0.9, torch.tensor([0.4], dtype=torch.float64)
    start = problem.noised(process, t).reshape(-1)
    expected = divergence(name, student, teacher, start, u, t)
    states = enumerate_states(process.vocab_size, L)
    n = len(states)
    fake = answer(name, student, teacher, start, t)(states, u.expand(n))
    real = teacher(states, u[0])
    log_law = student(states, t).enumerate()
    mass = kernels(process, u, t)[0] * (start[:, None] * log_law.detach().exp())[..., None]
    rows = (mass.sum((0, 1)) > 1e-20).nonzero()[:, 0]
    late = u.expand(n * len(rows))
    reward = METHODS[name]()._reward(
        fake.select(rows.repeat(n)),
        real.select(rows.repeat(n)),
        states.repeat_interleave(len(rows), 0),
        DrawnAt(states, u, states[rows].repeat(n, 1)[None], late, u, process),
    )
    each = (mass[..., rows] * reward.sum(-1).reshape(n, -1)).sum(-1)
    torch.testing.assert_close(each.sum(), expected.detach(), atol=1e-9, rtol=1e-8)
    right = gradient(expected, student)
    assert float(right.abs().max()) > 0.003
    torch.testing.assert_close(
        gradient((each * log_law).sum(), student), right, atol=1e-9, rtol=1e-7
    )


@every_process
@every_method
def test_the_published_gradient_is_that_of_the_paper(process, name):
    """D-MMD's generator loss, of which only the student's probabilities have a gradient; the
    gradient of Di[M]O's divergence in ψ's logits, handed on to the student's."""
    problem, teacher, student = setting(process, "product")
    t, u = 0.9, torch.tensor([0.4], dtype=torch.float64)
    start = problem.noised(process, t).reshape(-1)
    states = enumerate_states(process.vocab_size, L)
    n = len(states)
    fakes, reals = answer(name, student, teacher, start, t)(states, u.expand(n)), teacher(states, u)
    law, again = student(states, t), student(states, t)
    assert isinstance(law, ProductLaw)
    assert isinstance(again, ProductLaw)
    mass = torch.einsum("ta,tax->tx", law.enumerate().exp(), kernels(process, u, t)[0])
    mass = (start[:, None] * mass).detach()
    expected, ours = torch.zeros(()).double(), torch.zeros(()).double()
    for number in (mass.sum(0) > 1e-20).nonzero()[:, 0]:
        fake, real = fakes.select(number[None]), reals.select(number[None])
        if name == "dmmd":
            away = fake.log_probs().clamp(min=-69) - real.log_probs().clamp(min=-69)
            said = (law.marginals() * away).sum((-1, -2))
        else:
            logits = fake.log_probs().clamp(min=-69).requires_grad_()
            told = between(name, logits.softmax(-1), real.marginals()).sum()
            said = (torch.autograd.grad(told, logits)[0] * law.log_probs().clamp(min=-69)).sum(
                (-1, -2)
            )
        expected = expected + (mass[:, number] * said).sum()
        at = DrawnAt(
            states,
            torch.full((n,), t).double(),
            states[number].expand(2, n, L),
            u.expand(n),
            torch.ones(n).double(),
            process,
        )
        every = torch.zeros(2 * n, dtype=torch.int64)
        drawn = [Draw(states, again, None)] * 2
        found = METHODS[name]()._summed(drawn, fake.select(every), real.select(every), at)[1]
        ours = ours + (mass[:, number] * found).sum()
    right = gradient(expected, student)
    assert float(right.abs().max()) > 0.003
    torch.testing.assert_close(gradient(ours, student), right, atol=1e-9, rtol=1e-7)
    whole = gradient(divergence(name, student, teacher, start, u, t), student)
    assert float((whole - right).norm()) > 0.02 * float(whole.norm())


class NoisyStudent(Denoiser):
    """A product law for every x_t and every z, a fair coin at each position; or what it mixes to.

    The mixture shares the parameters: it is the same law, with a likelihood.
    """

    def __init__(self, process: Process, mixed: NoisyStudent | None = None) -> None:
        super().__init__(process, L)
        self.mixed = mixed is not None
        support = possible(process)
        if mixed is not None:
            self.table = mixed.table
            return
        source = torch.Generator().manual_seed(5)
        noise = torch.randn(len(support), 2, 2, *support.shape[1:], generator=source).double()
        self.table = nn.Parameter(noise.masked_fill(~support[:, None, None], -60.0))

    def law(self, x_t: Tensor, t: Tensor) -> Law:
        table = self.table[ravel(x_t, self.process.vocab_size)]
        if self.mixed:
            return MixtureLaw(table.flatten(1, 2), torch.zeros(len(x_t), 4).double())
        coins = PositionLatent(torch.zeros(len(x_t), L, 2).double())
        return LatentLaw(
            coins,
            lambda z, rows: ProductLaw(table[rows, z[:, 0], z[:, 1]]),
            L,
            self.process.vocab_size,
        )


@pytest.mark.parametrize(
    ("name", "kind", "process"),
    [
        ("dmmd", "joint", Absorbing(V + 1, LogLinear())),
        ("dimo-both", "mixture", Uniform(V, Linear(4.0))),
        ("dimo", "product", Absorbing(V + 1, LogLinear())),
        ("dmmd", "noisy", Uniform(V, Linear(4.0))),
    ],
    ids=["joint", "mixture", "product-expected", "noise-as-an-input"],
)
def test_the_drawn_gradient_is_that_of_the_divergence(name, kind, process):
    """From pure noise; a student with noise as an input is asked for no likelihood."""
    problem, teacher, _ = setting(process)
    student = NoisyStudent(process) if kind == "noisy" else make_student(kind, process)
    same = NoisyStudent(process, student) if isinstance(student, NoisyStudent) else student
    low, start = 0.1, prior_law(process)
    objective = METHODS[name](
        draws=2, min_time=low, estimator="auto" if kind in ("joint", "mixture") else "expected"
    )
    expected = torch.zeros(()).double()
    for node, weight in LEGENDRE:
        u = torch.tensor([low + (1 - low) * 0.5 * (node + 1)], dtype=torch.float64)
        scale = objective._time_weight(process, u) * 0.5 * (1 - low) * weight
        expected = expected + (scale * divergence(name, same, teacher, start, u, 1.0)).sum()
    pair = StudentWithAuxiliary(student, answer(name, same, teacher, start, 1.0))
    batch, calls = problem.sample(2000, generator_for(1)), 16
    seen, values = [], []
    for call in range(calls):
        loss, metrics = objective(pair, teacher, batch, generator_for(2, call))
        seen.append(gradient(loss, student) * L)
        values.append(metrics["divergence"] * L)
    right = gradient(expected, student)
    drawn, spread = torch.stack(seen).mean(0), torch.stack(seen).std(0) / calls**0.5
    error = (drawn - right).abs()
    assert bool((error <= 6 * spread + 1e-4 * float(right.abs().max()) + 1e-6).all())
    assert float(right.norm()) > 4 * float(spread.norm())
    found = torch.stack(values)
    assert float(found.mean()) == pytest.approx(
        float(expected.detach()), abs=5 * float(found.std()) / calls**0.5
    )


@every_method
def test_at_the_optimum_the_moments_match(name):
    """A joint law, in one step from masks, goes down its own estimate of the gradient."""
    process = Absorbing(V + 1, LogLinear())
    problem, teacher, student = setting(process, "joint")
    u, start = torch.tensor([0.4], dtype=torch.float64), prior_law(process)
    states = enumerate_states(process.vocab_size, L)
    n = len(states)
    masked = states[start.argmax()][None]
    bridge = kernels(process, u, 1.0)[0, start.argmax()]
    objective, real = METHODS[name](), teacher(states, u[0])
    optimiser = torch.optim.Adam(student.parameters(), lr=0.1)
    pairs = torch.arange(n).repeat(n)

    def away() -> float:
        mass, p = posteriors(student, start, u, 1.0)
        used = mass > 1e-9
        return float((p - real.marginals()).detach()[used].abs().max())

    first = away()
    for _ in range(150):
        fake = answer(name, student, teacher, start, 1.0)(states, u.expand(n))
        log_law = student(masked, 1.0).enumerate()[0]
        reward = objective._reward(
            fake.select(pairs),
            real.select(pairs),
            states.repeat_interleave(n, 0),
            DrawnAt(masked, u, states[pairs][None], u.expand(n * n), u, process),
        ).sum(-1)
        mean = torch.where(bridge > 0, bridge * reward.reshape(n, n), 0.0).sum(-1)
        mean = torch.where(log_law.detach() > -50, mean, 0.0)
        optimiser.zero_grad()
        (log_law.detach().exp() * mean * log_law).sum().backward()
        optimiser.step()
    assert away() < 0.01 < 0.3 < first
    own = student(masked, 1.0).enumerate().exp()[0].reshape(V + 1, V + 1)[:V, :V]
    torch.testing.assert_close(own.detach(), problem.probs, atol=0.01, rtol=0)


@pytest.mark.parametrize("name", ["dmmd", "dimo"])
def test_noise_as_an_input_lets_a_product_student_hold_tokens_together(name):
    """By the published gradients, in one step from masks, of two positions that mostly agree."""
    process, noise = Absorbing(V + 1, LogLinear()), prior_law(Absorbing(V + 1, LogLinear()))
    problem = EnumeratedJoint((torch.eye(V).double() + 0.05) / (V + 0.05 * V**2))
    teacher = freeze(problem.denoiser(process))
    batch = problem.sample(32, generator_for(1))

    def away(student: Denoiser) -> float:
        same = NoisyStudent(process, student) if isinstance(student, NoisyStudent) else student
        objective = METHODS[name](draws=2, min_time=0.1, weighting="uniform")
        optimiser = torch.optim.Adam(student.parameters(), lr=0.1)
        for step in range(60):
            helper = answer(name, same, teacher, noise, 1.0)
            loss, _ = objective(
                StudentWithAuxiliary(student, helper), teacher, batch, generator_for(2, step)
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        masked = torch.full((1, L), process.mask)
        law = same(masked, 1.0).enumerate().exp()[0].reshape(V + 1, V + 1)[:V, :V]
        return float((law - problem.probs).abs().sum().detach()) / 2

    assert away(NoisyStudent(process)) < 0.2 < 0.4 < away(make_student("product", process))


def test_the_auxiliary_network_of_moment_matching_learns_both_in_equal_parts():
    process = Uniform(V, Linear(4.0))
    _, teacher, _ = setting(process)
    states = enumerate_states(V, L)
    real = teacher(states, 0.4)
    logits = torch.randn(len(states), L, V, generator=generator_for(2)).double().requires_grad_()
    fake = ProductLaw(logits)
    found = MomentMatching()._surprise(fake, real, states)
    half = (nn.functional.one_hot(states, V) + real.marginals()) / 2
    torch.testing.assert_close(found, -(half * fake.log_probs()).sum(-1), atol=1e-12, rtol=0)
    slope = torch.autograd.grad(found.sum(), logits)[0]
    torch.testing.assert_close(slope, fake.marginals().detach() - half, atol=1e-12, rtol=0)


def test_what_the_methods_are_not_for_is_refused():
    process = Absorbing(V + 1, LogLinear())
    _, teacher, student = setting(process, "product")
    trunk = {"hidden": 16, "blocks": 1, "heads": 2}
    config = {"process": process.config(), "length": L, "trunk": trunk}
    latent = NetworkDenoiser.from_config({**config, "head": {"kind": "latent", "size": 2}})
    pair = StudentWithAuxiliary(latent, freeze(student))
    MomentMatching().check(pair, teacher)
    for objective in (MomentMatching(anchor=1.0), MomentMatching(estimator="score")):
        with pytest.raises(ValueError, match="dmmd needs the likelihood of a sample"):
            objective.check(pair, teacher)
    classes = NetworkDenoiser.from_config({**config, "trunk": {**trunk, "classes": 3}})
    with pytest.raises(ValueError, match="dimo is for teachers without classes"):
        TokenMatching().check(StudentWithAuxiliary(classes, freeze(student)), teacher)
    with pytest.raises(ValueError, match="reverse_share"):
        TokenMatching(reverse_share=-0.2)
