"""A head onto a large vocabulary: training and sampling never hold its logits, and are the same."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from fewjump import inversion
from fewjump.denoiser import NetworkDenoiser, ScoreDenoiser, constrain, recovered
from fewjump.law import cross_entropy, logit_pass, logits
from fewjump.law.product import ProductLaw
from fewjump.objective import (
    ConditionalMatching,
    CrossEntropyELBO,
    JointConditionalMatching,
    Objective,
    freeze,
)
from fewjump.process import Absorbing, Process, Uniform
from fewjump.random import SampleStreams
from fewjump.sampler import SAMPLERS, run
from fewjump.schedule import LogLinear

B, L, V, D = 8, 6, 37, 8
PROCESSES = {
    "uniform": Uniform(V, LogLinear()),
    "absorbing": Absorbing(V, LogLinear()),
    "leave-one-out": Uniform(V, LogLinear()),
    "score": Absorbing(V, LogLinear()),
}
#: Heads that add to the logits of each position what the tokens before it say.
CAUSAL = {
    "autoregressive": {"kind": "autoregressive"},
    "lookahead": {"kind": "autoregressive", "causal": "attention", "lookahead": True},
    "any-order": {"kind": "any-order"},
}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=list(PROCESSES))
RunBoth = Callable[[Callable[[], Any]], tuple[Any, Any]]


def network(process: Process, kind: str = "product", seed: int = 0, length: int = L) -> Any:
    """Random weights in float64; a joint student's head starts at a product, and a product student
    of a concrete-score network is such a network."""
    torch.manual_seed(seed)
    trunk = {"hidden": D, "blocks": 1, "heads": 2, "condition_dim": 8}
    config = {"process": process.config(), "trunk": trunk, "length": length}
    if process is PROCESSES["score"] and kind == "product":
        model: Any = ScoreDenoiser.from_config(config)
        return filled(model, process)
    config["leave_one_out"] = process is PROCESSES["leave-one-out"]
    if kind in CAUSAL:
        config["head"] = {"width": 4, "heads": 1, **CAUSAL[kind]}
    return filled(NetworkDenoiser.from_config(config), process)


def filled(model: Any, process: Process) -> Any:
    """Random weights in float64, and the caller's own process."""
    model.process = process
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.double()


@pytest.fixture
def run_both(monkeypatch: pytest.MonkeyPatch) -> RunBoth:
    """Run something with logits and without."""

    def both(do: Callable[[], Any]) -> tuple[Any, Any]:
        results = []
        for defer_from in (V + 1, V):
            monkeypatch.setattr(constrain, "DEFER_FROM", defer_from)
            results.append(do())
        return results[0], results[1]

    for module in (logit_pass, logits, cross_entropy):
        monkeypatch.setattr(module, "CHUNK_ELEMENTS", 3 * V)
    return both


def test_only_large_plain_layers_are_deferred() -> None:
    layer = torch.nn.Linear(2, constrain.DEFER_FROM)
    assert constrain.defers(layer)
    assert not constrain.defers(torch.nn.Linear(2, constrain.DEFER_FROM - 1))
    assert not constrain.defers(torch.nn.Sequential(layer))
    layer.register_forward_hook(lambda *_: None)
    assert not constrain.defers(layer)


@every_process
def test_the_law_is_the_same(process: Process, run_both: RunBoth) -> None:
    model = network(process)
    x = process.corrupt(torch.randint(V - 1, (B, L)), 0.0, 0.6)
    dense, late = run_both(lambda: model(x, 0.6))
    assert late.source.deferred
    assert not dense.source.deferred
    torch.testing.assert_close(late.log_probs(), dense.log_probs(), atol=1e-12, rtol=1e-12)
    with torch.no_grad():
        law = run_both(lambda: model(x, 0.6))[1]
    assert not law.log_prob(x.clamp(max=V - 2)).requires_grad


OBJECTIVES: dict[str, tuple[str, Objective]] = {
    "elbo": ("product", CrossEntropyELBO("uniform")),
    **{
        how: ("product", ConditionalMatching(how, rollout_steps=2, max_gap=0.2))
        for how in ("student-euler", "student-exact", "forward", "teacher-rollout")
    },
    "joint": ("product", JointConditionalMatching(near=0.3, data_weight=0.5)),
    "joint-adaptive": ("product", JointConditionalMatching(near="adaptive", tolerance=2.0)),
    **{kind: (kind, JointConditionalMatching(near=0.3, consistency=0.5)) for kind in CAUSAL},
}


@every_process
@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_and_gradients_are_the_same(name: str, process: Process, run_both: RunBoth) -> None:
    kind, objective = OBJECTIVES[name]
    student, teacher = network(process, kind), freeze(network(process, seed=1))
    data = torch.randint(V - 1, (B, L))

    def step() -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
        student.zero_grad(set_to_none=True)
        loss, metrics = objective(student, teacher, data, SampleStreams(3, torch.arange(B)))
        (2 * loss).backward()
        grads = [p.grad for p in student.parameters() if p.grad is not None]
        return loss.detach(), metrics, grads

    one, two = run_both(step)
    assert len(one[2]) > 5
    torch.testing.assert_close(one, two, atol=1e-10, rtol=1e-9)


@every_process
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_are_the_same(sampler: str, process: Process, run_both: RunBoth) -> None:
    if SAMPLERS[sampler].masked_only and not isinstance(process, Absorbing):
        pytest.skip("absorbing only")
    model = network(process)
    settings: list[dict[str, Any]] = [
        {},
        {"temperature": 0.7, "top_p": 0.8},
        {"prompt": torch.tensor([3, 1])},
    ]

    def draw_all() -> Tensor:
        runs = [run(model, 50, 4, sampler, generator=1, **options) for options in settings]
        return torch.stack([each.samples for each in runs])

    one, two = run_both(draw_all)
    assert torch.equal(one, two)


@pytest.mark.parametrize("kind", CAUSAL)
def test_walks_draw_the_same(kind: str, run_both: RunBoth) -> None:
    model = network(PROCESSES["absorbing"], kind)
    settings: list[dict[str, Any]] = [{}, {"temperature": 0.7, "top_p": 0.8}]
    shown = torch.arange(L) % 3 == 1

    def draw_all() -> Tensor:
        runs = [run(model, 20, 3, generator=1, **options) for options in settings]
        runs.append(run(model, 20, 1, generator=1, prompt=torch.arange(L), fixed=shown))
        return torch.stack([each.samples for each in runs])

    one, two = run_both(draw_all)
    assert torch.equal(one, two)


@contextmanager
def largest_tensor(width: int | None = None) -> Iterator[list[int]]:
    """The number of entries of the largest tensor that any operation inside returns; with
    ``width``, of those whose last axis is that long."""
    seen = [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            out = func(*args, **(kwargs or {}))
            for value in tree_iter(out):
                if isinstance(value, Tensor) and width in (None, *value.shape[-1:]):
                    seen[0] = max(seen[0], value.numel())
            return out

    with Watch():
        yield seen


@every_process
@pytest.mark.parametrize(
    "name", ["elbo", "student-euler", "forward", "joint", "joint-adaptive", *CAUSAL]
)
def test_no_training_step_holds_the_logits(name: str, process: Process, run_both: RunBoth) -> None:
    kind, objective = OBJECTIVES[name]
    long = 40
    student, teacher = (
        network(process, kind, length=long),
        freeze(network(process, seed=1, length=long)),
    )
    data = torch.randint(V - 1, (B, long))

    def largest() -> int:
        with largest_tensor() as seen:
            loss, _ = objective(student, teacher, data, SampleStreams(3, torch.arange(B)))
            loss.backward()
        return seen[0]

    dense, late = run_both(largest)
    assert dense >= B * long * V
    # What is left is the network's own.
    assert late <= B * long * 4 * D


@pytest.mark.parametrize("kind", CAUSAL)
def test_no_walk_holds_the_logits(kind: str, run_both: RunBoth) -> None:
    long = 40
    model = network(PROCESSES["absorbing"], kind, length=long)
    prompt = torch.arange(long) % (V - 1)

    def largest() -> int:
        with largest_tensor(V) as seen:
            run(model, B, 2, generator=1, prompt=prompt, fixed=prompt % 7 == 3)
        return seen[0]

    dense, late = run_both(largest)
    assert dense >= B * long * V
    # One position of each row at a time; a chunk of the test's three rows is smaller.
    assert late <= B * V


@pytest.mark.parametrize("sampler", ["ancestral", "euler", "theta-trapezoidal"])
def test_no_sampling_step_holds_the_scores(sampler: str, run_both: RunBoth) -> None:
    """SEDD's own steps need a number per position beside the law: what its scores sum to."""
    long = 40
    model = network(PROCESSES["score"], length=long)

    def largest() -> int:
        with largest_tensor(V) as seen:
            # Many short steps, in which few positions move.
            run(model, B, 20, sampler, generator=1)
        return seen[0]

    dense, late = run_both(largest)
    assert dense >= B * long * V
    assert late <= B * long * V // 4


def test_sampling_reads_only_rows_that_may_move(
    run_both: RunBoth, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Absorbing(V, LogLinear())
    model = network(process, length=200)
    read = [0]
    plain = logits.LinearLogits._computed

    def counted(self: Any, index: Tensor, out: Tensor | None = None) -> Tensor:
        read[0] += index.shape[0]
        return plain(self, index, out)

    monkeypatch.setattr(logits.LinearLogits, "_computed", counted)
    run_both(lambda: run(model, 1, 50, generator=0).samples)
    # Every position is drawn once, and hardly any is read in vain.
    assert 200 <= read[0] <= 230


def test_training_in_low_precision_stays_near(run_both: RunBoth) -> None:
    process = PROCESSES["absorbing"]
    student = network(process).float()
    teacher = freeze(copy.deepcopy(network(process, seed=1)).float())
    student.autocast = teacher.autocast = "bfloat16"
    data = torch.randint(V - 1, (B, L))

    def step() -> tuple[Tensor, Tensor]:
        student.zero_grad(set_to_none=True)
        objective = ConditionalMatching("forward")
        loss, _ = objective(student, teacher, data, SampleStreams(3, torch.arange(B)))
        loss.backward()
        return loss.detach(), student.head.linear.weight.grad

    one, two = run_both(step)
    assert two[1].dtype == torch.float32
    torch.testing.assert_close(one[0], two[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one[1], two[1], atol=2e-4, rtol=2e-2)


def test_a_joint_head_still_has_its_base(run_both: RunBoth) -> None:
    process = PROCESSES["absorbing"]
    model = network(process, "autoregressive")
    x = process.corrupt(torch.randint(V - 1, (B, L)), 0.0, 0.6)
    x0 = torch.randint(V - 1, (B, L))
    one, two = run_both(lambda: model(x, 0.6).log_prob(torch.where(x == V - 1, x0, x)))
    torch.testing.assert_close(one, two, atol=1e-10, rtol=1e-10)
    assert not isinstance(model(x, 0.6), ProductLaw)


def test_a_deferred_score_law_has_the_scores_and_the_report(
    run_both: RunBoth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the mask's entry of the closed form can be below zero, and by how much is reported."""
    process = PROCESSES["score"]
    model = network(process)
    x = process.corrupt(torch.randint(V - 1, (B, L)), 0.0, 0.6)
    t = torch.linspace(0.05, 0.95, B, dtype=torch.float64)

    def ask() -> tuple[Any, Any]:
        return model(x, t), model.last_recovery

    (dense, plain), (late, report) = run_both(ask)
    assert late.source.deferred
    sums = late.scores.clean_mass, dense.scores.clean_mass
    torch.testing.assert_close(*sums, atol=1e-12, rtol=1e-12)
    assert plain.clipped_mass.max() > 0.1, "the case must clip something"
    torch.testing.assert_close(report.clipped_mass, plain.clipped_mass, atol=1e-12, rtol=1e-12)
    assert not report.clipped_mass.requires_grad
    torch.testing.assert_close(report.condition_number, plain.condition_number)
    torch.testing.assert_close(report.mean_clipped_mass(), plain.mean_clipped_mass())

    monkeypatch.setattr(recovered, "REPORTED_POSITIONS", B * L // 2)
    _, estimate = run_both(ask)[1]
    some = plain.clipped_mass.flatten()[torch.linspace(0, B * L - 1, B * L // 2).round().long()]
    torch.testing.assert_close(estimate.mean_clipped_mass(), some.mean())


def test_a_score_law_keeps_its_scores_for_more_rows_only(run_both: RunBoth) -> None:
    model = network(PROCESSES["score"])
    masks = torch.full((1, L), V - 1)
    late = run_both(lambda: model(masks, 0.6))[1]
    mass = late.scores.clean_mass.expand(3, -1)
    torch.testing.assert_close(late.expand(3).scores.clean_mass, mass)
    assert late.select(torch.tensor([0])).scores is None
    assert late.given(masks * 0, masks >= 0).scores is None


def test_ratios_are_read_as_they_are_with_and_without_their_logarithms(run_both: RunBoth) -> None:
    """Under uniform noise: dense, deferred and of another network, all at once and by rows."""
    model = ratio_network()
    x = torch.randint(V, (B, L))
    index = torch.tensor([0, 3, 3, B * L - 1])

    def ask() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            scores = model(x, 0.6).scores
        assert not scores.ratios.dense().requires_grad
        return scores.ratios.dense(), scores.ratios.read(index)

    (dense, rows), (late, late_rows) = run_both(ask)
    torch.testing.assert_close(dense, model.ratios(x, torch.full((B,), 0.6)))
    torch.testing.assert_close(late, dense, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(rows, dense.flatten(0, 1)[index], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(late_rows, rows, atol=1e-12, rtol=1e-12)


def ratio_network() -> Any:
    """A concrete-score network of uniform noise."""
    torch.manual_seed(0)
    trunk = {"hidden": D, "blocks": 1, "heads": 2, "condition_dim": 8}
    process = PROCESSES["uniform"]
    config = {"process": process.config(), "trunk": trunk, "length": L}
    return filled(ScoreDenoiser.from_config(config), process)


@pytest.mark.parametrize("sampler", ["ancestral", "euler", "tau-leaping", "theta-trapezoidal"])
def test_steps_by_ratios_read_rows_and_recover_nothing(
    sampler: str, run_both: RunBoth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No tensor of the size of the scores but the network's own, and none where it is deferred."""
    model = ratio_network()
    long = 16
    monkeypatch.setattr(recovered, "recovered_logits", None)
    monkeypatch.setattr(inversion, "_ROWS_PER_CHUNK_ELEMENTS", 3 * V)

    def largest() -> tuple[Tensor, int]:
        with largest_tensor(V) as seen:
            samples = run(model, B, 2, sampler, generator=1, length=long).samples
        return samples, seen[0]

    (dense, _), (late, most) = run_both(largest)
    assert torch.equal(dense, late)
    assert most <= B * long * V // 4


def test_scores_asked_for_later_are_in_the_precision_of_the_call(run_both: RunBoth) -> None:
    model = ratio_network().float()
    x = torch.randint(V, (2, L))

    def ask() -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            law = model(x, 0.6)
        ratios = law.scores.ratios.dense()
        assert not ratios.requires_grad
        return ratios.float()

    dense, late = run_both(ask)
    torch.testing.assert_close(late, dense, atol=0, rtol=2e-2)


def test_a_network_that_was_asked_can_be_copied_and_pickled(run_both: RunBoth) -> None:
    """The report that it keeps holds no graph, and no second copy of the weights."""
    model = network(PROCESSES["score"])
    x = torch.full((2, L), V - 1)

    def ask() -> Tensor:
        model(x, 0.6).log_prob(x * 0).sum().backward()
        twin = copy.deepcopy(model)
        assert twin.last_recovery is not None
        loaded = pickle.loads(pickle.dumps(model))
        assert not loaded.last_recovery.clipped_mass.requires_grad
        return loaded.last_recovery.clipped_mass

    one, two = run_both(ask)
    torch.testing.assert_close(one, two)
