"""The two verbs, from data to a saved model, at toy size."""

from __future__ import annotations

import pytest
import torch
import yaml

import fewjump
from fewjump.api import distill, train_teacher
from fewjump.denoiser import (
    LogitDenoiser,
    NetworkDenoiser,
    ScoreDenoiser,
    TransformerConfig,
    from_logits,
)
from fewjump.objective import ConditionalMatching, MomentMatching
from fewjump.objective.teacher_time import joint_near
from fewjump.problem import EnumeratedJoint, MarkovChain, mixture_bias
from fewjump.process import Absorbing, Uniform
from fewjump.random import generator_for
from fewjump.registry import OBJECTIVES
from fewjump.schedule import LogLinear
from fewjump.verify.enumeration import chain_tensor

V, L = 4, 3
SMALL = {"hidden": 16, "blocks": 1, "heads": 2, "condition_dim": 8}
QUICK = {"steps": 6, "batch_size": 16, "device": "cpu", "progress": False, "warmup": 2}


@pytest.fixture(scope="module")
def problem() -> EnumeratedJoint:
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(V, V, V, generator=generator, dtype=torch.float64)
    return EnumeratedJoint(probs / probs.sum())


@pytest.fixture(scope="module")
def data(problem) -> torch.Tensor:
    return problem.sample(200, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def teacher(data) -> NetworkDenoiser:
    model = train_teacher(data, Uniform(V, LogLinear()), network=SMALL, lr=1e-2, **QUICK)
    assert isinstance(model, NetworkDenoiser)
    return model


def weights(model) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize("objective", ["cross-entropy", "elbo", "score-entropy"])
def test_a_teacher_is_trained_saved_and_loaded(data, tmp_path, objective):
    process = Uniform(V, LogLinear())
    model = train_teacher(
        data, process, network=SMALL, objective=objective, out=tmp_path / "run", **QUICK
    )
    assert isinstance(model, ScoreDenoiser) == (objective == "score-entropy")
    assert not model.training
    loaded = fewjump.load(tmp_path / "run" / "model")
    x = data[:8]
    torch.testing.assert_close(loaded(x, 0.5).marginals(), model(x, 0.5).marginals())
    again = train_teacher(
        data, process, network=SMALL, objective=objective, out=tmp_path / "run", **QUICK
    )
    assert torch.equal(weights(again), weights(model))


def test_training_moves_a_masked_teacher_towards_the_data(data):
    process = Absorbing(V + 1, LogLinear())
    settings = {**QUICK, "steps": 150, "batch_size": 128, "ema": 0.9}
    model = train_teacher(data, process, network=SMALL, lr=1e-2, **settings)
    masked = torch.full((1, L), process.mask)
    share = torch.nn.functional.one_hot(data, V + 1).double().mean(0)
    assert (model(masked, 1.0).marginals()[0] - share).abs().max() < 0.06


def test_a_warm_started_student_starts_at_the_teacher_and_leaves_it_alone(teacher, data, tmp_path):
    before = weights(teacher).clone()
    options = {**QUICK, "steps": 1, "lr": 1e-12, "ema": None}
    student = distill(teacher, data, **options)
    torch.testing.assert_close(weights(student), before)
    moved = distill(teacher, data, out=tmp_path, **QUICK)
    assert not torch.equal(weights(moved), before)
    assert torch.equal(weights(teacher), before)
    assert all(p.requires_grad for p in teacher.parameters())
    assert moved.process is not None
    for name, model in (("teacher", teacher), ("model", moved)):
        assert torch.equal(weights(fewjump.load(tmp_path / name)), weights(model))
    cold = distill(teacher, data, warm_start=False, **options)
    assert not torch.allclose(weights(cold), before)


def test_a_student_starts_at_another_and_leaves_it_alone(teacher, data, tmp_path):
    first = distill(teacher, data, student="shared-chain", head={"states": 3}, **QUICK)
    before = weights(first).clone()
    sharpen = {"student": "shared-chain", "objective": MomentMatching(warmup=0)}
    still = {**QUICK, "steps": 1, "lr": 1e-12, "ema": None}
    same = distill(teacher, data, start=first, **sharpen, **still)
    torch.testing.assert_close(weights(same), before)
    moved = distill(teacher, data, start=first, out=tmp_path, **sharpen, **QUICK)
    assert not torch.equal(weights(moved), before)
    assert torch.equal(weights(first), before)
    again = distill(teacher, data, start=first, out=tmp_path, **sharpen, **QUICK)
    assert torch.equal(weights(again), weights(moved))
    with pytest.raises(ValueError, match=r"another configuration \(run\.start"):
        distill(teacher, data, start=moved, out=tmp_path, **sharpen, **QUICK)
    with pytest.raises(ValueError, match="a shared-chain student, and product"):
        distill(teacher, data, start=first, **QUICK)
    with pytest.raises(ValueError, match="keeps its network and head"):
        distill(teacher, data, start=first, head={"states": 3}, **sharpen, **QUICK)
    other = train_teacher(data, Absorbing(V + 1, LogLinear()), network=SMALL, **QUICK)
    with pytest.raises(ValueError, match="the start has another noise"):
        distill(other, data, start=first, **sharpen, **QUICK)


def test_data_are_rows_of_tokens(teacher):
    for verb in (
        lambda d: train_teacher(d, teacher.process, **QUICK),
        lambda d: distill(teacher, d),
    ):
        with pytest.raises(ValueError, match="got a list"):
            verb([[0, 1, 2], [1, 2, 3]])


def test_objectives_have_names(teacher, data, monkeypatch):
    class Own(MomentMatching):
        pass

    monkeypatch.setattr(OBJECTIVES, "_places", dict(OBJECTIVES._places))
    OBJECTIVES.add("own", Own)
    options = {**QUICK, "steps": 210}
    own = distill(teacher, data, objective="own", **options)
    assert torch.equal(weights(own), weights(distill(teacher, data, objective=Own(), **options)))
    with pytest.raises(ValueError, match="unknown objective 'other'"):
        distill(teacher, data, objective="other", **options)
    with pytest.raises(ValueError, match="data must hold token numbers, and these are bool"):
        distill(teacher, torch.zeros(8, 4, dtype=torch.bool), **options)
    with pytest.raises(ValueError, match=r"prompt must hold token numbers.*torch\.bool"):
        fewjump.sample(teacher, 2, 1, prompt=torch.tensor([True, False]))


def test_an_exact_teacher_teaches_a_given_network(problem, data):
    process = Uniform(V, LogLinear())
    exact = problem.denoiser(process)
    settings = {**QUICK, "steps": 200, "batch_size": 128, "lr": 1e-2, "ema": 0.9}
    config = TransformerConfig(vocab_size=V, **SMALL)
    student = distill(exact, data, network=config, **settings)
    x = process.prior_sample((64, L), torch.Generator().manual_seed(3))

    def error(model) -> float:
        with torch.no_grad():
            return float((model(x, 0.7).marginals() - exact(x, 0.7).marginals()).abs().mean())

    assert error(student) < 0.5 * error(distill(exact, data, network=config, **QUICK))


@pytest.mark.parametrize(
    "objective", ["student-euler", "student-exact", "forward", ConditionalMatching(steps=1)]
)
def test_every_way_to_match_runs(teacher, data, objective):
    student = distill(teacher, data, objective=objective, **QUICK)
    assert student(data[:2], 1.0).marginals().isfinite().all()


def test_without_data_the_teacher_is_rolled_out(teacher):
    student = distill(teacher, **{**QUICK, "steps": 2})
    assert student.length == L


def test_a_foreign_network_is_distilled_into_its_copy(data):
    network = torch.nn.Sequential(torch.nn.Embedding(V, 8), torch.nn.Linear(8, V))

    class Foreign(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, x_t, t):
            return self.inner(x_t)

    foreign = LogitDenoiser(Foreign(), Uniform(V, LogLinear()), L)
    student = distill(foreign, data, **QUICK)
    assert isinstance(student, LogitDenoiser)
    assert not torch.equal(weights(student), weights(foreign))
    with pytest.raises(ValueError, match="network="):
        distill(foreign, data, warm_start=False, **QUICK)


def test_mistakes_are_named(teacher, data):
    process = Uniform(V, LogLinear())
    for action, words in (
        (lambda: distill(teacher, data, student="produkt"), "known: .*product"),
        (lambda: distill(teacher, data, objective="euler"), "student-euler"),
        (lambda: distill(teacher, data, stpes=3), "steps"),
        (lambda: distill(teacher, data, network={"hidden": 32}, **QUICK), "warm_start=False"),
        (lambda: train_teacher(data, process, objective="mse"), "cross-entropy"),
        (lambda: train_teacher(data, process, objective=ConditionalMatching()), "distill"),
        (lambda: train_teacher(data, process, warm_up=3), "warmup"),
        (lambda: train_teacher(data[0], process), "N, L"),
        (lambda: train_teacher(data + 2, process, network=SMALL, **QUICK), "token 5"),
        (lambda: train_teacher(data, Absorbing(V, LogLinear()), network=teacher), "its own"),
        (lambda: train_teacher(data, teacher.process, network=teacher, classes=3), "leave out"),
        (lambda: distill(teacher, data, student=teacher, head={"rank": 2}), "built already"),
        (lambda: distill(teacher, data, student=teacher, network=SMALL), "built already"),
        (lambda: distill(teacher, data, student=teacher, warm_start=False), "built already"),
        (lambda: fewjump.refine(teacher, teacher, data.tolist()), "as an array or a tensor"),
    ):
        with pytest.raises(ValueError, match=words):
            action()


@pytest.mark.parametrize("student", ["mixture", "chain", "autoregressive"])
@pytest.mark.parametrize("objective", [None, "student", "student-exact", "teacher-rollout"])
def test_joint_students_match_the_joint_conditional(teacher, data, tmp_path, student, objective):
    settings = {**QUICK, "steps": 2}
    model = distill(
        teacher, data, student=student, objective=objective, out=tmp_path / "run", **settings
    )
    assert isinstance(model, NetworkDenoiser)
    assert model.kind == student
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["objective"]["name"] == "JointConditionalMatching"
    assert config["objective"]["near"] == joint_near(teacher.process)
    used = {None: "forward", "student-exact": "student"}.get(objective, objective)
    assert config["objective"]["intermediate"] == used
    loaded = fewjump.load(tmp_path / "run" / "model")
    x = data[:4]
    torch.testing.assert_close(loaded(x, 0.5).log_prob(x), model(x, 0.5).log_prob(x))


def test_the_default_share_has_a_bias_of_half_a_thousandth_of_a_nat_per_position():
    chain = MarkovChain.random(4, 4, 0.4, generator_for(482))
    joint = EnumeratedJoint(chain_tensor(chain.initial, chain.transition, 4))
    for process in (Uniform(4, LogLinear()), Absorbing(5, LogLinear())):
        bias = mixture_bias(joint, process, joint_near(process), 1.0) / 4
        assert 0 < bias < 5e-4
    assert mixture_bias(joint, Uniform(4, LogLinear()), 0.1, 1.0) / 4 > 5e-3


def test_joint_students_take_head_options_and_name_their_mistakes(teacher, data):
    model = distill(teacher, student="chain", head={"states": 3}, **{**QUICK, "steps": 1})
    assert isinstance(model, NetworkDenoiser)
    assert model.config()["head"]["states"] == 3
    with pytest.raises(ValueError, match="a joint one; use forward, teacher-rollout, student"):
        distill(teacher, data, student="chain", objective="student-euler", **QUICK)


def test_a_network_may_write_into_its_input() -> None:
    """It has no token for the mask, and puts another there."""
    table = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))

    def writing(x: torch.Tensor) -> torch.Tensor:
        x[x == 4] = 0
        return table[x]

    drawn = [
        fewjump.sample(from_logits(network, vocab_size=5, mask=4, length=6), 4, 3, generator=0)
        for network in (writing, lambda x: writing(x.clone()))
    ]
    assert torch.equal(*drawn)
    assert bool(drawn[0].any())


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (lambda x: (torch.zeros(*x.shape, 5),), "tuple"),
        (lambda x: torch.zeros(*x.shape, 5).numpy(), "ndarray"),
        (lambda x: torch.zeros(*x.shape, 5).long(), "torch.int64 tensor"),
    ],
)
def test_what_is_no_logits_is_named(output, found: str) -> None:
    denoiser = from_logits(output, vocab_size=5, mask=4, length=6)
    with pytest.raises(TypeError, match=f"must return logits.*it returned a? ?{found}"):
        fewjump.sample(denoiser, 2, 2)
