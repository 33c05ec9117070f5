"""Students from data alone: losses and bounds by enumeration, and a teacher that is never asked."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fewjump
from fewjump.denoiser import NetworkDenoiser
from fewjump.denoiser.base import Denoiser
from fewjump.law import DiscreteLatent, LatentLaw, MixtureLaw
from fewjump.law.base import enumerate_states
from fewjump.objective import (
    DataLikelihood,
    Objective,
    RoutedLikelihood,
    VariationalLikelihood,
)
from fewjump.objective import latent as latent_bound
from fewjump.objective.elbo import prior_divergence
from fewjump.objective.time_sampling import time_weight
from fewjump.problem import EnumeratedJoint, copy
from fewjump.process import Absorbing, Process, Uniform
from fewjump.random import SampleStreams, generator_for
from fewjump.sampler import exact_output_law
from fewjump.schedule import Linear, LogLinear
from laws.registry_objectives import Joint, Latent, World

V, L = 3, 2
# Noise that ends fully masked, to float64: one step then begins where the sampler does.
PROCESSES = [Absorbing(V + 1, LogLinear(eps=1e-9)), Uniform(V, Linear(4.0))]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=["absorbing", "uniform"])


def disturbed(student: Denoiser, size: float = 0.7) -> Denoiser:
    source = generator_for(3)
    for offset in student.parameters():
        offset.data.copy_(size * torch.randn(offset.shape, generator=source, dtype=torch.float64))
    return student


@torch.no_grad()
def cost_at(student: Denoiser, problem: EnumeratedJoint, t: float) -> float:
    """E over x₀ and x_t of −log p(x₀|x_t), in nats, by enumeration."""
    process = student.process
    x0, x_t = enumerate_states(V, L), enumerate_states(process.vocab_size, L)
    reach = process.kernel(0.0, t).dense()[x0[:, None], x_t[None]].prod(-1)
    pair = problem.probs.reshape(-1, 1) * reach
    i, j = (pair > 0).nonzero(as_tuple=True)
    log_prob = student(x_t, t).select(j).log_prob(x0[i])
    return -float((pair[i, j] * log_prob).sum())


def over_times(student: Denoiser, problem: EnumeratedJoint, weighting: Any, first: float) -> float:
    """E_t w(t)·cost, t uniform on (first, 1), by quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(24)
    times = first + (1 - first) * (nodes + 1) / 2
    factor = time_weight(weighting, student.process, torch.tensor(times))
    each = [float(w) * cost_at(student, problem, float(t)) for w, t in zip(factor, times)]
    return float(np.dot(weights / 2, each))


# -- the likelihood of data -----------------------------------------------------------------------


@every_process
@pytest.mark.parametrize(
    "options",
    [{}, {"weighting": "elbo"}, {"steps": 2}, {"grid": (0.9, 0.5, 0.1), "weighting": "sigma"}],
    ids=str,
)
def test_the_loss_is_its_expectation(process: Process, options: dict[str, Any]) -> None:
    world = World(process, L)
    student = disturbed(Joint(world))
    objective = DataLikelihood(min_time=0.05, **options)
    source, losses = generator_for(1), []
    for seed in range(24):
        batch = world.problem.sample(400, source)
        with torch.no_grad():
            loss, _ = objective(student, None, batch, SampleStreams(seed, torch.arange(400)))
        losses.append(float(loss))
    weighting = options.get("weighting", "uniform")
    if objective.grid is None:
        expected = over_times(student, world.problem, weighting, 0.05)
    else:
        times = torch.tensor(objective.grid[:-1], dtype=torch.float64)
        factor = time_weight(weighting, process, times).tolist()
        each = [w * cost_at(student, world.problem, t) for w, t in zip(factor, times.tolist())]
        expected = sum(each) / len(each)
    error = float(np.std(losses)) / len(losses) ** 0.5
    assert error < 0.02 * expected
    assert abs(np.mean(losses) - expected / L) < 4.5 * error


@every_process
def test_the_costs_along_a_grid_bound_the_samplers_law(process: Process) -> None:
    world = World(process, L)
    student, problem = disturbed(Joint(world)), world.problem
    gaps = []
    for steps in (1, 2, 3):
        output = exact_output_law(student, steps)
        nll = -float((problem.probs * output.log()).sum())
        bound = sum(cost_at(student, problem, 1 - k / steps) for k in range(steps))
        if not process.absorbing:
            bound += float(
                problem.probs.reshape(-1) @ prior_divergence(process, enumerate_states(V, L))
            )
        gaps.append(bound - nll)
    assert gaps[1] > 0.1
    assert gaps[2] > gaps[1]
    if process.absorbing:
        assert gaps[0] == pytest.approx(0.0, abs=1e-7)
    else:
        assert gaps[0] > 0.01


def test_the_weight_of_the_bound_is_one_of_products_only() -> None:
    """Two equal tokens: their entropy by marginals, half of it by the exact joint law."""
    process, problem = PROCESSES[0], copy(V, L)
    values = [
        over_times(problem.denoiser(process, joint=joint), problem, "elbo", 1e-9)
        for joint in (False, True)
    ]
    assert values[0] == pytest.approx(math.log(V), abs=1e-6)
    assert values[1] == pytest.approx(math.log(V) / 2, abs=1e-6)


# -- a latent, bounded ----------------------------------------------------------------------------


@pytest.fixture
def any_latent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The student of the laws is no network."""
    monkeypatch.setattr(latent_bound, "latent_head", lambda student: student.head)


@every_process
def test_the_second_bound_is_tight_at_the_posterior_and_nowhere_else(
    process: Process, any_latent: None
) -> None:
    world = World(process, L)
    student = disturbed(Latent(world))
    batch = world.problem.sample(2_000, generator_for(0))

    def loss(objective: Objective) -> float:
        with torch.no_grad():
            streams = SampleStreams(5, torch.arange(len(batch)))
            return float(objective(student, None, batch, streams)[1]["cross_entropy"])

    marginal = loss(DataLikelihood(steps=2))
    best = loss(VariationalLikelihood(steps=2, estimator="sum"))
    assert best == pytest.approx(marginal, abs=1e-12)
    # The encoder of this student answers with the prior: the bound is off by KL(prior ‖ posterior).
    gaps = []
    for seed in range(24):
        with torch.no_grad():
            streams = SampleStreams(seed, torch.arange(len(batch)))
            objective = VariationalLikelihood(steps=2, estimator="sample")
            _, metrics = objective(student, None, batch, streams)
            t, _, x_t = objective.noised(
                process, batch, SampleStreams(seed, torch.arange(len(batch)))
            )
            law = student(x_t, t)
            assert isinstance(law, LatentLaw)
            prior = law.prior
            assert isinstance(prior, DiscreteLatent)
            each = torch.stack(
                [
                    law.decode(torch.full((len(batch),), k), law.rows).log_prob(batch)
                    for k in (0, 1)
                ],
                -1,
            )
            posterior = DiscreteLatent(prior.logits + each)
            slack = float(prior.kl(posterior).mean()) / L
            exact = -float(law.log_prob(batch).mean()) / L
        gaps.append(float(metrics["cross_entropy"]) - exact - slack)
        assert slack > 0.01
    error = float(np.std(gaps)) / len(gaps) ** 0.5
    assert abs(np.mean(gaps)) < 4.5 * error < 0.02


# -- experts --------------------------------------------------------------------------------------


class Router(Denoiser):
    """Two experts, with the log-weights of a row given."""

    mixture = True

    def __init__(self, logits: Tensor) -> None:
        super().__init__(PROCESSES[1], L)
        self.logits = torch.nn.Parameter(logits)

    def law(self, x_t: Tensor, t: Tensor) -> MixtureLaw:
        flat = torch.zeros(x_t.shape[0], self.logits.shape[1], L, V, dtype=torch.float64)
        return MixtureLaw(flat, self.logits)


def test_the_balance_is_the_entropy_that_the_mean_weights_lack() -> None:
    student = Router(torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]], dtype=torch.float64))
    batch = torch.zeros(2, L, dtype=torch.int64)

    def found(balance: float) -> tuple[Tensor, float]:
        objective = RoutedLikelihood(balance=balance)
        loss, metrics = objective(student, None, batch, generator_for(0))
        return loss, float(metrics["experts_used"])

    # Weights (½, ½) and (¾, ¼): ⅝ and ⅜ on average.
    entropy = -(0.625 * math.log(0.625) + 0.375 * math.log(0.375))
    plain, balanced = found(0.0), found(2.0)
    assert float(plain[0].detach()) == pytest.approx(math.log(V), abs=1e-12)
    lacking = 2 * (math.log(2) - entropy) / L
    assert float((balanced[0] - plain[0]).detach()) == pytest.approx(lacking, abs=1e-12)
    assert plain[1] == balanced[1] == pytest.approx(math.exp(entropy))
    balanced[0].backward()
    assert student.logits.grad is not None
    # The first expert is used too much.
    assert bool((student.logits.grad[:, 0] > 0).all())


def test_an_expert_that_nothing_can_come_from_does_no_harm() -> None:
    student = Router(torch.tensor([[0.0, -torch.inf, 0.0]] * 2, dtype=torch.float64))
    loss, metrics = RoutedLikelihood(balance=1.0)(
        student, None, torch.zeros(2, L, dtype=torch.int64), generator_for(0)
    )
    loss.backward()
    assert float(metrics["experts_used"]) == pytest.approx(2.0)
    assert student.logits.grad is not None
    assert bool(student.logits.grad[:, [0, 2]].isfinite().all())


# -- in the library -------------------------------------------------------------------------------

NETWORK = {"hidden": 16, "blocks": 1, "heads": 2, "condition_dim": 8}
QUICK = {"batch_size": 32, "ema": 0.9, "progress": False, "device": "cpu", "warmup": 1}
METHODS: dict[str, tuple[Objective, dict[str, Any]]] = {
    "shared-chain": (DataLikelihood(steps=1), {"states": 8}),
    "mixture": (RoutedLikelihood(steps=1, balance=0.1), {"components": 4}),
    "latent": (VariationalLikelihood(steps=1), {"size": 2, "categories": 0, "width": 16}),
}


def untouchable(process: Process) -> NetworkDenoiser:
    """A teacher that may be looked at but not asked."""
    torch.manual_seed(0)
    config = {"process": process.config(), "trunk": NETWORK, "length": 3}
    teacher = NetworkDenoiser.from_config(config)

    def never(*_: object) -> None:
        raise AssertionError("the teacher was asked")

    teacher.register_forward_pre_hook(never)
    return teacher


@pytest.mark.parametrize("kind", list(METHODS))
@pytest.mark.parametrize("warm", [True, False])
def test_the_teacher_is_never_asked(kind: str, warm: bool, tmp_path: Path) -> None:
    objective, head = METHODS[kind]
    process = Absorbing(3, LogLinear())
    tokens = torch.randint(2, (400, 1), generator=generator_for(0)).repeat(1, 3)
    teacher = untouchable(process)
    student = fewjump.distill(
        teacher,
        tokens,
        student=kind,
        head=head,
        objective=objective,
        warm_start=warm,
        steps=4,
        log_every=2,
        out=tmp_path,
        **QUICK,
    )
    assert teacher.evaluations == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {line["teacher_evaluations"] for line in lines if "loss" in line} == {0.0}
    assert lines[-1]["cross_entropy"] > 0
    assert fewjump.sample(student, num_samples=2, steps=1, generator=0).shape == (2, 3)


def test_a_student_from_scratch_learns_what_goes_together() -> None:
    """Without any teacher: a network of one's own, trained on data."""
    process = Absorbing(3, LogLinear())
    config = {"process": process.config(), "trunk": NETWORK, "length": 3}
    torch.manual_seed(0)
    student = NetworkDenoiser.from_config({**config, "head": {"kind": "mixture", "components": 4}})
    tokens = torch.randint(2, (400, 1), generator=generator_for(0)).repeat(1, 3)
    trained = fewjump.train_teacher(
        tokens,
        process,
        network=student,
        objective=RoutedLikelihood(steps=1),
        steps=60,
        lr=0.03,
        **QUICK,
    )
    with torch.no_grad():
        law = trained(torch.full((1, 3), 2), 1.0)
        log_prob = torch.cat([law.log_prob(torch.full((1, 3), k)) for k in (0, 1)])
    # A product of marginals gives each of the two an eighth.
    assert log_prob.exp().min() > 0.4


def test_students_that_a_method_is_not_for_are_refused() -> None:
    process = Absorbing(3, LogLinear())
    tokens = torch.zeros(40, 3, dtype=torch.int64)
    for objective, kind, head, message in (
        (RoutedLikelihood(), "product", {}, "e-moe trains mixtures"),
        (RoutedLikelihood(), "shared-chain", {}, "e-moe trains mixtures"),
        (RoutedLikelihood(), "latent", {"size": 2}, "has a bound of it"),
        (DataLikelihood(), "latent", {"categories": 0, "size": 2}, "has a bound of it"),
        (VariationalLikelihood(), "mixture", {}, "latent students, got mixture"),
        (VariationalLikelihood(), "latent", {"encoder": False}, "has no encoder"),
        (VariationalLikelihood(estimator="sum"), "latent", {"size": 2}, "one category"),
    ):
        with pytest.raises(ValueError, match=message):
            fewjump.distill(
                untouchable(process),
                tokens,
                student=kind,
                head=head,
                objective=objective,
                steps=2,
                **QUICK,
            )
    # One category is summed out: a mixture whose choice enters the trunk.
    fewjump.distill(
        untouchable(process),
        tokens,
        student="latent",
        head={"categories": 2},
        objective=RoutedLikelihood(balance=1.0),
        steps=2,
        **QUICK,
    )


def test_scales_of_guidance_need_guided_samples() -> None:
    torch.manual_seed(0)
    config = {"process": Absorbing(3, LogLinear()).config(), "trunk": {**NETWORK, "classes": 2}}
    teacher = NetworkDenoiser.from_config({**config, "length": 3})
    with pytest.raises(ValueError, match="a guidance scale is of guided samples"):
        fewjump.distill(
            teacher,
            torch.zeros(40, 3, dtype=torch.int64),
            labels=torch.zeros(40, dtype=torch.int64),
            guidance=(1.0, 2.0),
            objective=DataLikelihood(),
            steps=2,
            **QUICK,
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"balance": -1.0}, "balance must be"),
        ({"balance": math.nan}, "balance must be"),
        ({"weighting": "none"}, "weighting"),
        ({"steps": 0}, "steps must be"),
        ({"min_time": 0.0}, "min_time"),
        ({"steps": 2, "grid": (1.0, 0.0)}, "one of them"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RoutedLikelihood(**options)
