"""Known positions: clean in every state, out of every loss, and conditioned on exactly."""

from __future__ import annotations

import pytest
import torch

from fewjump.denoiser import LogitDenoiser, NetworkDenoiser
from fewjump.denoiser.base import Denoiser
from fewjump.law import Law
from fewjump.objective import (
    ConditionalMatching,
    CrossEntropyELBO,
    JointConditionalMatching,
    LatentMatching,
    RewardRefinement,
    ScoreEntropy,
    freeze,
)
from fewjump.objective.base import Given, draw_known
from fewjump.problem import EnumeratedJoint
from fewjump.process import Absorbing, Process, Uniform
from fewjump.random import SampleStreams, generator_for
from fewjump.schedule import LogLinear
from fewjump.train.setup import describe

V, L, B = 3, 4, 6
PROCESSES: dict[str, Process] = {
    "absorbing": Absorbing(V + 1, LogLinear()),
    "uniform": Uniform(V, LogLinear()),
}
EVERY = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


# -- the rules ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["prefix", "infill", "scattered"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_rules_leave_something_and_stay_within_the_share(name, share: float) -> None:
    real = torch.ones(4000, 10, dtype=torch.bool)
    known = draw_known(name, share, real, torch.Generator().manual_seed(0))
    count = known.sum(-1)
    assert int(count.max()) < 10
    if name == "scattered":
        assert float(known.float().mean()) == pytest.approx(share / 2, abs=0.01)
        return
    most = int(share * 10)
    # Every number from 0 to the largest, equally often.
    shares = torch.bincount(count, minlength=most + 1) / 4000
    assert shares.shape[0] == most + 1
    assert float((shares - 1 / (most + 1)).abs().max()) < 0.03
    if name == "prefix":
        assert torch.equal(known, torch.arange(10) < count[:, None])
    else:
        # What is hidden is one stretch, and it comes to lie at either end.
        edges = (known[:, 1:] != known[:, :-1]).sum(-1)
        assert int(edges.max()) <= 2
        assert bool(known[:, 0].any())
        assert bool(known[:, -1].any())


@pytest.mark.parametrize("name", ["prefix", "infill", "scattered"])
def test_rules_are_about_positions_that_are_hidden(name) -> None:
    """What a process keeps, before, between and behind, is neither given nor counted."""
    real = torch.zeros(4000, 16, dtype=torch.bool)
    places = [1, 2, 3, 5, 6, 9]
    real[:, places] = True
    short = draw_known(name, 0.5, real, torch.Generator().manual_seed(0))
    assert not bool((short & ~real).any())
    dense = torch.ones(4000, 6, dtype=torch.bool)
    if name == "scattered":
        assert float(short[:, places].float().mean()) == pytest.approx(0.25, abs=0.01)
    else:
        alone = draw_known(name, 0.5, dense, torch.Generator().manual_seed(0))
        assert torch.equal(short[:, places], alone)
    one = torch.zeros(500, 9, dtype=torch.bool)
    one[:, 4] = True
    assert not bool(draw_known(name, 0.99, one, torch.Generator().manual_seed(1)).any())


def test_rules_do_not_depend_on_the_batch_split() -> None:
    real = torch.ones(6, 8, dtype=torch.bool)
    for name in ("prefix", "infill", "scattered"):
        whole = draw_known(name, 0.7, real, SampleStreams(3, torch.arange(6)))
        parts = [draw_known(name, 0.7, real[:3], SampleStreams(3, torch.arange(6)[p])) for p in
                 (slice(0, 3), slice(3, 6))]  # fmt: skip
        assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("objective", [ConditionalMatching, JointConditionalMatching])
def test_options_are_checked_and_told_only_when_used(objective) -> None:
    with pytest.raises(ValueError, match="unknown rule 'suffix'"):
        objective(known="suffix")
    with pytest.raises(ValueError, match=r"known_share must lie in \(0, 1\)"):
        objective(known="prefix", known_share=1.0)
    assert "known" not in describe(objective())
    told = describe(objective("teacher-rollout", known="infill", known_share=0.25))
    assert (told["known"], told["known_share"]) == ("infill", 0.25)
    assert not objective("teacher-rollout").needs_data
    assert objective("teacher-rollout", known="prefix").needs_data


# -- what networks are shown, and what counts ---------------------------------------------------


class Spy(LogitDenoiser):
    """A table of logits per position that remembers what it was asked."""

    def __init__(self, process: Process, seed: int) -> None:
        source = torch.Generator().manual_seed(seed)
        super().__init__(self._read, process, L)
        shape = (L, process.vocab_size)
        self.table = torch.nn.Parameter(torch.randn(shape, generator=source).double())
        self.asked: list[torch.Tensor] = []

    def _read(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        self.asked.append(x)
        return self.table.expand(x.shape[0], -1, -1).clone()


def objectives() -> list:
    names = ("forward", "student-euler", "student-exact", "teacher-rollout")
    plain = [ConditionalMatching(n, known="prefix", rollout_steps=2) for n in names]
    joint = [
        JointConditionalMatching(n, known="prefix", rollout_steps=2, near="uniform")
        for n in ("forward", "student", "teacher-rollout")
    ]
    extra = JointConditionalMatching("forward", known="prefix", near="adaptive", consistency=0.5)
    return [*plain, *joint, extra]


@EVERY
@pytest.mark.parametrize(
    "objective", objectives(), ids=lambda o: f"{type(o).__name__[0]}-{o.intermediate}"
)
def test_known_positions_are_always_shown_clean_and_carry_no_loss(
    process: Process, objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = torch.tensor([True, False, True, False]).expand(B, L)
    monkeypatch.setattr("fewjump.objective.base.draw_known", lambda *_: known)
    student, teacher = Spy(process, 0), freeze(Spy(process, 1))
    batch = torch.randint(V, (B, L), generator=torch.Generator().manual_seed(2))

    def loss() -> torch.Tensor:
        return objective(student, teacher, batch, torch.Generator().manual_seed(5))[0]

    student.zero_grad()
    before = loss()
    before.backward()
    for x in [*student.asked, *teacher.asked]:
        rows = batch if len(x) == B else batch[: len(x)]
        if len(x) == B or objective.near != "adaptive":
            assert torch.equal(x[:, [0, 2]], rows[:, [0, 2]])
    gradient = student.table.grad
    assert gradient is not None
    assert gradient[[0, 2]].abs().max() == 0
    assert gradient[[1, 3]].abs().max() > 0
    # Whatever either network says there, the loss is the same.
    for network in (student, teacher):
        with torch.no_grad():
            network.table[[0, 2]] += torch.randn(2, process.vocab_size).double()
    assert float(loss().detach()) == pytest.approx(float(before.detach()), rel=1e-12)


def test_a_second_order_step_cannot_hold_them_without_a_mask() -> None:
    process = PROCESSES["uniform"]
    objective = ConditionalMatching("student-trapezoidal", known="prefix")
    batch = torch.zeros(B, L, dtype=torch.int64)
    with pytest.raises(ValueError, match="use another intermediate"):
        objective(Spy(process, 0), freeze(Spy(process, 1)), batch, torch.Generator())


# -- against enumeration ------------------------------------------------------------------------


class Exact(Denoiser):
    """A joint exact denoiser as a student; it has a parameter so that it counts as one."""

    def __init__(self, problem: EnumeratedJoint, process: Process) -> None:
        super().__init__(process, problem.length)
        self.inner = problem.denoiser(process, joint=True)
        self.one = torch.nn.Parameter(torch.zeros(()))

    def law(self, x_t: torch.Tensor, t: torch.Tensor) -> Law:
        return self.inner(x_t, t)


@EVERY
def test_the_joint_loss_of_the_truth_is_the_conditional_entropy(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = torch.Generator().manual_seed(3)
    probs = torch.rand(V, V, V, generator=source).double() ** 3
    problem = EnumeratedJoint(probs / probs.sum())
    count = 6000
    known = torch.tensor([True, False, True]).expand(count, 3)
    monkeypatch.setattr("fewjump.objective.base.draw_known", lambda *_: known)
    index = torch.multinomial(problem.probs.reshape(-1), count, True, generator=source)
    batch = torch.stack(torch.unravel_index(index, (V, V, V)), -1)
    student, teacher = Exact(problem, process), freeze(Exact(problem, process))
    objective = JointConditionalMatching(steps=1, near="zero", min_time=1e-6, known="prefix")
    loss, _ = objective(student, teacher, batch, torch.Generator().manual_seed(0))
    # At t = 1 the rest is (all but) noise: what is left is H(x₁|x₀, x₂).
    joint = problem.probs
    given = joint.sum(1, keepdim=True)
    entropy = -(joint * (joint / given).log()).sum()
    assert float(entropy) > 0.2
    assert float(loss.detach()) * 3 == pytest.approx(float(entropy), abs=0.03)
    # Without the given part it would have been the entropy of everything.
    monkeypatch.undo()
    whole, _ = JointConditionalMatching(steps=1, near="zero", min_time=1e-6)(
        student, teacher, batch, torch.Generator().manual_seed(0)
    )
    assert float(whole.detach()) * 3 > float(entropy) + 0.5


def from_data() -> list:
    return [
        CrossEntropyELBO("uniform", known="infill"),
        CrossEntropyELBO("elbo", known="infill"),
        ScoreEntropy(known="infill"),
    ]


@EVERY
@pytest.mark.parametrize("objective", from_data(), ids=["uniform", "elbo", "score"])
def test_teachers_are_shown_known_positions_too(
    process: Process, objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = torch.tensor([True, False, True, False]).expand(B, L)
    monkeypatch.setattr("fewjump.objective.base.draw_known", lambda *_: known)
    student = Spy(process, 0)
    batch = torch.randint(V, (B, L), generator=torch.Generator().manual_seed(2))
    loss, _ = objective(student, None, batch, torch.Generator().manual_seed(5))
    loss.backward()
    (seen,) = student.asked
    assert torch.equal(seen[:, [0, 2]], batch[:, [0, 2]])
    gradient = student.table.grad
    assert gradient is not None
    assert gradient[[0, 2]].abs().max() == 0
    assert gradient[[1, 3]].abs().max() > 0
    assert describe(objective)["known"] == "infill"
    assert "known" not in describe(type(objective)())
    with pytest.raises(ValueError, match="unknown rule"):
        type(objective)(known="suffix")


@pytest.mark.parametrize(
    ("process", "objective"),
    [
        ("absorbing", CrossEntropyELBO("elbo", min_time=1e-5, known="prefix")),
        ("absorbing", ScoreEntropy(min_time=1e-5, known="prefix")),
        ("uniform", CrossEntropyELBO("elbo", min_time=1e-5, known="prefix")),
        ("uniform", ScoreEntropy(min_time=1e-5, known="prefix")),
    ],
    ids=["masked-elbo", "masked-score", "uniform-elbo", "uniform-score"],
)
def test_the_bound_of_the_truth_is_the_conditional_entropy(
    process: str, objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    """−log p(x₀ᵁ|x₀ᴷ) of the exact posterior, by enumeration: H(x₁|x₀, x₂)."""
    source = torch.Generator().manual_seed(3)
    probs = torch.rand(V, V, V, generator=source).double() ** 3
    problem, count = EnumeratedJoint(probs / probs.sum()), 20_000
    known = torch.tensor([True, False, True]).expand(count, 3)
    monkeypatch.setattr("fewjump.objective.base.draw_known", lambda *_: known)
    index = torch.multinomial(problem.probs.reshape(-1), count, True, generator=source)
    batch = torch.stack(torch.unravel_index(index, (V, V, V)), -1)
    exact = Exact(problem, PROCESSES[process])
    if process == "absorbing" and isinstance(objective, CrossEntropyELBO):
        # The cross-entropy form of the bound is that of per-position posteriors.
        exact.inner = problem.denoiser(exact.process)
    loss, _ = objective(exact, None, batch, torch.Generator().manual_seed(0))
    given = problem.probs.sum(1, keepdim=True)
    entropy = -(problem.probs * (problem.probs / given).log()).sum()
    assert float(entropy) > 0.2
    assert float(loss.detach()) * 3 == pytest.approx(float(entropy), abs=0.03)


def latent(process: Process) -> NetworkDenoiser:
    torch.manual_seed(0)
    trunk = {"hidden": 8, "blocks": 1, "heads": 2, "condition_dim": 8, "conv_kernel": 0}
    head = {"kind": "latent", "categories": 2, "width": 8, "encoder_width": 8}
    config = {"process": process.config(), "trunk": trunk, "head": head, "length": L}
    model = NetworkDenoiser.from_config(config).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return model


def test_the_latent_bound_is_that_of_the_other_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """−log Σ_z p(z|x_t)·exp(−CE of the unknown positions given z), by summation over z."""
    process = PROCESSES["absorbing"]
    known = torch.tensor([True, False, True, False]).expand(B, L)
    monkeypatch.setattr("fewjump.objective.base.draw_known", lambda *_: known)
    student, teacher = latent(process), freeze(Spy(process, 1))
    batch = torch.randint(V, (B, L), generator=torch.Generator().manual_seed(2))
    laws: list = []
    own = student.law
    monkeypatch.setattr(student, "law", lambda x, t: laws.append((x, own(x, t))) or laws[-1][1])
    objective = LatentMatching(near=0.1, known="infill")
    loss, metrics = objective(student, teacher, batch, torch.Generator().manual_seed(5))
    x_t, law = laws[0]
    for x in (x_t, teacher.asked[0]):
        assert torch.equal(x[:, [0, 2]], batch[:, [0, 2]])
    target = teacher.law(teacher.asked[0], torch.full((B,), 0.1).double()).marginals()
    terms = []
    for z in range(2):
        p = law.decode(torch.full((B,), z), law.rows).marginals()
        cost = -torch.xlogy(target, p)[:, [1, 3]].sum((-1, -2))
        terms.append(law.prior.logits.log_softmax(-1)[:, z] - cost)
    # Neither value of z answers for the other.
    assert float((terms[0] - terms[1]).detach().abs().max()) > 0.1
    expected = -torch.stack(terms).logsumexp(0).mean() / L
    assert float(metrics["cross_entropy"]) == pytest.approx(float(expected.detach()), rel=1e-9)
    loss.backward()
    with pytest.raises(ValueError, match="under masks only"):
        objective.check(latent(PROCESSES["uniform"]), freeze(Spy(PROCESSES["uniform"], 1)))


def test_nothing_given_changes_nothing() -> None:
    process = PROCESSES["uniform"]
    given = Given.draw(None, 0.5, torch.zeros(2, 3).long(), process, None)
    x, law = torch.ones(2, 3).long(), Spy(process, 0)(torch.zeros(2, L).long(), 0.5)
    assert given.pin(x) is x
    assert given.condition(law) is law


# -- what a process keeps ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "objective",
    [
        ConditionalMatching("teacher-rollout", rollout_steps=2),
        JointConditionalMatching("teacher-rollout", near=0.3, rollout_steps=2),
        RewardRefinement("student", reward=lambda x0: x0[:, 0].double(), steps=2),
        RewardRefinement("forward", reward=lambda x0: x0[:, 0].double()),
    ],
    ids=["conditional", "joint", "own states", "noised data"],
)
@pytest.mark.parametrize(
    "process",
    [Absorbing(5, LogLinear(), kept=(0, 3)), Uniform(5, LogLinear(), kept=(0, 3))],
    ids=["masked", "uniform"],
)
def test_states_of_ones_own_show_what_data_keep(objective, process: Process) -> None:
    """Wherever sequences end in the data, they end in what is drawn, at every time."""
    trunk = {"hidden": 8, "blocks": 1, "heads": 2, "condition_dim": 4}
    joint = {"kind": "any-order", "width": 8, "heads": 2}
    heads = {
        ConditionalMatching: ({"kind": "product"}, {"kind": "product"}),
        JointConditionalMatching: ({"kind": "product"}, joint),
        RewardRefinement: (joint, joint),
    }
    torch.manual_seed(0)
    described = {"process": process.config(), "trunk": trunk, "length": 6}
    teacher, student = (
        NetworkDenoiser.from_config({**described, "head": head}) for head in heads[type(objective)]
    )
    seen: list[torch.Tensor] = []
    student.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    batch = torch.tensor([[0, 1, 2, 1, 3, 3], [0, 2, 3, 3, 3, 3], [0, 1, 1, 2, 1, 3]]).repeat(20, 1)
    objective(student, freeze(teacher), batch, generator_for(0))
    kept = process.is_kept(batch)
    whole = [x_t for x_t in seen if len(x_t) == len(batch)]
    assert whole
    for x_t in whole:
        assert torch.equal(process.is_kept(x_t), kept)
        assert torch.equal(x_t[kept], batch[kept])
