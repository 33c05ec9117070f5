"""The likelihood bound of a few-step sampler, against enumerated paths and exact output laws."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from fewjump.api import build_student
from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.likelihood import one_evaluation_nll, path_bound
from fewjump.law import MixtureLaw, ProductLaw
from fewjump.law.base import enumerate_states
from fewjump.problem import EnumeratedJoint
from fewjump.process import Absorbing, Process, Uniform
from fewjump.sampler import exact_output_law
from fewjump.sampler.moves import JointReverseMove
from fewjump.schedule import LogLinear
from fewjump.verify.table_student import make_world

GRID = (1.0, 0.6, 0.25, 0.0)


def product(rows: Tensor) -> Tensor:
    """The law of independent positions over all states, in the order of ``enumerate_states``."""
    out = rows[0]
    for row in rows[1:]:
        out = (out[:, None] * row).reshape(-1)
    return out


def enumerated(denoiser: Denoiser, x0: Tensor) -> float:
    """The bound of one sequence (L,), by adding up every path."""
    process: Process = denoiser.process
    states = enumerate_states(process.vocab_size, len(x0))
    start = product(process.prior().expand(len(x0), -1))
    total = 0.0
    for t, s in pairwise(GRID):
        now = torch.full((len(states),), t, dtype=torch.float64)
        law = denoiser(states, now)
        clean = x0.expand(len(states), -1)
        if s == 0:
            last = law.log_prob(clean).double()
            return total - float((start * last)[start > 0].sum())
        assert isinstance(law, ProductLaw)
        rows = law.logits.double().softmax(-1)
        rows = torch.nn.functional.pad(rows, (0, process.vocab_size - rows.shape[-1]))
        kernel, first = process.kernel(s, t).dense(), process.kernel(0.0, s).dense()
        after = torch.zeros_like(start)
        for weight, x, p in zip(start, states, rows, strict=True):
            if weight == 0:
                continue
            # Bayes, one position at a time, for each clean token.
            bridges = first[:, :, None] * kernel[None]
            bridges = bridges / bridges.sum(1, keepdim=True)
            from_clean = torch.stack([bridges[a, :, b] for a, b in zip(x0, x, strict=True)])
            q = product(from_clean)
            reach = process.kernel(0.0, t).dense()[:, x].mT > 0
            weights = torch.where(reach, p, 0.0)
            weights = weights / weights.sum(-1, keepdim=True)
            step = torch.stack(
                [
                    torch.nan_to_num(bridges[:, :, b]).mul(w[:, None]).sum(0)
                    for b, w in zip(x, weights, strict=True)
                ]
            )
            step = product(step)
            here = q > 0
            total += float(weight * (q[here] * (q[here] / step[here]).log()).sum())
            after += weight * q
        start = after
    raise AssertionError


@pytest.mark.parametrize("family", ["uniform", "absorbing"])
def test_it_is_the_sum_over_all_paths(family: str) -> None:
    """Of a teacher that errs, so that neither law is the other's."""
    denoiser = make_world(family, 1.0, 3).teacher
    x0 = torch.tensor([2, 0, 3])
    exact = enumerated(denoiser, x0)
    drawn = path_bound(denoiser, x0.expand(20_000, -1), None, GRID, 5, batch_size=20_000)
    error = float(drawn.std()) / len(drawn) ** 0.5
    assert error < 0.01 * exact
    assert abs(float(drawn.mean()) - exact) < 4 * error


@pytest.mark.parametrize("family", ["uniform", "absorbing"])
def test_it_lies_above_the_exact_output_law(family: str) -> None:
    denoiser = make_world(family, 1.0, 4).teacher
    output = exact_output_law(denoiser, None, grid=GRID)
    for x0 in ([0, 1, 2], [3, 3, 0]):
        assert enumerated(denoiser, torch.tensor(x0)) > -float(output[tuple(x0)].log())


def joint_student(seed: int) -> Denoiser:
    """Says of every masked state a mixture of its own, which no truth stands behind."""

    class Student(Denoiser):
        def law(self, x_t: Tensor, t: Tensor) -> MixtureLaw:
            index = (x_t * torch.tensor([16, 4, 1])).sum(-1)
            logits = tables[index].masked_fill((x_t != 3)[:, None, :, None], -torch.inf)
            seen = torch.nn.functional.one_hot(x_t, 4)[..., :3].bool()[:, None]
            return MixtureLaw(logits.masked_fill(seen, 0.0), weights[index])

    generator = torch.Generator().manual_seed(seed)
    tables = 2 * torch.randn(64, 2, 3, 3, dtype=torch.float64, generator=generator)
    weights = torch.randn(64, 2, dtype=torch.float64, generator=generator)
    return Student(Absorbing(4, LogLinear()), 3, 3)


def test_of_a_joint_law_it_is_the_sum_over_all_paths() -> None:
    """Each step's law is the one that the sampler's move enumerates."""
    denoiser, x0 = joint_student(0), torch.tensor([2, 0, 1])
    process, states = denoiser.process, enumerate_states(4, 3)
    reach, exact = product(process.prior().expand(3, -1)), 0.0
    for t, s in pairwise(GRID):
        now, then = (torch.full((64,), v, dtype=torch.float64) for v in (t, s))
        table = JointReverseMove(denoiser(states, now), process, states, now, then).table()
        bridges = torch.nan_to_num(
            process.bridge_marginals(states, x0.expand(64, -1), then, now).double()
        )
        q = torch.stack([product(rows) for rows in bridges])
        cost = (torch.xlogy(q, q) - torch.xlogy(q, table)).sum(1)
        exact += float((reach * cost)[reach > 0].sum())
        reach = reach @ q
    drawn = path_bound(denoiser, x0.expand(20_000, -1), None, GRID, 5, batch_size=20_000)
    error = float(drawn.std()) / len(drawn) ** 0.5
    assert error < 0.01 * exact
    assert abs(float(drawn.mean()) - exact) < 4 * error
    output = exact_output_law(denoiser, None, grid=GRID)
    assert exact > -float(output[tuple(x0.tolist())].log())


def test_one_masked_step_is_the_likelihood_itself() -> None:
    truth = EnumeratedJoint.random(3, 2, 1.0, torch.Generator().manual_seed(0))
    denoiser = truth.denoiser(Absorbing(4, LogLinear()))
    x0 = truth.sample(50, torch.Generator().manual_seed(1))
    assert float(path_bound(denoiser, x0, 1).mean() / 2) == pytest.approx(
        one_evaluation_nll(denoiser, x0)[0], abs=1e-12
    )


def test_paths_do_not_depend_on_the_batches() -> None:
    truth = EnumeratedJoint.random(3, 2, 1.0, torch.Generator().manual_seed(0))
    denoiser = truth.denoiser(Uniform(3, LogLinear()))
    x0 = truth.sample(20, torch.Generator().manual_seed(1))
    before = denoiser.evaluations
    whole = path_bound(denoiser, x0, 4, "cosine", 1)
    assert torch.equal(whole, path_bound(denoiser, x0, 4, "cosine", 1, batch_size=7))
    assert denoiser.evaluations == before


def test_what_has_no_such_bound_is_refused() -> None:
    truth = EnumeratedJoint.random(3, 2, 1.0, torch.Generator().manual_seed(0))
    x0 = truth.sample(4, torch.Generator().manual_seed(1))
    process = Absorbing(4, LogLinear())
    with pytest.raises(ValueError, match="joint"):
        path_bound(truth.denoiser(Uniform(3, LogLinear()), joint=True), x0, 2)
    head = build_student(
        truth.denoiser(process), "any-order", None, {"width": 8}, False, 2, 0, None
    )
    with pytest.raises(ValueError, match="condition exactly"):
        path_bound(head, x0, 2)
    with pytest.raises(ValueError, match="end at 0"):
        path_bound(truth.denoiser(process), x0, None, [1.0, 0.5, 0.1])
    with pytest.raises(ValueError, match="keeps"):
        path_bound(truth.denoiser(Absorbing(4, LogLinear(), kept=[0])), x0, 2)


def test_what_cannot_be_costs_infinity_in_any_number_of_steps() -> None:
    truth = EnumeratedJoint(torch.tensor([[0.5, 0.0], [0.2, 0.3]]))
    x0 = torch.tensor([[0, 1], [1, 1]])
    for joint, steps in ((True, 1), (True, 4), (False, 4)):
        found = path_bound(truth.denoiser(Absorbing(3, LogLinear()), joint=joint), x0, steps)
        assert (found == torch.inf).tolist() == [True, False]
