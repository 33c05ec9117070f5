"""Di4C: its control variate by enumeration, and the exact joint law as its fixed point."""

from __future__ import annotations

import pytest
import torch
from test_on_policy import kernels
from torch import Tensor

import fewjump
from fewjump.denoiser.base import Denoiser
from fewjump.law import Law, MixtureLaw, ProductLaw
from fewjump.law.base import enumerate_states
from fewjump.objective import CorrelationDistillation, freeze
from fewjump.objective.correlation import cross_entropy, product_of_marginals
from fewjump.process import Absorbing, Uniform
from fewjump.random import SampleStreams, generator_for
from fewjump.schedule import Linear, LogLinear
from laws.registry_objectives import Joint, World

V, L = 3, 3
PROCESSES = [Absorbing(V + 1, LogLinear()), Uniform(V, Linear(4.0))]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=["absorbing", "uniform"])


def random_mixture(seed: int, components: int, spread: float) -> tuple[MixtureLaw, list[Tensor]]:
    """Token 0 is impossible at the first position, as a mask is."""
    source = generator_for(seed)
    common = torch.randn(1, 1, L, V, generator=source).double()
    logits = common + spread * torch.randn(1, components, L, V, generator=source).double()
    logits[:, :, 0, 0] = -torch.inf
    weights = torch.randn(1, components, generator=source).double()
    parameters = [logits.requires_grad_(), weights.requires_grad_()]
    return MixtureLaw(logits, weights), parameters


@pytest.mark.parametrize("kind", ["product", "mixture"])
def test_the_control_variate_changes_no_expectation_and_less_is_noise(kind):
    states = enumerate_states(V, L)
    student, parameters = random_mixture(1, 3, 0.3)
    target: Law = random_mixture(2, 2, 0.5)[0]
    if kind == "product":
        target = ProductLaw(target.marginals().detach().log())
    chance = target.enumerate().detach().exp()[0]
    possible = (chance > 0).nonzero()[:, 0]
    rows = torch.zeros(len(possible), dtype=torch.int64)
    law, given = student.select(rows), target.select(rows)

    def moments(product: ProductLaw | None) -> tuple[Tensor, Tensor, Tensor]:
        each = cross_entropy(law, product, given, states[possible], None)
        found = []
        for one in each:
            grads = torch.autograd.grad(one, parameters, retain_graph=True)
            found.append(torch.cat([g[g.isfinite()] for g in grads]))
        gradients, weight = torch.stack(found), chance[possible]
        mean = weight @ gradients
        return weight @ each.detach(), mean, weight @ (gradients - mean).square().sum(-1)

    plain, controlled = moments(None), moments(product_of_marginals(law))
    for own, other in zip(plain[:2], controlled[:2], strict=True):
        torch.testing.assert_close(own, other, atol=1e-12, rtol=0)
    assert float(controlled[2]) < 0.3 * float(plain[2])
    assert float(plain[1].abs().max()) > 0.02
    # The other way to call it draws from the target itself.
    source = torch.Generator().manual_seed(3)
    many = torch.zeros(20_000, dtype=torch.int64)
    whole = student.select(many)
    drawn = cross_entropy(whole, product_of_marginals(whole), target.select(many), None, source)
    assert float(drawn.detach().mean()) == pytest.approx(float(plain[0]), abs=0.01)


def composed(student: Denoiser, teacher: Denoiser, u: float, t: float) -> Tensor:
    """Law of x₀ given every x_t: the teacher's step to u, and the student's from there: (N, N)."""
    states = enumerate_states(student.process.vocab_size, 2)
    bridge = kernels(student.process, torch.tensor([u], dtype=torch.float64), t)[0]
    step = torch.einsum("ta,tax->tx", teacher(states, t).enumerate().exp(), bridge)
    return step @ student(states, u).enumerate().exp()


@every_process
def test_with_exact_composition_the_joint_law_is_the_fixed_point(process, monkeypatch):
    """Whatever the student: what is drawn is the composition. The exact one composes to itself."""
    world, t, u = World(process, 2), 0.8, 0.4
    states = enumerate_states(process.vocab_size, 2)
    student, rows = Joint(world), 30_000
    start = world.problem.noised(process, t).reshape(-1)
    reached = start > 0
    monkeypatch.setattr(
        "fewjump.objective.correlation.spread_uniform",
        lambda size, *_: torch.full((size,), (t - 0.1) / 0.9, dtype=torch.float64),
    )
    gaps = {}
    for joint in (True, False):
        teacher = freeze(world.problem.denoiser(process, joint=joint))
        for offset in student.parameters():
            offset.data.zero_()
        law = student(states, t).enumerate().exp()
        gaps[joint] = float((composed(student, teacher, u, t) - law)[reached].abs().max())
        for offset in student.parameters():
            noise = torch.randn(offset.shape, generator=generator_for(3), dtype=torch.float64)
            offset.data.copy_(noise)
        target, log_law = composed(student, teacher, u, t), student(states, t).enumerate()
        each = torch.where(target > 0, target * log_law.clamp(min=-1e3), 0.0).sum(-1)
        expected = -float((start @ each).detach())
        for control in (True, False):
            objective = CorrelationDistillation(
                min_time=0.1, distil_until=0.9, teacher_step=0.5, control_variate=control
            )
            batch = world.problem.sample(rows, generator_for(1))
            _, metrics = objective(student, teacher, batch, generator_for(2))
            assert float(metrics["consistency"]) * 2 == pytest.approx(expected, abs=0.03)
    assert gaps[True] < 1e-10
    assert gaps[False] > 5e-5


def test_each_term_is_what_its_weight_says():
    process = PROCESSES[0]
    world = World(process, 2)
    teacher, batch = freeze(world.problem.denoiser(process)), world.problem.sample(16)

    def terms(*weights: float) -> tuple[float, dict[str, Tensor]]:
        objective = CorrelationDistillation(term_weights=weights)  # type: ignore[arg-type]
        loss, metrics = objective(Joint(world), teacher, batch, SampleStreams(1, torch.arange(16)))
        return float(loss.detach()), metrics

    total, metrics = terms(1.0, 2.0, 4.0)
    parts = [float(metrics[name]) for name in ("distillation", "consistency", "data")]
    assert total == pytest.approx(parts[0] + 2 * parts[1] + 4 * parts[2], rel=1e-9)
    assert terms(0.0, 1.0, 0.0)[0] == pytest.approx(parts[1], rel=1e-9)
    # Close to the data little is unknown.
    assert parts[0] < 0.3 * parts[2]


NETWORK = {"hidden": 16, "blocks": 1, "heads": 2}
QUICK = {"batch_size": 16, "ema": 0.9, "progress": False, "device": "cpu", "warmup": 1}


def test_students_of_several_kinds_train_and_others_are_refused():
    process = Absorbing(3, LogLinear())
    tokens = torch.randint(2, (300, 1), generator=generator_for(0)).repeat(1, 4)
    teacher = fewjump.train_teacher(tokens, process, network=NETWORK, steps=3, **QUICK)
    for kind in ("mixture", "autoregressive"):
        student = fewjump.distill(
            teacher, tokens, student=kind, objective=CorrelationDistillation(), steps=2, **QUICK
        )
        assert fewjump.sample(student, num_samples=2, steps=1, generator=0).shape == (2, 4)
    for kind, head, message in (
        ("product", {}, "correlations"),
        ("latent", {"size": 2}, "has a bound of it"),
    ):
        with pytest.raises(ValueError, match=message):
            fewjump.distill(
                teacher,
                tokens,
                student=kind,
                head=head,
                objective=CorrelationDistillation(),
                steps=2,
                **QUICK,
            )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher_step": 0.0}, "teacher_step"),
        ({"distil_until": 1e-4}, "must exceed min_time"),
        ({"distil_until": 2.0}, "distil_until"),
        ({"term_weights": (0.0, 0.0, 0.0)}, "not all 0"),
        ({"term_weights": (1.0, -1.0, 0.0)}, "term_weights"),
        ({"min_time": 0.0}, "min_time"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        CorrelationDistillation(**options)
