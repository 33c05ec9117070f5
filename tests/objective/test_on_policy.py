"""On-policy refinement: what it minimises, and that its gradients are those of that."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from tabular import TabularStudent
from test_joint import TableStudent
from torch import Tensor, nn

from fewjump.denoiser import LogitDenoiser
from fewjump.denoiser.base import Denoiser
from fewjump.law.base import Law, enumerate_states, ravel
from fewjump.law.mixture import MixtureLaw
from fewjump.law.product import ProductLaw
from fewjump.objective import OnPolicyRefinement, freeze
from fewjump.objective.on_policy import StudentWithAuxiliary
from fewjump.objective.score_function import (
    expected_surrogate,
    leave_one_out,
    own_posterior,
    score_surrogate,
    table_reward,
    token_reward,
)
from fewjump.objective.time_sampling import time_weight
from fewjump.problem import EnumeratedJoint
from fewjump.process import Absorbing, Process, ResetToPrior, Uniform
from fewjump.random import SampleStreams, generator_for
from fewjump.schedule import Linear, LogLinear

V, L, TINY = 3, 2, 1e-30
PROCESSES: list[Process] = [
    Uniform(V, Linear(4.0)),
    ResetToPrior(torch.tensor([0.6, 0.3, 0.1]), Linear(4.0)),
    Absorbing(V + 1, LogLinear()),
]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=["uniform", "prior", "absorbing"])


class MixtureStudent(Denoiser):
    """A free mixture of two products for every x_t; ``support`` (N, L, V) says what is possible."""

    def __init__(self, process: Process, support: Tensor, components: int) -> None:
        super().__init__(process, L)
        generator = torch.Generator().manual_seed(5)
        size, _, vocab = support.shape
        noise = torch.randn(size, components, L, vocab, generator=generator, dtype=torch.float64)
        self.table = nn.Parameter(noise.masked_fill(~support[:, None], -60.0))
        self.weights = nn.Parameter(torch.randn(size, components, generator=generator).double())

    def law(self, x_t: Tensor, t: Tensor) -> Law:
        index = ravel(x_t, self.process.vocab_size)
        if self.table.shape[1] == 1:
            return ProductLaw(self.table[index, 0])
        return MixtureLaw(self.table[index], self.weights[index])


def possible(process: Process) -> Tensor:
    """(N, L, V): the clean tokens that can have led to each state."""
    states = enumerate_states(process.vocab_size, L)
    tokens = torch.arange(process.vocab_size)
    return (process.likelihood(states, 0.7) > 0) & (tokens < V)


def make_student(kind: str, process: Process) -> Denoiser:
    support = possible(process)
    if kind != "joint":
        return MixtureStudent(process, support, 1 if kind == "product" else 2)
    both = (support[:, 0, :, None] & support[:, 1, None, :]).flatten(1).double()
    noise = torch.rand(both.shape, generator=torch.Generator().manual_seed(6)).double()
    return TableStudent(process, L, both * (noise + 0.05))


def kernels(process: Process, u: Tensor, t: float) -> Tensor:
    """q(x_u|x_t, x₀) for every (u, x_t, x₀, x_u), 0 where x₀ cannot lead to x_t."""
    states = enumerate_states(process.vocab_size, L)

    def between(s, e) -> Tensor:
        kernel = process.kernel(s, e).dense()
        return kernel[..., states[:, None, :], states[None, :, :]].prod(-1)

    whole = between(torch.zeros_like(u), torch.full_like(u, t))
    late, early = between(u, torch.full_like(u, t)), between(torch.zeros_like(u), u)
    joint = early[:, None, :, :] * late.mT[:, :, None, :]
    safe = torch.where(whole > 0, whole, 1.0).mT[..., None]
    return torch.where(whole.mT[..., None] > 0, joint / safe, 0.0)


def divergence(student: Denoiser, teacher: Denoiser, start: Tensor, u: Tensor, t: float) -> Tensor:
    """Σᵢ E KL(p^φ(x₀ⁱ|x_u) ‖ p^θ(x₀ⁱ|x_u)) for each u, enumerated, with gradients: (U,).

    ``start`` (N,): the law of x_t.
    """
    process = student.process
    states = enumerate_states(process.vocab_size, L)
    law = student(states, t).enumerate().exp()
    joint = torch.einsum("t,ta,utax->uxa", start, law, kernels(process, u, t))
    reached = joint.sum(-1)
    one_hot = nn.functional.one_hot(states, process.vocab_size).double()
    own = torch.einsum("uxa,alv->uxlv", joint, one_hot)
    total = []
    for time, mass, tokens in zip(u, reached, own):
        real = teacher(states, time).log_probs().clamp(min=-69.0)
        used = tokens > 1e-25
        fake = torch.where(used, tokens, 1.0).log() - mass.clamp(min=1e-300).log()[:, None, None]
        total.append((torch.where(used, tokens, 0.0) * (fake - real)).sum())
    return torch.stack(total)


class ExactAuxiliary(Denoiser):
    """ψ*: the posterior of the student's own samples, enumerated for the times it is asked."""

    def __init__(self, student: Denoiser, starts: dict[float, Tensor]) -> None:
        super().__init__(student.process, L)
        self.student, self.starts = [copy.deepcopy(student)], starts

    def law(self, x_t: Tensor, t: Tensor) -> ProductLaw:
        process, out = self.process, torch.zeros(*x_t.shape, self.process.vocab_size).double()
        states = enumerate_states(process.vocab_size, L)
        one_hot = nn.functional.one_hot(states, process.vocab_size).double()
        late = torch.tensor(sorted(self.starts), dtype=torch.float64)
        step = torch.searchsorted(late, t.contiguous(), right=True)
        for k, (time, start) in enumerate(sorted(self.starts.items())):
            here = (step == k).nonzero()[:, 0]
            joint = start[:, None] * self.student[0](states, time).enumerate().exp()
            for rows in here.split(2000):
                u, x_u = t[rows], x_t[rows]
                early = process.likelihood(x_u, u)[:, torch.arange(L), states].prod(-1)
                kernel = process.kernel(u, torch.full_like(u, time)).dense()
                after = kernel[torch.arange(len(u))[:, None], x_u]
                after = after[:, torch.arange(L), states].prod(-1)
                whole = process.kernel(0.0, time).dense()[states[:, None], states].prod(-1).T
                scaled = torch.where(whole > 0, joint / torch.where(whole > 0, whole, 1), 0.0)
                weights = (after @ scaled) * early
                weights = weights / weights.sum(-1, keepdim=True)
                out[rows] = torch.einsum("ra,alv->rlv", weights, one_hot)
        return ProductLaw(out.log())


def setting(process: Process, kind: str = "joint"):
    problem = EnumeratedJoint.random(V, L, 1.5, generator_for(3))
    return problem, freeze(problem.denoiser(process)), make_student(kind, process)


def prior_law(process: Process) -> Tensor:
    states = enumerate_states(process.vocab_size, L)
    return process.prior()[states].prod(-1)


def flat(grads) -> Tensor:
    return torch.cat([g.reshape(-1) for g in grads if g is not None])


def gradient(value: Tensor, student: Denoiser) -> Tensor:
    """Of the used parameters, (P,)."""
    return flat(torch.autograd.grad(value, list(student.parameters()), allow_unused=True))


# -- the two estimators, every draw enumerated ---------------------------------------------------


@every_process
@pytest.mark.parametrize("kind", ["product", "mixture", "joint"])
def test_the_score_form_is_exact_when_enumerated(process, kind):
    """E[∇log p^φ(x₀)·R_ψ*] = ∇D, where D is differentiated through its own posterior."""
    problem, teacher, student = setting(process, kind)
    t, u = 0.9, torch.tensor([0.4], dtype=torch.float64)
    start = problem.noised(process, t).reshape(-1)
    expected = gradient(divergence(student, teacher, start, u, t)[0], student)
    states = enumerate_states(process.vocab_size, L)
    n = len(states)
    fake = ExactAuxiliary(student, {t: start})(states, u.expand(n))
    reward = torch.stack(
        [token_reward(fake, teacher(states, u[0]), x0.expand(n, -1), TINY).sum(-1) for x0 in states]
    )
    log_law = student(states, t).enumerate()
    weight = start[:, None] * log_law.detach().exp()
    baseline = torch.linspace(-3, 3, n).double()[:, None]  # any function of x_t
    mean = torch.einsum("tax,ax->ta", kernels(process, u, t)[0], reward)
    ours = gradient((weight * score_surrogate(log_law, mean - baseline)).sum(), student)
    assert float(expected.abs().max()) > 0.01
    torch.testing.assert_close(ours, expected, atol=1e-10, rtol=1e-8)


@every_process
@pytest.mark.parametrize("kind", ["product", "mixture"])
def test_the_expected_form_is_exact_when_enumerated(process, kind):
    problem, teacher, student = setting(process, kind)
    t, u = 0.9, torch.tensor([0.4], dtype=torch.float64)
    start = problem.noised(process, t).reshape(-1)
    expected = gradient(divergence(student, teacher, start, u, t)[0], student)
    states = enumerate_states(process.vocab_size, L)
    n = len(states)
    bridge = kernels(process, u, t)[0]
    law = student(states, t)
    parts: list[tuple[ProductLaw, Tensor]] = []
    if isinstance(law, MixtureLaw):
        choices = law.weight_logits.log_softmax(-1)
        for k in range(law.components):
            parts.append((law.component(torch.full((n,), k)), choices[:, k]))
    else:
        assert isinstance(law, ProductLaw)
        parts.append((law, torch.zeros(n).double()))
    base = torch.linspace(-2, 2, n).double()
    total = torch.zeros(()).double()
    late = torch.full((n,), t).double()
    for part, choice in parts:
        reach = torch.einsum("ta,tax->tx", part.enumerate().exp(), bridge).detach()
        reach = reach * choice.detach().exp()[:, None] * start[:, None]
        for number in range(n):
            x_u = states[number].expand(n, -1)
            fake = ExactAuxiliary(student, {t: start})(x_u, u.expand(n))
            table = table_reward(fake, teacher(x_u, u[0]), TINY)
            posterior = own_posterior(part, x_u, u.expand(n), states, late, process)
            posterior = torch.where(reach[:, number, None, None] > 0, posterior, 0.0)
            value = expected_surrogate(part, posterior, table, base, torch.ones_like(base))
            gain = torch.where(posterior > 0, posterior * table, 0.0).sum((-1, -2)) - base
            value = value + score_surrogate(choice, gain)
            used = reach[:, number] > 1e-20
            total = total + (reach[:, number] * value)[used].sum()
    torch.testing.assert_close(gradient(total, student), expected, atol=1e-9, rtol=1e-7)


def test_in_one_masked_step_the_divergence_is_the_kl_of_the_output_laws():
    """w = σα/(1−α) integrates to KL(p^φ ‖ p^θ) when teacher and data are one law."""
    process = Absorbing(V + 1, LogLinear())
    problem, teacher, student = setting(process)
    nodes, weights = torch.tensor(LEGENDRE).double().unbind(-1)
    u = 0.5 * (nodes + 1)
    w = time_weight("elbo", process, u)
    start = prior_law(process)
    with torch.no_grad():
        total = (0.5 * weights * w * divergence(student, teacher, start, u, 1.0)).sum()
    masked = torch.full((1, L), process.mask)
    own = student(masked, 1.0).enumerate().exp()[0].reshape(V + 1, V + 1)[:V, :V]
    expected = (own * (own / problem.probs).log()).sum()
    # A log-linear schedule stops at α(1) = 1e-3: that share of the chain is not run.
    assert float(total) == pytest.approx(float(expected.detach()), rel=5e-3)
    assert float(expected.detach()) > 0.1


# -- the objective itself ------------------------------------------------------------------------

LEGENDRE = [
    (sign * x, w)
    for x, w in [
        (0.1488743389816312, 0.2955242247147529),
        (0.4333953941292472, 0.2692667193099963),
        (0.6794095682990244, 0.2190863625159821),
        (0.8650633666889845, 0.1494513491505806),
        (0.9739065285171717, 0.0666713443086881),
    ]
    for sign in (-1, 1)
]


@every_process
@pytest.mark.parametrize(
    ("kind", "estimator", "source"),
    [
        ("joint", "score", "student"),
        ("joint", "score", "forward"),
        ("product", "score", "forward"),
        ("product", "expected", "forward"),
        ("mixture", "expected", "student"),
    ],
)
def test_the_drawn_gradient_is_unbiased(process, kind, estimator, source):
    problem, teacher, student = setting(process, kind)
    one_step = source == "student"
    grid = (1.0, 0.0) if one_step else (1.0, 0.6, 0.0)
    low = 0.1
    nodes, weights = torch.tensor(LEGENDRE).double().unbind(-1)
    starts, expected = {}, torch.zeros(())
    for t, end in pairwise(grid):
        starts[t] = prior_law(process) if t == 1 else problem.noised(process, t).reshape(-1)
        end = max(end, low)
        u = end + (t - end) * 0.5 * (nodes + 1)
        scale = time_weight("elbo", process, u) * 0.5 * (t - end) * weights
        expected = expected + (scale * divergence(student, teacher, starts[t], u, t)).sum()
    value = float(expected.detach())
    expected = gradient(expected, student)
    pair = StudentWithAuxiliary(student, ExactAuxiliary(student, starts))
    objective = OnPolicyRefinement(
        source, grid=grid, draws=2, estimator=estimator, min_time=low, floor=TINY
    )
    rows, calls = 3000, 16
    batch = problem.sample(rows, generator_for(1))
    seen, values = [], []
    for call in range(calls):
        loss, metrics = objective(pair, teacher, batch, generator_for(2, call))
        seen.append(gradient(loss, student) * L)
        values.append(metrics["divergence"] * L)
    drawn, spread = torch.stack(seen).mean(0), torch.stack(seen).std(0) / calls**0.5
    assert float(torch.stack(values).mean()) == pytest.approx(
        value, abs=5 * float(torch.stack(values).std()) / calls**0.5
    )
    # Sixteen calls give the error to about a fifth of itself; an entry no draw reached has none.
    error = (drawn - expected).abs()
    assert bool((error <= 6 * spread + 1e-4 * float(expected.abs().max()) + 1e-6).all())
    assert float(expected.norm()) > 4 * float(spread.norm())


@every_process
def test_the_expected_form_has_less_noise_than_the_score_form(process):
    problem, teacher, student = setting(process, "product")
    pair = StudentWithAuxiliary(student, ExactAuxiliary(student, {1.0: prior_law(process)}))
    batch = problem.sample(32, generator_for(1))

    def noise(estimator) -> float:
        objective = OnPolicyRefinement(draws=2, estimator=estimator, min_time=0.1)
        seen = [
            gradient(objective(pair, teacher, batch, generator_for(k))[0], student)
            for k in range(60)
        ]
        return float(torch.stack(seen).var(0).sum())

    assert noise("expected") < 0.7 * noise("score")


def test_leave_one_out_subtracts_the_mean_of_the_others():
    reward = torch.tensor([[1.0, 5.0], [2.0, 7.0], [6.0, 0.0]])
    torch.testing.assert_close(leave_one_out(reward)[0], torch.tensor([1.0 - 4.0, 5.0 - 3.5]))


def test_student_and_auxiliary_do_not_touch_each_other():
    """ψ's gradient is that of its cross-entropy alone; in the warm-up the student has none."""
    process = PROCESSES[0]
    problem, teacher, student = setting(process, "joint")
    auxiliary = TabularStudent(process, L, [0.25, 0.75])
    pair = StudentWithAuxiliary(student, auxiliary, 2.0)
    assert {getattr(p, "lr_scale", None) for p in auxiliary.parameters()} == {2.0}
    objective = OnPolicyRefinement("forward", warmup=3, draws=3, data_weight=0.5)
    batch = problem.sample(64, generator_for(1))

    def gradients(step: int) -> tuple[Tensor, Tensor, float]:
        objective.begin_step(step)
        pair.zero_grad()
        loss, metrics = objective(pair, teacher, batch, SampleStreams(4, torch.arange(64)))
        loss.backward()
        assert auxiliary.table.grad is not None
        own = student.get_parameter("table").grad
        assert own is not None
        ce = float(metrics["auxiliary_cross_entropy"])
        return own.clone(), auxiliary.table.grad.clone(), ce

    cold, first, ce = gradients(0)
    warm, second, _ = gradients(3)
    assert float(cold.abs().max()) == 0 < float(warm.abs().max())
    assert torch.equal(first, second)
    # A uniform table has cross-entropy log V, and its gradient sums to 0 over tokens.
    assert ce == pytest.approx(float(torch.tensor(float(V)).log()))
    assert float(first.sum(-1).abs().max()) < 1e-12 < float(first.abs().max())


def test_the_loss_does_not_depend_on_the_batch_split():
    process = PROCESSES[2]
    problem, teacher, student = setting(process, "mixture")
    pair = StudentWithAuxiliary(student, LogitDenoiser(_Tokens(V + 1), process, L))
    objective = OnPolicyRefinement("student", steps=2)
    batch = problem.sample(12, generator_for(1))

    def value(first: int, last: int) -> Tensor:
        streams = SampleStreams(3, torch.arange(first, last))
        return gradient(objective(pair, teacher, batch[first:last], streams)[0], student)

    torch.testing.assert_close((value(0, 6) + value(6, 12)) / 2, value(0, 12))


class _Tokens(nn.Module):
    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, vocab, dtype=torch.float64)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.embed(x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "data"}, "known: forward, student"),
        ({"estimator": "best"}, "known: auto, score, expected"),
        ({"draws": 1}, "at least 2"),
        ({"floor": 0.0}, "floor"),
        ({"warmup": -1}, "warmup"),
        ({"source": "student", "data_weight": 1.0}, "source='forward'"),
        ({"grid": (0.9, 0.0)}, "from 1 to 0"),
        ({"steps": 1, "grid": (1.0, 0.0)}, "not both"),
        ({"steps": 4, "min_time": 0.3}, "exceed min_time"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        OnPolicyRefinement(**options)


def test_models_that_do_not_fit_are_refused():
    process = PROCESSES[0]
    problem, teacher, student = setting(process, "joint")
    batch = problem.sample(4, generator_for(1))
    with pytest.raises(ValueError, match="auxiliary network"):
        OnPolicyRefinement().check(student, teacher)
    with pytest.raises(ValueError, match="share parameters"):
        StudentWithAuxiliary(student, student)
    with pytest.raises(ValueError, match="process"):
        StudentWithAuxiliary(student, TabularStudent(Uniform(V, LogLinear()), L, [0.5]))
    with pytest.raises(ValueError, match="lr_scale"):
        StudentWithAuxiliary(student, TabularStudent(process, L, [0.5]), 0.0)
    joint = StudentWithAuxiliary(student, copy.deepcopy(student))
    with pytest.raises(ValueError, match="product law"):
        OnPolicyRefinement()(joint, teacher, batch, generator_for(1))
    pair = StudentWithAuxiliary(student, TabularStudent(process, L, [0.5]))
    with pytest.raises(ValueError, match="no expected form for a TableLaw"):
        OnPolicyRefinement(estimator="expected")(pair, teacher, batch, generator_for(1))


def test_a_draw_keeps_what_the_expected_form_needs():
    process = PROCESSES[0]
    states = enumerate_states(V, L)
    law = make_student("mixture", process)(states, 0.5)
    one = law.draw(generator_for(1))
    assert one.law is not None
    assert one.log_choice is not None
    assert one.log_choice.requires_grad
    assert isinstance(law, MixtureLaw)
    torch.testing.assert_close(
        law.log_prob(states),
        torch.logsumexp(law.weight_logits.log_softmax(-1) + law.component_log_prob(states), -1),
    )
    assert make_student("joint", process)(states, 0.5).draw(generator_for(1)).law is None
