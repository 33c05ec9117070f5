"""Conditional matching on enumerated worlds: its fixed point, its bias, and that it gets there."""

from __future__ import annotations

import pytest
import torch
from tabular import BruteForceDenoiser, TabularStudent, gradient_at_teacher, random_joint

from fewjump.law.base import enumerate_states, ravel
from fewjump.objective import ConditionalMatching, freeze
from fewjump.process import (
    Absorbing,
    Process,
    ResetToPrior,
    SummedRates,
    TimeVaryingRate,
    Uniform,
    birth_death_rate,
    gidd,
)
from fewjump.schedule import Linear, LogLinear

V = 3
WALKS = birth_death_rate(V, up=1.5), birth_death_rate(V, down=1.5)
PROCESSES: list[tuple[Process, int]] = [
    (Uniform(V, Linear(4.0)), V),
    (ResetToPrior(torch.tensor([0.6, 0.3, 0.1]), Linear(4.0)), V),
    (Absorbing(V + 1, LogLinear()), V),
    (gidd(V + 1, Linear(4.0), 0.3), V),
    (TimeVaryingRate(SummedRates(WALKS, [0, 1], [[1, 0.2], [0, 1]]), Linear(4.0)), V),
]


@pytest.mark.parametrize(("process", "clean"), PROCESSES, ids=lambda p: str(p))
def test_teacher_is_the_fixed_point_when_x_s_is_drawn_exactly(process, clean):
    assert gradient_at_teacher(3, process, clean, "forward", 0.3) < 1e-15


# The walks have mixed so well at t = 0.6 that their bias, 8e-7, says nothing about the method.
@pytest.mark.parametrize(("process", "clean"), PROCESSES[:-1], ids=lambda p: str(p))
def test_exact_student_draw_is_biased_once_positions_are_dependent(process, clean):
    """Drawing positions independently is harmless for one, and for two under masking (a mask and
    one visible neighbour), not for three."""
    assert gradient_at_teacher(1, process, clean, "student-exact", 0.3) < 1e-15
    assert gradient_at_teacher(3, process, clean, "student-exact", 0.3) > 1e-5
    if isinstance(process, Absorbing):
        assert gradient_at_teacher(2, process, clean, "student-exact", 0.3) < 1e-15


def test_euler_draw_biases_the_fixed_point_to_second_order_in_the_step():
    """One Euler step errs by O(Δt²), so the gradient at the teacher does too."""
    process = PROCESSES[0][0]
    wide = gradient_at_teacher(1, process, V, "student-euler", 0.02)
    narrow = gradient_at_teacher(1, process, V, "student-euler", 0.01)
    assert narrow > 1e-6
    assert wide / narrow == pytest.approx(4, abs=0.3)


def test_euler_equals_the_exact_step_when_masking_is_log_linear():
    """α linear in t: the unmasking probability (t−s)/t is what Euler gives, so there is no bias."""
    assert gradient_at_teacher(1, Absorbing(V + 1, LogLinear()), V, "student-euler", 0.3) < 1e-15


@pytest.mark.parametrize("how", ["student-euler", "student-exact", "forward", "teacher-rollout"])
def test_tabular_student_reaches_the_exact_posterior(how):
    """One position, so that every mode but Euler has the teacher as its exact fixed point."""
    process, grid = Uniform(V, Linear(3.0)), (1.0, 0.75, 0.5, 0.25)
    probs = torch.tensor([0.7, 0.25, 0.05], dtype=torch.float64)
    teacher = freeze(BruteForceDenoiser(probs, 1, process, V))
    student = TabularStudent(process, 1, list(grid[:-1]))
    objective = ConditionalMatching(
        how, grid=grid, max_gap=0.05 if how == "student-euler" else 1.0, rollout_steps=2
    )
    batch_generator = torch.Generator().manual_seed(0)
    average = torch.zeros_like(student.table)
    rounds, tail = 300, 180
    optimiser = torch.optim.Adam(student.parameters(), lr=0.05)
    for step in range(rounds):
        for group in optimiser.param_groups:
            group["lr"] = 0.1 * (1 - step / rounds) + 0.003
        batch = torch.multinomial(probs, 2048, replacement=True, generator=batch_generator)
        loss, _ = objective(student, teacher, batch[:, None], batch_generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step >= rounds - tail:
            average += student.table.detach().softmax(-1) / tail
    states = enumerate_states(V, 1)
    for k, time in enumerate(grid[:-1]):
        exact = teacher(states, time).marginals()
        assert (average[k] - exact).abs().max() < 0.012, (how, time)


def test_masked_positions_alone_carry_loss_and_nothing_is_nan(generator):
    process = Absorbing(V + 1, LogLinear())
    teacher = freeze(BruteForceDenoiser(random_joint(V, 3), 3, process, V))
    student = TabularStudent(process, 3, [1.0, 0.5])
    batch = torch.randint(V, (64, 3), generator=generator)
    objective = ConditionalMatching("forward", steps=2)
    loss, metrics = objective(student, teacher, batch, generator)
    loss.backward()
    assert student.table.grad is not None
    assert student.table.grad.isfinite().all()
    states = enumerate_states(V + 1, 3)
    visible = states != process.mask
    assert student.table.grad[:, ravel(states, V + 1)][:, visible].abs().max() == 0
    assert student.table.grad.abs().max() > 0
    assert all(bool(torch.as_tensor(v).isfinite()) for v in metrics.values())


@pytest.mark.parametrize("how", ["student-euler", "student-exact", "forward", "teacher-rollout"])
@pytest.mark.parametrize("steps", [None, 1, 4])
def test_each_form_gives_finite_losses_and_metrics(how, steps, generator):
    process = Uniform(V, LogLinear())
    teacher = freeze(BruteForceDenoiser(random_joint(V, 2), 2, process, V))
    student = TabularStudent(process, 2, [1.0, 0.75, 0.5, 0.25])
    objective = ConditionalMatching(how, steps=steps, weighting="elbo")
    batch = torch.randint(V, (32, 2), generator=generator)
    loss, metrics = objective(student, teacher, batch, generator)
    loss.backward()
    assert loss.isfinite()
    assert {"kl_to_teacher", "clipped_mass", "student_entropy", "teacher_entropy"} <= set(metrics)
    assert float(metrics["kl_to_teacher"]) > 0
    assert not any(v.requires_grad for v in metrics.values())
    assert teacher.evaluations > 0


def test_one_step_form_asks_the_student_at_time_one_only(generator):
    process = Uniform(V, LogLinear())
    seen: dict[str, list[torch.Tensor]] = {"teacher": [], "student": []}

    class Watch(TabularStudent):
        name = "student"

        def law(self, x_t, t):
            seen[self.name].append(t)
            return super().law(x_t, t)

    student, teacher = Watch(process, 2, [1.0]), Watch(process, 2, [1.0])
    teacher.name = "teacher"
    batch = torch.randint(V, (4096, 2), generator=generator)
    ConditionalMatching("forward", steps=1)(student, freeze(teacher), batch, generator)
    assert (seen["student"][0] == 1).all()
    s = seen["teacher"][0]
    assert s.min() < 0.01
    assert s.max() > 0.99
    assert abs(float(s.mean()) - 0.5) < 0.02


def test_weights_scale_the_loss(generator):
    process = Uniform(V, LogLinear())
    teacher = freeze(BruteForceDenoiser(random_joint(V, 2), 2, process, V))
    student = TabularStudent(process, 2, [1.0])
    batch = torch.randint(V, (32, 2), generator=generator)

    def loss(weighting):
        objective = ConditionalMatching("forward", weighting=weighting)
        return objective(student, teacher, batch, torch.Generator().manual_seed(4))[0]

    torch.testing.assert_close(loss(lambda t: torch.full_like(t, 3.0)), 3 * loss("uniform"))


def test_an_unfrozen_or_missing_teacher_is_refused(generator):
    process = Uniform(V, LogLinear())
    student = TabularStudent(process, 2, [1.0])
    other = TabularStudent(process, 2, [1.0])
    batch = torch.zeros(4, 2, dtype=torch.int64)
    objective = ConditionalMatching("forward")
    for teacher, words in ((None, "teacher"), (student, "same object"), (other, "freeze")):
        with pytest.raises(ValueError, match=words):
            objective(student, teacher, batch, generator)
    with pytest.raises(ValueError, match="different processes"):
        objective.check(student, freeze(TabularStudent(Uniform(V, Linear(2.0)), 2, [1.0])))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"intermediate": "euler"}, "student-euler"),
        ({"steps": 0}, "at least 1"),
        ({"steps": 2, "grid": (1.0, 0.0)}, "not both"),
        ({"grid": (0.5, 0.7, 0.0)}, "grid"),
        ({"grid": (1.0, 0.4, 0.4, 0.0)}, "decreasing"),
        ({"weighting": "sigmoid"}, "sigma"),
        ({"min_time": 0.0}, "min_time"),
        ({"max_gap": 0.0}, "max_gap"),
        ({"rollout_steps": 0}, "rollout_steps"),
    ],
)
def test_bad_options_say_what_is_allowed(options, words):
    with pytest.raises(ValueError, match=words):
        ConditionalMatching(**options)
