"""Each monitor fires on a planted failure, is silent on a healthy run, and changes no weight."""

from __future__ import annotations

import copy
import json
import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy import make_data, make_student

from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.score import ScoreDenoiser
from fewjump.law.product import ProductLaw
from fewjump.objective import ConditionalMatching, CrossEntropyELBO, freeze
from fewjump.problem import MarkovChain
from fewjump.process import Absorbing, Process, Uniform
from fewjump.random import generator_for
from fewjump.schedule import LogLinear
from fewjump.train import TrainConfig, read_metrics, train
from fewjump.train.diagnostics import BINS, Diagnostics, variety
from fewjump.train.log import RunFolder
from fewjump.train.monitor import Monitor, TrainingWarning

VOCAB, LENGTH = 6, 8
CHAIN = MarkovChain.random(VOCAB, LENGTH, concentration=0.5, generator=generator_for(5))
UNIFORM = Uniform(VOCAB, LogLinear())


class Sharpened(Denoiser):
    """The exact posterior's log-probabilities times a number, plus a learnable row for tokens."""

    def __init__(self, power: float = 1.0, process: Process = UNIFORM) -> None:
        super().__init__(process, LENGTH)
        self.exact, self.power = CHAIN.denoiser(process), power
        self.row = nn.Parameter(torch.zeros(process.vocab_size, dtype=torch.float64))

    def law(self, x_t: Tensor, t: Tensor) -> ProductLaw:
        law = self.exact.law(x_t, t)
        assert isinstance(law, ProductLaw)
        return ProductLaw(law.log_probs() * self.power + self.row)


def distil(
    student: Denoiser,
    teacher: Denoiser,
    objective: ConditionalMatching | None = None,
    tmp_path: Any = None,
    data: bool = True,
    **options: Any,
) -> list[dict[str, Any]]:
    """A short training with a tiny learning rate; its log lines."""
    settings = {"steps": 4, "log_every": 2, "batch_size": 64, "lr": 1e-6, "progress": False}
    objective = objective or ConditionalMatching("forward")
    clean = CHAIN.sample(400, generator_for(1)) if data else None
    train(
        student,
        objective,
        clean,
        TrainConfig(**{**settings, **options}),
        teacher=freeze(teacher),
        out=tmp_path,
    )
    return read_metrics(tmp_path)


@pytest.mark.parametrize("mode", ["forward", "student-exact", "teacher-rollout"])
@pytest.mark.parametrize("process", [UNIFORM, Absorbing(VOCAB + 1, LogLinear())], ids=repr)
def test_a_healthy_distillation_is_silent(mode: Any, process: Process, tmp_path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrainingWarning)
        lines = distil(
            Sharpened(process=process),
            Sharpened(process=process),
            ConditionalMatching(mode, rollout_steps=2),
            tmp_path,
            data=mode != "teacher-rollout",
        )
    assert all("warnings" not in line for line in lines)
    first = lines[0]
    assert [one["t"] for one in first["calibration"]] == list(BINS)
    assert first["calibrated_on"] == ("own samples" if mode == "teacher-rollout" else "data")
    assert "calibration" not in lines[1]
    for name in ("support", "distinct"):
        assert all(line[f"student_{name}"] > 0 for line in lines)
        assert len({line[f"teacher_{name}"] for line in lines}) == 1


def test_collapse_is_told_with_step_number_and_remedy(tmp_path) -> None:
    student = Sharpened()
    student.row.data[2] = 60.0
    with pytest.warns(TrainingWarning, match=r"step 1: the student is collapsing") as record:
        lines = distil(student, Sharpened(), tmp_path=tmp_path)
    said = str(record[0].message)
    assert "draws use 1 tokens" in said
    assert "Lower lr" in said
    assert len(record) == 1
    assert all(line["warnings"] == ["collapse"] for line in lines)
    assert lines[0]["advice"]["collapse"] in said


def test_the_draws_show_a_collapse_that_the_entropy_cannot(tmp_path) -> None:
    """A joint student says nothing of its entropy; its draws do."""

    class Repeats(Sharpened):
        def law(self, x_t: Tensor, t: Tensor) -> ProductLaw:
            at = torch.full((x_t.shape[0], LENGTH, VOCAB), -40.0, dtype=torch.float64)
            at[..., 1] = 0
            return ProductLaw(at + 0 * self.row)

    probe = Diagnostics(Repeats(), Sharpened(), length=LENGTH, seed=0)
    line = {"step": 7, **probe.look()}
    assert line["student_support"] == 1
    assert line["teacher_support"] > 3
    with pytest.warns(TrainingWarning, match="step 7: .*distinct runs"):
        assert list(Monitor()(line)) == ["collapse"]


def test_euler_breakdown_is_told_and_a_short_step_is_not(tmp_path) -> None:
    long = ConditionalMatching("student-euler", max_gap=1.0)
    with pytest.warns(TrainingWarning, match=r"overshoots: mass .*outside \[0, 1\]"):
        lines = distil(Sharpened(), Sharpened(), long, tmp_path / "long")
    assert lines[0]["warnings"] == ["clipping"]
    assert lines[0]["clipped_mass"] > 0.05
    short = ConditionalMatching("student-euler", max_gap=0.005, grid=(0.5, 0.0))
    lines = distil(Sharpened(), Sharpened(), short, tmp_path / "short")
    assert all("warnings" not in line for line in lines)


def score_teacher(noise: float) -> ScoreDenoiser:
    def network(x_t: Tensor, t: Tensor) -> Tensor:
        ratios = CHAIN.ratios(x_t, t, UNIFORM)
        return ratios * (noise * torch.randn(ratios.shape, generator=generator_for(3))).exp()

    return ScoreDenoiser(network, UNIFORM, length=LENGTH)


def test_ill_conditioned_recovery_is_told_and_exact_scores_are_not(tmp_path) -> None:
    with pytest.warns(TrainingWarning) as record:
        lines = distil(Sharpened(), score_teacher(0.5), tmp_path=tmp_path / "noisy")
    assert "ill-conditioned" in lines[0]["warnings"]
    said = next(str(w.message) for w in record if "ill-conditioned" in str(w.message))
    assert "at t = 0.875, condition number" in said
    assert lines[0]["calibration"][-1]["clipped"] > 0.1
    lines = distil(Sharpened(), score_teacher(0.0), tmp_path=tmp_path / "exact")
    assert all("warnings" not in line for line in lines)
    assert lines[0]["calibration"][-1]["clipped"] < 1e-6


@pytest.mark.parametrize(("power", "word"), [(2.5, "too sure"), (0.4, "too unsure")])
def test_a_miscalibrated_teacher_is_told(power: float, word: str, tmp_path) -> None:
    with pytest.warns(TrainingWarning, match=f"miscalibrated: at t = .* {word} by"):
        lines = distil(Sharpened(power), Sharpened(power), tmp_path=tmp_path)
    assert lines[0]["warnings"] == ["miscalibrated"]


def test_a_calibrated_teachers_surprise_is_its_entropy() -> None:
    data = CHAIN.sample(2000, generator_for(2))
    probe = Diagnostics(Sharpened(), Sharpened(), length=LENGTH, seed=1, data=data, samples=500)
    for one in probe.calibration():
        assert abs(one["realised"] - one["predicted"]) < 4 * one["error"]
        assert 0 < one["error"] < 0.02
    absorbing = Absorbing(VOCAB + 1, LogLinear())
    masked = Sharpened(process=absorbing)
    probe = Diagnostics(masked, masked, length=LENGTH, seed=1, data=data, samples=500)
    late = probe.calibration()[-1]
    assert late["predicted"] > 1  # over masked positions alone
    assert abs(late["realised"] - late["predicted"]) < 4 * late["error"]


def test_numbers_that_are_not_finite_are_null_at_any_depth(tmp_path) -> None:
    files = RunFolder(tmp_path, {})
    files.log({"step": 1, "loss": math.nan, "calibration": [{"condition": math.inf, "t": 0.5}]})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    found = json.loads(line, parse_constant=pytest.fail)
    assert found == {"step": 1, "loss": None, "calibration": [{"condition": None, "t": 0.5}]}


def test_variety_counts_tokens_in_use_and_distinct_runs() -> None:
    tokens = torch.tensor([[0, 1, 0, 1], [0, 1, 0, 1]])
    assert variety(tokens) == {"support": pytest.approx(2.0), "distinct": 0.5}
    assert variety(torch.zeros(5, 2, dtype=torch.int64)) == {"support": 1.0, "distinct": 0.2}


def test_monitor_warns_once_for_each_kind() -> None:
    monitor = Monitor()
    fine = {"step": 1, "student_entropy": 1.0, "teacher_entropy": 1.0, "clipped_mass": 0.0}
    assert monitor(fine) == {}
    with pytest.warns(TrainingWarning, match="collapsing"):
        assert list(monitor({**fine, "student_entropy": 0.3})) == ["collapse"]
    with pytest.warns(TrainingWarning, match="overshoot") as record:
        found = monitor({**fine, "student_entropy": 0.3, "clipped_mass": 0.2})
    assert list(found) == ["clipping", "collapse"]
    assert len(record) == 1


def test_monitors_change_no_weight_and_no_counter(tmp_path) -> None:
    states = []
    for monitor in (True, False):
        student, teacher = make_student(), freeze(copy.deepcopy(make_student(seed=9)))
        config = TrainConfig(
            steps=12, batch_size=16, log_every=3, lr=1e-2, progress=False, monitor=monitor
        )
        objective = ConditionalMatching("student-euler")
        result = train(student, objective, make_data(), config, teacher=teacher)
        states.append((torch.cat([p.flatten() for p in student.parameters()]), student.evaluations))
        assert ("student_support" in result.metrics) == monitor
    assert torch.equal(states[0][0], states[1][0])
    assert states[0][1] == states[1][1]


def test_the_probe_puts_modes_and_counters_back() -> None:
    student, teacher = make_student(), freeze(make_student(seed=9))
    student.train()
    student.network.drop.eval()  # type: ignore[union-attr]
    probe = Diagnostics(student, teacher, length=6, seed=0, data=make_data())
    state = torch.get_rng_state()
    first = probe.look()
    probe.calibration()
    assert torch.equal(torch.get_rng_state(), state)
    assert student.training
    assert not student.network.drop.training  # type: ignore[union-attr]
    assert not teacher.training
    assert (student.evaluations, teacher.evaluations) == (0, 0)
    assert probe.look() == first


def test_training_from_data_has_no_probe(tmp_path) -> None:
    result = train(
        make_student(),
        CrossEntropyELBO(),
        make_data(),
        TrainConfig(steps=2, batch_size=16, progress=False),
    )
    assert "student_support" not in result.metrics


@pytest.mark.parametrize("process", [UNIFORM, Absorbing(VOCAB + 1, LogLinear())], ids=repr)
def test_small_batches_change_no_number(process: Process) -> None:
    data, model = CHAIN.sample(40, generator_for(2)), Sharpened(process=process)
    seen = []
    for batch_size in (None, 3):
        probe = Diagnostics(
            model, model, length=LENGTH, seed=1, data=data, samples=10, batch_size=batch_size
        )
        seen.append((probe.look(), probe.calibration()))
    assert seen[0][0] == seen[1][0]
    for one, two in zip(seen[0][1], seen[1][1]):
        assert one == pytest.approx(two)
    with pytest.raises(ValueError, match="at least 2"):
        Diagnostics(model, model, length=LENGTH, seed=1, samples=1)
