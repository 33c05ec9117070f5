"""Joint conditional matching on enumerated worlds: its optimum, its bias, its draws."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from fewjump.denoiser import LogitDenoiser, NetworkDenoiser
from fewjump.denoiser.base import Denoiser
from fewjump.law.base import Law, enumerate_states, ravel, unravel
from fewjump.law.product import ProductLaw
from fewjump.objective import ConditionalMatching, JointConditionalMatching, freeze
from fewjump.objective.intermediate import bridge_path, forward_path, rollout_path
from fewjump.objective.teacher_time import ADAPTIVE_SHARES, choose_target
from fewjump.problem import EnumeratedJoint, FiniteSupport, joint_target, mixture_bias
from fewjump.process import Absorbing, Process, ResetToPrior, Uniform, gidd
from fewjump.random import SampleStreams, categorical, generator_for
from fewjump.sampler.exact import exact_output_law
from fewjump.schedule import Linear, LogLinear
from fewjump.train.setup import describe

V, L = 3, 2
PROCESSES: list[Process] = [
    Uniform(V, Linear(4.0)),
    ResetToPrior(torch.tensor([0.6, 0.3, 0.1]), Linear(4.0)),
    Absorbing(V + 1, LogLinear()),
    gidd(V + 1, Linear(4.0), 0.3),
]
NAMES = ["uniform", "prior", "absorbing", "gidd"]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=NAMES)


class TableLaw(Law):
    """A free joint law: (B, V^L) logits over all sequences."""

    def __init__(self, logits: Tensor, vocab_size: int, length: int) -> None:
        self.logits, self.vocab_size, self.length = logits, vocab_size, length
        self.batch_size = logits.shape[0]

    @property
    def device(self) -> torch.device:
        return self.logits.device

    def log_prob(self, x0: Tensor) -> Tensor:
        index = ravel(x0, self.vocab_size)[:, None]
        return self.logits.log_softmax(-1).gather(-1, index)[:, 0]

    def sample(self, generator=None) -> Tensor:
        index = categorical(self.logits.detach().softmax(-1), generator)
        return unravel(index, self.vocab_size, self.length)

    def marginals(self) -> Tensor:
        states = enumerate_states(self.vocab_size, self.length)
        one_hot = nn.functional.one_hot(states, self.vocab_size).double()
        return torch.einsum("bn,nlv->blv", self.logits.softmax(-1), one_hot)

    def enumerate(self) -> Tensor:
        return self.logits.log_softmax(-1)

    def tempered(self, temperature: float = 1.0, top_p: float = 1.0) -> TableLaw:
        return self

    def select(self, rows: Tensor) -> TableLaw:
        return TableLaw(self.logits[rows], self.vocab_size, self.length)

    def given(self, x0: Tensor, known: Tensor) -> TableLaw:
        return self


class TableStudent(Denoiser):
    """A free joint law for every x_t, whatever the time."""

    def __init__(self, process: Process, length: int, posterior: Tensor) -> None:
        super().__init__(process, length)
        self.table = nn.Parameter(posterior.log().clamp(min=-60.0))

    def law(self, x_t: Tensor, t: Tensor) -> TableLaw:
        rows = self.table[ravel(x_t, self.process.vocab_size)]
        return TableLaw(rows, self.process.vocab_size, x_t.shape[1])


def world(process: Process, roughness: float = 1.5):
    problem = EnumeratedJoint.random(V, L, roughness, generator_for(3))
    states = enumerate_states(process.vocab_size, L)
    return problem, states


def expected_gradient(problem, process, student, s: float, t: float) -> Tensor:
    """Of the loss per sequence to the student's table: Σ over paths and draws, enumerated."""
    states = enumerate_states(process.vocab_size, problem.length)
    weight = problem.noised(process, t).reshape(-1, 1)
    target = joint_target(problem, process, s, t)
    loss = -(weight * target * student(states, t).enumerate()).sum()
    return torch.autograd.grad(loss, student.table)[0]


@every_process
def test_the_true_joint_posterior_is_the_optimum_as_s_goes_to_zero(process):
    problem, states = world(process)
    t = 0.7
    student = TableStudent(process, L, problem.posterior(states, t, process).enumerate().exp())
    sizes = [
        float(expected_gradient(problem, process, student, s, t).abs().sum())
        for s in (0.5, 0.1, 1e-3, 0.0)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 1e-2
    assert sizes[-1] < 1e-12
    # At s > 0 the pull is the gap between the truth and the mixture of products, no more.
    gap = problem.posterior(states, t, process).enumerate().exp()
    gap = gap - joint_target(problem, process, 0.5, t)
    reached = problem.noised(process, t).reshape(-1, 1)
    expected = reached * gap
    ours = expected_gradient(problem, process, student, 0.5, t)
    torch.testing.assert_close(ours, expected, atol=1e-12, rtol=0)


@every_process
def test_the_bias_falls_to_zero_with_s_below_the_total_correlation(process):
    problem, _ = world(process)
    t = 0.8
    times = (0.8, 0.6, 0.4, 0.2, 0.1, 0.01, 0.0)
    bias = [mixture_bias(problem, process, s, t) for s in times]
    assert all(a > b for a, b in pairwise(bias))
    assert bias[-1] < 1e-12
    floors = [problem.product_floor(process, s).value for s in times]
    assert bias[0] == pytest.approx(floors[0], abs=1e-12)
    assert all(b < f for b, f in list(zip(bias, floors))[1:-1])


def test_the_bias_equals_a_sum_over_every_state():
    process = Uniform(V, Linear(4.0))
    problem, states = world(process)
    s, t = 0.3, 0.9
    probs = problem.probs.reshape(-1)

    def noise(a: float, b: float) -> Tensor:
        kernel = process.kernel(a, b).dense()
        return kernel[states[:, None, :], states[None, :, :]].prod(-1)

    total = 0.0
    p_s = probs @ noise(0.0, s)
    for x_t in range(len(states)):
        joint_s = p_s * noise(s, t)[:, x_t]
        p_t = joint_s.sum()
        mixture = torch.zeros_like(probs)
        for x_s in range(len(states)):
            posterior = probs * noise(0.0, s)[:, x_s]
            grid = (posterior / posterior.sum()).reshape(V, V)
            product = torch.outer(grid.sum(1), grid.sum(0)).reshape(-1)
            mixture += joint_s[x_s] / p_t * product
        truth = probs * noise(0.0, t)[:, x_t] / p_t
        total += float(p_t * (truth * (truth / mixture).log()).sum())
    assert mixture_bias(problem, process, s, t) == pytest.approx(total, rel=1e-10)


def test_the_bias_refuses_what_it_cannot_enumerate():
    problem = EnumeratedJoint.random(4, 6, generator=generator_for(0))
    with pytest.raises(ValueError, match="smaller problem"):
        mixture_bias(problem, Absorbing(5, LogLinear()), 0.1, 1.0)
    with pytest.raises(ValueError, match="s <= t"):
        mixture_bias(problem, Uniform(4, LogLinear()), 0.5, 0.1)


@every_process
@pytest.mark.parametrize("intermediate", ["forward", "student"])
@pytest.mark.parametrize("draws", [1, 3])
def test_the_loss_is_unbiased(process, intermediate, draws):
    """Mean and gradient of the sampled loss against the enumerated ones, at the true posterior.

    There the student's own step is exact too, so both ways to draw x_s have one expectation.
    """
    problem, states = world(process)
    t, share, rows = 0.8, 0.5, 60_000
    student = TableStudent(process, L, problem.posterior(states, t, process).enumerate().exp())
    objective = JointConditionalMatching(intermediate, near=share, draws=draws, grid=(t, 0.0))
    batch = problem.sample(rows, generator_for(1))
    teacher = freeze(problem.denoiser(process))
    loss, metrics = objective(student, teacher, batch, generator_for(2))
    weight = problem.noised(process, t).reshape(-1, 1)
    target = joint_target(problem, process, share * t, t)
    surprise = -student.table.detach().log_softmax(-1)
    used = weight * target > 0
    mean = float((weight * target)[used] @ surprise[used])
    variance = float((weight * target)[used] @ surprise[used] ** 2) - mean**2
    assert float(loss.detach()) * L == pytest.approx(mean, abs=5 * (variance / rows) ** 0.5)
    assert float(metrics["cross_entropy"]) == pytest.approx(float(loss.detach()))
    assert float(metrics["source_time"]) == pytest.approx(share * t)
    loss.backward()
    assert student.table.grad is not None
    # Each entry of the gradient is a mean over rows of a variable within [−1, 1].
    expected = expected_gradient(problem, process, student, share * t, t)
    deviation = (weight * (target + weight.new_tensor(1e-4))).clamp(max=0.25).sqrt()
    error = (student.table.grad * L - expected).abs()
    assert bool((error <= 5 * deviation * (1 / rows) ** 0.5 + 1e-6).all())
    assert float(expected.abs().max()) > 0.005


@every_process
def test_more_draws_mean_less_noise_and_the_same_mean(process):
    problem, states = world(process)
    student = TableStudent(process, L, problem.posterior(states, 0.8, process).enumerate().exp())
    teacher = freeze(problem.denoiser(process))
    batch = problem.sample(32, generator_for(1))

    def losses(draws: int) -> Tensor:
        objective = JointConditionalMatching(near=0.9, draws=draws, grid=(0.8, 0.0))
        values = [
            objective(student, teacher, batch, generator_for(k))[0].detach() for k in range(200)
        ]
        return torch.stack(values)

    one, many = losses(1), losses(8)
    assert many.var() < 0.8 * one.var()
    assert abs(float(one.mean() - many.mean())) < 4 * float((one.var() / 200 * 2) ** 0.5)


@every_process
def test_a_product_student_has_the_per_position_loss(process):
    """For a product student the joint form is the paper's, with nothing drawn from the teacher."""
    problem, _ = world(process)
    network = nn.Embedding(process.vocab_size, process.vocab_size, dtype=torch.float64)
    student = LogitDenoiser(lambda x, t: network(x), process, L)
    teacher = freeze(problem.denoiser(process))
    batch = problem.sample(64, generator_for(1))
    objective = JointConditionalMatching(near=0.5, grid=(0.8, 0.0), draws=4)
    loss, metrics = objective(student, teacher, batch, SampleStreams(7, torch.arange(64)))
    generator = SampleStreams(7, torch.arange(64))
    t = torch.full((64,), 0.8, dtype=torch.float64)
    generator.calls = 1  # the times
    x_t, x_s = forward_path(process, batch, torch.stack([t, t / 2]), generator)
    target = teacher(x_s, t / 2)
    assert isinstance(target, ProductLaw)
    expected = student(x_t, t).cross_entropy(target).mean() / L
    torch.testing.assert_close(loss, expected)
    bound = target.entropy().sum(-1) - target.entropy().amax(-1)
    assert float(metrics["bias_bound"]) == pytest.approx(float(bound.mean()) / L)
    assert float(metrics["teacher_entropy"]) == pytest.approx(float(target.entropy().mean()))


@every_process
def test_every_number_of_steps_is_exact_with_an_exact_joint_student(process):
    problem, _ = world(process)
    joint, product = problem.denoiser(process, joint=True), problem.denoiser(process)
    for steps in (1, 2, 5):
        # The prior of a schedule that ends at a finite noise level is not p_1 itself.
        law = exact_output_law(joint, steps)
        start = problem.noised(process, 1.0).reshape(-1)
        prior = exact_output_law(joint, 1)
        slack = float((prior - problem.probs).abs().sum())
        left = process.schedule.alpha(1.0)
        assert slack <= 4 * L * float(left)
        torch.testing.assert_close(law, problem.probs, atol=2 * slack + 1e-12, rtol=0)
        assert start.sum() == pytest.approx(1.0)
        error = float((exact_output_law(product, steps) - problem.probs).abs().sum())
        assert error > 10 * slack + 1e-3


# -- paths and the choice of s ------------------------------------------------------------------


@every_process
@pytest.mark.parametrize("how", ["forward", "bridge", "rollout"])
def test_paths_follow_the_law_of_the_noised_data(process, how):
    """Frequencies of the pair (x_s, x_u) against the enumerated joint, times in any order."""
    problem, states = world(process)
    rows, s, u, t = 40_000, 0.2, 0.5, 0.8
    times = torch.tensor([s, u], dtype=torch.float64)[:, None].expand(2, rows)
    data = problem.sample(rows, generator_for(1))
    late = torch.full((rows,), t, dtype=torch.float64)
    joint = problem.denoiser(process, joint=True)
    generator = generator_for(2)
    if how == "forward":
        path = forward_path(process, data, times, generator)
    else:
        x_t = process.corrupt(data, 0.0, late, generator)
        if how == "bridge":
            path = bridge_path(process, joint(x_t, late), x_t, late, times, generator)
        else:
            path = rollout_path(joint, x_t, late, times, 2, generator)

    def noise(a: float, b: float) -> Tensor:
        return process.kernel(a, b).dense()[states[:, None, :], states[None, :, :]].prod(-1)

    exact = problem.noised(process, s).reshape(-1, 1) * noise(s, u)
    count = len(states)
    index = ravel(path[0], process.vocab_size) * count + ravel(path[1], process.vocab_size)
    seen = torch.bincount(index, minlength=count**2).double() / rows
    spread = (exact.flatten() * (1 - exact.flatten()) / rows).sqrt()
    assert bool(((seen - exact.flatten()).abs() <= 5 * spread + 1e-4).all())


@every_process
def test_paths_with_equal_times_stand_still(process):
    problem, _ = world(process)
    data = problem.sample(50, generator_for(1))
    times = torch.full((3, 50), 0.6, dtype=torch.float64)
    generator = generator_for(2)
    path = forward_path(process, data, times, generator)
    late = times[0]
    joint = problem.denoiser(process, joint=True)
    back = bridge_path(process, joint(path[0], late), path[0], late, times, generator)
    rolled = rollout_path(joint, path[0], late, times, 2, generator)
    for states in (path, back, rolled):
        assert torch.equal(states, path[0].expand(3, -1, -1))


@every_process
def test_the_adaptive_choice_keeps_the_mixture_and_its_bound(process):
    """Averaged over paths, the chosen targets have the marginals of p(x₀|x_t): a stopping time."""
    problem, _ = world(process)
    teacher = freeze(problem.denoiser(process))
    rows, t = 40_000, 0.9
    x_t = problem.sample(1, generator_for(4)).expand(rows, -1)
    if isinstance(process, Absorbing):
        x_t = torch.full_like(x_t, process.mask)
    late = torch.full((rows,), t, dtype=torch.float64)
    shares = torch.tensor([*ADAPTIVE_SHARES, 0.001 / t], dtype=torch.float64)
    times = shares[:, None] * late
    joint = problem.denoiser(process, joint=True)(x_t, late)
    path = bridge_path(process, joint, x_t, late, times, generator_for(5))
    tolerance = 0.3
    target = choose_target(teacher, path, times, tolerance)
    assert isinstance(target.law, ProductLaw)
    assert len(target.s.unique()) > 1
    inside = (target.bias_bound <= tolerance) | (target.s == times[-1])
    assert bool(inside.all())
    chosen = target.law.marginals()
    error = (chosen.mean(0) - joint.marginals()[0]).abs()
    assert bool((error <= 5 * chosen.std(0) / rows**0.5 + 1e-6).all())
    # The bound holds: TC of the exact joint at the chosen state.
    for time in target.s.unique():
        here = (target.s == time).nonzero()[:50, 0]
        level = int((times[:, 0] == time).nonzero()[0])
        law = problem.posterior(path[level][here], time, process)
        slack = target.bias_bound[here] - law.total_correlation()
        assert float(slack.min()) > -1e-9


def test_padding_does_not_loosen_the_adaptive_choice(monkeypatch) -> None:
    """The tolerance is per position, and what noise never hides is none: at every length the bounds
    of what is chosen are within that of the two tokens that are hidden."""
    process, tolerance = Uniform(4, LogLinear(), kept=(3,)), 0.02
    found: list[Tensor] = []

    def spied(*arguments):
        target = choose_target(*arguments)
        found.append(target.bias_bound[target.s > 0.05])
        return target

    monkeypatch.setattr("fewjump.objective.joint.choose_target", spied)
    pairs = torch.tensor([[0, 0], [1, 1], [2, 2], [0, 1]])
    for length in (2, 8, 32):
        rows = torch.full((4, length), 3)
        rows[:, :2] = pairs
        problem = FiniteSupport(rows, torch.tensor([0.3, 0.3, 0.3, 0.1]), vocab_size=4)
        teacher, student = (problem.denoiser(process, joint=joint) for joint in (False, True))
        objective = JointConditionalMatching("forward", near="adaptive", tolerance=tolerance)
        objective(student, freeze(teacher), problem.sample(500, generator_for(0)), generator_for(1))
    for bound in found:
        assert len(bound) > 50
        assert float(bound.max()) <= 2 * tolerance


# -- the whole objective ------------------------------------------------------------------------


def network(process: Process, kind: str, problem: EnumeratedJoint) -> NetworkDenoiser:
    torch.manual_seed(0)
    trunk = {"hidden": 16, "blocks": 1, "heads": 2, "condition_dim": 8}
    return NetworkDenoiser.from_config(
        {
            "process": process.config(),
            "trunk": trunk,
            "head": {"kind": kind},
            "length": problem.length,
        }
    )


@pytest.mark.parametrize("process", [PROCESSES[0], PROCESSES[2]], ids=["uniform", "absorbing"])
@pytest.mark.parametrize("kind", ["product", "mixture", "chain", "autoregressive"])
@pytest.mark.parametrize(
    "options",
    [
        {"near": "adaptive"},
        {"near": "uniform", "draws": 2, "data_weight": 0.5},
        {"near": 0.3, "consistency": 0.5},
        {"near": 0.3, "draws": 2, "summed": True},
        {"near": "adaptive", "consistency": 0.7, "steps": 3},
        {"intermediate": "teacher-rollout", "near": "adaptive", "consistency": 0.3},
        {"intermediate": "student", "near": "uniform", "consistency": 0.3, "data_weight": 1.0},
        {"intermediate": "teacher-rollout", "steps": 1, "weighting": "elbo"},
    ],
    ids=str,
)
def test_every_combination_trains_every_student(process, kind, options):
    problem, _ = world(process)
    student = network(process, kind, problem)
    teacher = freeze(problem.denoiser(process))
    objective = JointConditionalMatching(**options)
    objective.check(student, teacher)
    batch = problem.sample(16, generator_for(1))
    loss, metrics = objective(student, teacher, batch, SampleStreams(3, torch.arange(16)))
    loss.backward()
    grads = [p.grad for p in student.parameters() if p.grad is not None]
    assert loss.isfinite()
    assert all(bool(g.isfinite().all()) for g in grads)
    assert any(float(g.abs().max()) > 0 for g in grads)
    assert all(bool(m.isfinite()) and not m.requires_grad for m in metrics.values())
    assert ("data_nll" in metrics) == bool(options.get("data_weight"))
    assert ("consistency_cross_entropy" in metrics) == bool(options.get("consistency"))


@pytest.mark.parametrize("intermediate", ["forward", "student", "teacher-rollout"])
def test_the_loss_does_not_depend_on_how_the_batch_is_split(intermediate):
    process = PROCESSES[2]
    problem, _ = world(process)
    student = network(process, "chain", problem).double()
    teacher = freeze(problem.denoiser(process))
    objective = JointConditionalMatching(intermediate, near="adaptive", consistency=0.5)
    batch = problem.sample(12, generator_for(1))
    whole = objective(student, teacher, batch, SampleStreams(3, torch.arange(12)))[0]
    parts = [
        objective(student, teacher, batch[i : i + 4], SampleStreams(3, torch.arange(i, i + 4)))[0]
        for i in (0, 4, 8)
    ]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_consistency_leaves_the_optimum_where_it_is():
    """At the true posterior the student's own target at u has the same expected gradient: 0."""
    process = PROCESSES[0]
    problem, _ = world(process)
    times = (0.8, 0.4, 0.0)
    exact = problem.denoiser(process, joint=True)

    class Exact(Denoiser):
        """The exact posterior plus free logits: one for every x₀ (no x_t)."""

        def __init__(self) -> None:
            super().__init__(process, L)
            self.free = nn.Parameter(torch.zeros(V**L, dtype=torch.float64))

        def law(self, x_t: Tensor, t: Tensor) -> TableLaw:
            return TableLaw(exact(x_t, t).enumerate() + self.free, V, L)

    rows = 60_000
    student, teacher = Exact(), freeze(problem.denoiser(process))
    objective = JointConditionalMatching(near="zero", grid=times, consistency=1.0)
    batch = problem.sample(rows, generator_for(1))
    loss, _ = objective(student, teacher, batch, generator_for(2))
    loss.backward()
    assert student.free.grad is not None
    spread = (problem.probs.reshape(-1) / rows).sqrt()
    assert bool((student.free.grad.abs() * L <= 5 * spread).all())
    # And it notices a student that is wrong.
    student.zero_grad()
    student.free.data[0] = 1.0
    objective(student, teacher, batch, generator_for(2))[0].backward()
    assert bool((student.free.grad.abs() * L > 20 * spread).any())


def test_the_gain_over_the_product_law_is_zero_at_its_own_law_and_the_correlation_at_the_joint():
    process = PROCESSES[2]
    problem, states = world(process, 3.0)
    teacher = freeze(problem.denoiser(process))
    rows = 80_000
    batch = problem.sample(rows, generator_for(1))
    objective = JointConditionalMatching(near="zero", steps=1, min_time=1e-6)
    posterior = problem.posterior(states, 1.0, process).enumerate().exp()
    student = TableStudent(process, L, posterior)
    gain = float(objective(student, teacher, batch, generator_for(2))[1]["gain_over_product"])
    marginals = problem.marginals()
    pointwise = (problem.probs / torch.outer(marginals[0], marginals[1])).log()
    correlation = float((problem.probs * pointwise).sum())
    assert correlation == pytest.approx(problem.one_step_floor())
    spread = float((problem.probs * (pointwise - correlation) ** 2).sum() / (rows / 8)) ** 0.5
    assert correlation > 20 * spread
    assert gain == pytest.approx(correlation, abs=5 * spread)
    exact_product = LogitDenoiser(lambda x, t: teacher(x, t).logits, process, L)
    metrics = objective(exact_product, teacher, batch[:800], generator_for(2))[1]
    assert abs(float(metrics["gain_over_product"])) < 1e-12


def test_a_joint_teacher_has_no_bias_and_is_matched():
    process = PROCESSES[0]
    problem, _ = world(process)
    teacher = freeze(problem.denoiser(process, joint=True))
    student = network(process, "mixture", problem)
    batch = problem.sample(32, generator_for(1))
    for near in ("adaptive", 0.5):
        loss, metrics = JointConditionalMatching(near=near)(
            student, teacher, batch, generator_for(2)
        )
        assert loss.isfinite()
        assert float(metrics["bias_bound"]) == 0
        assert "gain_over_product" not in metrics


def test_one_step_matching_agrees_with_conditional_matching_for_products():
    """Same fixed point: the gradient at the teacher's own product law vanishes on average."""
    process = PROCESSES[2]
    problem, _ = world(process)
    teacher = freeze(problem.denoiser(process))
    logits = nn.Parameter(problem.marginals().log())

    def network(x: Tensor, t: Tensor) -> Tensor:
        padded = nn.functional.pad(logits, (0, 1), value=-torch.inf)
        return padded.expand(x.shape[0], -1, -1)

    batch = problem.sample(50_000, generator_for(1))
    joint = JointConditionalMatching(near="zero", steps=1)
    for objective in (joint, ConditionalMatching("forward", steps=1)):
        logits.grad = None
        student = LogitDenoiser(network, process, L)
        objective(student, teacher, batch, generator_for(2))[0].backward()
        assert logits.grad is not None
        assert float(logits.grad.abs().max()) < 5 * 0.5 / 50_000**0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"intermediate": "student-euler"}, "teacher-rollout"),
        ({"near": "close"}, "adaptive"),
        ({"near": 1.0}, "share"),
        ({"draws": 0}, "draws"),
        ({"min_time": 0.0}, "min_time"),
        ({"consistency": 1.5}, "consistency"),
        ({"consistency": 0.5, "steps": 1}, "more steps"),
        ({"data_weight": 1.0, "intermediate": "teacher-rollout"}, "data_weight=0"),
        ({"grid": (1.0, 0.0005, 0.0)}, "min_time"),
        ({"grid": (1.0, 0.0), "steps": 2}, "not both"),
        ({"weighting": "snr"}, "elbo"),
        ({"rollout_steps": 0}, "rollout_steps"),
        ({"tolerance": 0.0}, "tolerance"),
    ],
    ids=str,
)
def test_mistakes_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        JointConditionalMatching(**options)


def test_sums_over_large_vocabularies_are_refused():
    process = Absorbing(8193, LogLinear())
    student, teacher = (LogitDenoiser(lambda x, t: x, process, 2) for _ in range(2))
    with pytest.raises(ValueError, match="8,192"):
        JointConditionalMatching(summed=True).check(student, freeze(teacher))


def test_a_teacher_must_be_frozen():
    process = PROCESSES[2]
    problem, _ = world(process)
    student = network(process, "chain", problem)
    with pytest.raises(ValueError, match="freeze"):
        JointConditionalMatching()(
            student, problem.denoiser(process), problem.sample(4), generator_for(0)
        )


def test_what_is_not_summed_does_not_identify_a_run():
    """Runs that were begun before there was the option go on."""
    assert "summed" not in describe(JointConditionalMatching())
    assert describe(JointConditionalMatching(summed=True))["summed"] is True
    assert not JointConditionalMatching().summed
