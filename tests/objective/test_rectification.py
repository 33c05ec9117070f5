"""Rectification on enumerated couplings: its theorem, its loss, its pairs, what it is not for."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from tabular import BruteForceDenoiser, TabularStudent, random_joint
from torch import Tensor
from torch.nn.functional import one_hot

import fewjump
from fewjump import rollouts
from fewjump.denoiser.base import Denoiser
from fewjump.evaluate import conditional_total_correlation, entropy
from fewjump.law import ProductLaw
from fewjump.law.base import enumerate_states, ravel
from fewjump.objective import Rectification, freeze
from fewjump.objective.rectification import between
from fewjump.process import Absorbing, ResetToPrior, Uniform, gidd
from fewjump.runs import PAIRS, ROUNDS
from fewjump.sampler import exact_coupling, exact_output_law
from fewjump.schedule import LogLinear
from fewjump.train import ResumeError, TrainingInterrupted


class Coupled(Denoiser):
    """The exact p(x₀ⁱ|x_t) between the ends of a coupling (x₁, x₀), (N, N)."""

    def __init__(self, coupling: Tensor, length: int, process: Uniform) -> None:
        super().__init__(process, length)
        self.coupling = coupling
        self.states = enumerate_states(process.vocab_size, length)

    def path(self, t: Tensor) -> Tensor:
        """Pr(x_t | x₁, x₀): (N, N, N), from the definition of the path."""
        alpha = float(self.process.schedule.alpha(t))
        same = (self.states[:, None] == self.states).double()
        return (alpha * same[None] + (1 - alpha) * same[:, None]).prod(-1)

    def law(self, x_t: Tensor, t: Tensor) -> ProductLaw:
        joint = torch.einsum("ab,abs->sb", self.coupling, self.path(t[0]))
        clean = one_hot(self.states, self.process.vocab_size).double()
        rows = ravel(x_t, self.process.vocab_size)
        return ProductLaw(torch.einsum("sb,blv->slv", joint, clean)[rows].log())


def independent(vocab_size: int, length: int, seed: int, schedule: LogLinear):
    """A process, the coupling that training on data has, and its total correlation."""
    process = Uniform(vocab_size, schedule)
    data = random_joint(vocab_size, length, seed)
    coupling = (data / len(data)).expand(len(data), -1)
    return process, coupling


SHAPES = [(2, 2, 0), (2, 2, 1), (3, 2, 2), (2, 3, 3)]


@pytest.mark.parametrize("steps", [2, 8])
@pytest.mark.parametrize(("vocab_size", "length", "seed"), SHAPES)
def test_a_round_does_not_increase_the_conditional_total_correlation(
    vocab_size: int, length: int, seed: int, steps: int
) -> None:
    """The paper's theorem, by enumeration: exact students, pairs from 2 or 8 of their steps."""
    process, coupling = independent(vocab_size, length, seed, LogLinear(eps=1e-9))
    found = [conditional_total_correlation(coupling, vocab_size)]
    for _ in range(3):
        denoiser = Coupled(coupling, length, process)
        coupling = exact_coupling(denoiser, steps)
        law = exact_output_law(denoiser, steps, "flow-matching")
        torch.testing.assert_close(coupling.sum(0), law.flatten(), atol=1e-12, rtol=0)
        found.append(conditional_total_correlation(coupling, vocab_size))
    assert all(after <= before + 1e-12 for before, after in pairwise(found)), found
    assert found[-1] < 0.6 * found[0]


def test_what_noise_says_of_the_data_is_kept_by_flow_matching_only() -> None:
    """Mutual information of the ends: the ancestral step loses it, so that it rectifies nothing."""
    process, coupling = independent(2, 2, 1, LogLinear(eps=1e-9))
    denoiser = Coupled(coupling, 2, process)

    def information(sampler: str) -> float:
        found = exact_coupling(denoiser, 24, sampler)
        return entropy(found.sum(0)) + entropy(found.sum(1)) - entropy(found)

    assert information("flow-matching") > 0.1 > 20 * information("ancestral")


def test_conditional_total_correlation_is_its_formula() -> None:
    source = torch.Generator().manual_seed(0)
    coupling = torch.rand(5, 9, generator=source, dtype=torch.float64)
    coupling /= coupling.sum()
    truth = 0.0
    for row in coupling.reshape(5, 3, 3):
        law = row / row.sum()
        product = law.sum(1)[:, None] * law.sum(0)
        truth += float(row.sum() * (law * (law / product).log()).sum())
    assert conditional_total_correlation(coupling, 3) == pytest.approx(truth, abs=1e-13)
    with pytest.raises(ValueError, match="9 columns"):
        conditional_total_correlation(coupling, 2)
    # A single position misses nothing, and one token has one sequence.
    one = torch.tensor([[0.1, 0.4], [0.3, 0.2]], dtype=torch.float64)
    assert conditional_total_correlation(one, 2) == pytest.approx(0, abs=1e-12)
    assert conditional_total_correlation(torch.full((4, 1), 0.25), 1) == pytest.approx(0, abs=1e-12)


def test_the_loss_is_that_of_the_enumerated_pairs(monkeypatch) -> None:
    """At one time: the mean over many pairs against the sum over all, and its gradient."""
    process = Uniform(2, LogLinear())
    t, rows, source = torch.tensor(0.6).double(), 60_000, torch.Generator().manual_seed(0)
    coupling = torch.rand(4, 4, generator=source, dtype=torch.float64) ** 4
    coupling /= coupling.sum()
    ends = torch.multinomial(coupling.flatten(), rows, replacement=True, generator=source)
    states = enumerate_states(2, 2)
    batch = torch.cat([states[ends % 4], states[ends // 4]], -1)
    monkeypatch.setattr("fewjump.objective.rectification.spread_uniform", lambda n, *_: t.expand(n))
    student = TabularStudent(process, 2, [0.6, 1.0])
    student.table.data.normal_(generator=source)
    loss, metrics = Rectification(rounds=1, min_time=1e-12)(student, None, batch, source)
    loss.backward()
    assert student.table.grad is not None

    path = Coupled(coupling, 2, process).path(t)
    table = student.table.detach()[0].clone().requires_grad_()
    # (x_t, i, x₀) → log-probability of the position's clean token.
    picked = table.log_softmax(-1)[:, torch.arange(2)[:, None], states.T]

    def enumerated(coupling: Tensor) -> Tensor:
        joint = torch.einsum("ab,abs->sb", coupling, path)
        return -(joint[:, None] * picked).sum() / 2

    truth = enumerated(coupling)
    unrelated = enumerated(coupling.sum(1, keepdim=True) * coupling.sum(0))
    truth.backward()
    assert table.grad is not None
    assert float(loss.detach()) == pytest.approx(float(truth.detach()), abs=0.006)
    torch.testing.assert_close(student.table.grad[0], table.grad, atol=0.004, rtol=0)
    # Ends that know nothing of each other would be noticed.
    assert abs(float((truth - unrelated).detach())) > 2 * 0.006
    assert float(metrics["cross_entropy"]) == pytest.approx(float(loss.detach()), abs=1e-12)
    last = student.table.detach()[1].log_softmax(-1)[:, torch.arange(2)[:, None], states.T]
    once = -(coupling[:, None] * last).sum() / 2
    assert float(metrics["one_step_nll"]) == pytest.approx(float(once), abs=0.03)


def test_between_two_ends_each_position_is_of_one_of_them() -> None:
    process = ResetToPrior(torch.tensor([0.3, 0.7, 0.0]), LogLinear(), kept=[2])
    x0, x1 = torch.tensor([[0, 0, 2, 1]]), torch.tensor([[1, 0, 1, 0]])
    t = torch.tensor([0.25, 0.75]).double()
    source = torch.Generator().manual_seed(0)
    first, last = (x.expand(40_000, -1) for x in (x0, x1))
    x_t = between(process, first, last, t.repeat(20_000), source)
    clean = (x_t == x0).double().reshape(-1, 2, 4).mean(0)
    assert bool((clean[:, 1:3] == 1).all())
    alpha = process.schedule.alpha(t)
    torch.testing.assert_close(clean[:, 0], alpha, atol=0.015, rtol=0)
    torch.testing.assert_close(clean[:, 3], alpha, atol=0.015, rtol=0)


def test_kept_pairs_are_those_that_the_teacher_drew(tmp_path) -> None:
    """Samples beside the noise they began from, by chi-square against the exact coupling."""
    process = Uniform(2, LogLinear())
    teacher = freeze(BruteForceDenoiser(random_joint(2, 2, seed=3), 2, process, 2))
    law = exact_coupling(teacher, 3)
    pairs = torch.as_tensor(
        rollouts.coupled(teacher, tmp_path / "pairs", 8000, 3, seed=7).train
    ).long()
    assert pairs.shape == (8000, 4)
    counts = torch.zeros(16, dtype=torch.float64)
    counts += torch.bincount(ravel(pairs[:, 2:], 2) * 4 + ravel(pairs[:, :2], 2), minlength=16)
    statistic = ((counts - 8000 * law.flatten()) ** 2 / (8000 * law.flatten())).sum()
    p = torch.special.gammaincc(torch.tensor(7.5).double(), statistic / 2)
    assert float(p) > 1e-4
    # The same coupling with its rows exchanged is not what was drawn.
    wrong = law.flip(0).flatten()
    assert float(((counts - 8000 * wrong) ** 2 / (8000 * wrong)).sum()) > 200
    again = rollouts.coupled(teacher, tmp_path / "pairs", 8000, 3, seed=7)
    assert torch.equal(torch.as_tensor(again.train).long(), pairs)
    unkept = rollouts.coupled(teacher, None, 8000, 3, seed=7)
    assert torch.equal(torch.as_tensor(unkept.train).long(), pairs)


TINY = {"hidden": 16, "blocks": 1, "heads": 2}
OPTIONS = {"batch_size": 16, "lr": 3e-3, "ema": 0.9, "progress": False, "log_every": 5}


@pytest.fixture(scope="module")
def trained():
    tokens = torch.randint(2, (300, 1), generator=torch.Generator().manual_seed(0)).repeat(1, 4)
    teacher = fewjump.train_teacher(
        tokens, Uniform(2, LogLinear()), network=TINY, steps=20, **OPTIONS
    )
    return tokens, teacher


def test_rounds_resume_exactly_in_the_training_and_between_two_pairs(
    trained, tmp_path, monkeypatch
) -> None:
    _, teacher = trained
    objective = Rectification(rounds=2, pairs=300, pair_steps=2)

    def run(out):
        return fewjump.distill(teacher, objective=objective, steps=10, out=out, **OPTIONS)

    whole = run(tmp_path / "whole")
    seen = []
    plain, drawn = Rectification.__call__, rollouts.run

    def watched(self, student, teacher, batch, generator):
        seen.append((self.round, batch.shape))
        if len(seen) == 3:
            raise TrainingInterrupted("stopped by the test")
        return plain(self, student, teacher, batch, generator)

    def cut(teacher, count, *args, first, **options):
        # A batch of 256 of the second round's pairs is on disk.
        if first and (tmp_path / "cut" / ROUNDS / "1" / "model").exists():
            raise KeyboardInterrupt
        return drawn(teacher, count, *args, first=first, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Rectification, "__call__", watched)
        with pytest.raises(TrainingInterrupted):
            run(tmp_path / "cut")
    assert seen == [(1, (16, 8))] * 3
    with monkeypatch.context() as patch:
        patch.setattr(rollouts, "run", cut)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut")
    assert (tmp_path / "cut" / f"{PAIRS}.npy.part").stat().st_size > 256
    again = run(tmp_path / "cut")
    for own, other, before in zip(whole.parameters(), again.parameters(), teacher.parameters()):
        assert torch.equal(own, other)
        if own.dim() > 1 and float(before.detach().abs().sum()) > 0:
            assert not torch.equal(own, before)
    first, second = (tmp_path / "whole" / part / f"{PAIRS}.npy" for part in (f"{ROUNDS}/1", ""))
    assert first.read_bytes() != second.read_bytes()


def test_a_teacher_with_classes_is_rectified_by_class(trained) -> None:
    tokens, _ = trained
    teacher = fewjump.train_teacher(
        tokens,
        Uniform(2, LogLinear()),
        network=TINY,
        classes=2,
        labels=tokens[:, 0],
        steps=2,
        **OPTIONS,
    )
    objective = Rectification(rounds=1, pairs=32, pair_steps=1)
    student = fewjump.distill(teacher, objective=objective, steps=2, **OPTIONS)
    assert student.classes == 2


def test_what_the_method_is_not_for_is_refused(trained, tmp_path) -> None:
    tokens, teacher = trained
    objective = Rectification(rounds=1, pairs=4, pair_steps=1)

    def refused(process, match):
        other = fewjump.train_teacher(tokens, process, network=TINY, steps=1, **OPTIONS)
        with pytest.raises(ValueError, match=match):
            fewjump.distill(other, objective=objective, steps=1, out=tmp_path / "a", **OPTIONS)
        assert not (tmp_path / "a").exists()

    refused(Absorbing(3, LogLinear()), "under a mask .* --process uniform")
    refused(gidd(3, LogLinear()), "stands still")
    out = tmp_path / "b"
    fewjump.distill(teacher, tokens, steps=1, out=out, **OPTIONS)
    with pytest.raises(ResumeError, match="another configuration"):
        fewjump.distill(teacher, objective=objective, steps=1, out=out, **OPTIONS)
    assert not (out / f"{PAIRS}.npy").exists()
