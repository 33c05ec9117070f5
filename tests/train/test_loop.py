"""The loop's arithmetic: schedule, average, accumulation, processes, divergence, warnings."""

from __future__ import annotations

import copy
import random
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import L, V, make_data, make_student

from fewjump.denoiser.logits import LogitDenoiser
from fewjump.objective import ConditionalMatching, CrossEntropyELBO, freeze
from fewjump.process import Uniform
from fewjump.schedule import LogLinear
from fewjump.train import (
    DivergenceError,
    ExponentialMovingAverage,
    TrainConfig,
    read_metrics,
    train,
)
from fewjump.train.data import TokenData, permute
from fewjump.train.state import STATE_FILE
from forked import finish, start


def config(**changes) -> TrainConfig:
    defaults = {
        "steps": 10,
        "batch_size": 16,
        "lr": 1e-2,
        "warmup": 2,
        "log_every": 5,
        "device": "cpu",
        "progress": False,
    }
    return TrainConfig(**{**defaults, **changes})


def weights(model) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def test_learning_rate_shape():
    cosine = TrainConfig(steps=110, warmup=10, lr=2.0, final_lr=0.1)
    assert [cosine.lr_at(n) for n in (0, 4, 9)] == pytest.approx([0.2, 1.0, 2.0])
    assert cosine.lr_at(10) == pytest.approx(2.0)
    assert cosine.lr_at(60) == pytest.approx(1.1)
    assert cosine.lr_at(110) == pytest.approx(0.2)
    linear = TrainConfig(steps=110, warmup=10, lr=2.0, decay="linear")
    assert linear.lr_at(85) == pytest.approx(0.5)
    assert TrainConfig(steps=50, warmup=0, lr=2.0, decay="constant").lr_at(49) == 2.0


def test_moving_average_formula():
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(module.weight, 1.0)
    average = ExponentialMovingAverage(module, 0.2)
    expected = 1.0
    for n, value in enumerate([3.0, -2.0, 5.0, 7.0], start=1):
        torch.nn.init.constant_(module.weight, value)
        average.update(module)
        keep = min(0.2, n / (n + 9))
        expected = keep * expected + (1 - keep) * value
        assert float(average.shadow["weight"]) == pytest.approx(expected)
    other = torch.nn.Linear(1, 1, bias=False)
    average.copy_to(other)
    assert other.weight.item() == pytest.approx(expected)


def test_the_average_is_returned_beside_the_last_weights():
    result = train(make_student(), CrossEntropyELBO(), make_data(), config(ema=0.9))
    averaged = result.averaged()
    assert not torch.equal(weights(averaged), weights(result.student))
    assert not averaged.training
    assert result.ema is not None
    assert torch.equal(result.ema.shadow["network.out.bias"], averaged.network.out.bias)
    without = train(make_student(), CrossEntropyELBO(), make_data(), config(ema=None))
    assert torch.equal(weights(without.averaged()), weights(without.student))


def test_accumulation_equals_the_big_batch():
    one, four = make_student(dropout=0.0), make_student(dropout=0.0)
    train(one, CrossEntropyELBO(), make_data(), config())
    train(four, CrossEntropyELBO(), make_data(), config(accumulate=4))
    assert not torch.equal(weights(one), weights(make_student(dropout=0.0)))
    torch.testing.assert_close(weights(one), weights(four), rtol=0, atol=1e-5)


def test_the_seed_decides_everything_and_something():
    def trained(seed: int) -> torch.Tensor:
        student = make_student()
        torch.manual_seed(hash(seed) + 17)
        train(student, CrossEntropyELBO(), make_data(), config(seed=seed))
        return weights(student)

    first = trained(1)
    torch.rand(5)
    assert torch.equal(first, trained(1))
    assert not torch.equal(first, trained(2))


def free_port() -> int:
    """Below the range that outgoing connections take theirs from."""
    while True:
        port = random.randint(20_000, 30_000)
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)):
                return port


def test_two_processes_equal_one(tmp_path):
    toy = Path(__file__).with_name("toy.py")
    options = ["--steps", "12", "--dropout", "0", "--objective", "distill"]
    port = str(free_port())
    worlds = [{}] + [
        {
            "RANK": str(r),
            "LOCAL_RANK": str(r),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        for r in range(2)
    ]
    errors = [tmp_path / f"{number}.err" for number in range(3)]
    processes = [
        start(toy, str(tmp_path / ("two" if world else "one")), *options, errors=file, **world)
        for world, file in zip(worlds, errors)
    ]
    for process, file in zip(processes, errors):
        finish(process, file, 120)
    first, second = (
        torch.load(tmp_path / name / STATE_FILE, weights_only=True) for name in ("one", "two")
    )
    for key, value in first["student"].items():
        torch.testing.assert_close(value, second["student"][key], rtol=0, atol=1e-5)
    for a, b in zip(read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two")):
        assert a["step"] == b["step"]
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)


class Poisoned(CrossEntropyELBO):
    """Turns one step's loss into NaN (or its gradient into infinity)."""

    def __init__(self, at: int, kind: str) -> None:
        super().__init__()
        self.calls, self.at, self.kind = 0, at, kind

    def __call__(self, student, teacher, batch, generator):
        loss, metrics = super().__call__(student, teacher, batch, generator)
        self.calls += 1
        if self.calls == self.at:
            if self.kind == "gradient":
                zero = (loss - loss.detach()).clamp(min=0)
                return loss.detach() + zero.sqrt() + 0 * loss, metrics
            loss = loss * float(self.kind)
        return loss, metrics


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nan", r"step 6.*loss is nan.*overflowed.*training_state"),
        ("inf", r"step 6.*\+inf.*probability 0"),
        ("gradient", r"step 6.*gradient norm"),
    ],
)
def test_a_non_finite_step_stops_and_keeps_the_last_good_checkpoint(tmp_path, kind, words):
    with pytest.raises(DivergenceError, match=words):
        train(make_student(), Poisoned(7, kind), make_data(), config(save_every=4), out=tmp_path)
    state = torch.load(tmp_path / STATE_FILE, weights_only=True)
    assert state["step"] == 4
    assert all(v.isfinite().all() for v in state["student"].values())


def test_weights_that_no_file_may_hold_are_never_saved(tmp_path):
    huge = config(lr=1.0, warmup=0, save_every=1, weight_decay=1e8)
    with pytest.raises(DivergenceError, match=r"above 1e\+06 or not finite.*weight_decay"):
        train(make_student(), CrossEntropyELBO(), make_data(), huge, out=tmp_path)
    state = torch.load(tmp_path / STATE_FILE, weights_only=True)
    assert all(bool((v.abs() <= 1e6).all()) for v in state["student"].values())


def test_overflowing_weights_are_never_saved(tmp_path):
    student = make_student()
    with pytest.raises(DivergenceError, match="weights"):
        train(
            student,
            CrossEntropyELBO(),
            make_data(),
            config(lr=3e37, warmup=0, clip=None, save_every=1, weight_decay=10.0),
            out=tmp_path,
        )
    state = torch.load(tmp_path / STATE_FILE, weights_only=True)
    assert all(v.isfinite().all() for v in state["student"].values())


def test_order_is_a_new_permutation_every_epoch():
    for size in (1, 2, 7, 64, 1000):
        index = torch.arange(size)
        for epoch in range(2):
            assert torch.equal(permute(index, size, 5, epoch).sort().values, index)
    one, two = permute(torch.arange(1000), 1000, 5, 0), permute(torch.arange(1000), 1000, 5, 1)
    other = permute(torch.arange(1000), 1000, 6, 0)
    assert (one == two).sum() < 20
    assert (one == other).sum() < 20
    # Not merely a permutation: neighbours are torn apart.
    assert (one.diff().abs() < 5).sum() < 30
    data = TokenData(torch.arange(10)[:, None], 10, seed=4)
    stream = data.batch(torch.arange(30))[:, 0]
    for epoch in range(3):
        assert sorted(stream[10 * epoch : 10 * epoch + 10].tolist()) == list(range(10))


def test_memory_mapped_data_give_the_same_training(tmp_path):
    array = make_data().numpy().astype(np.uint8)
    array.tofile(tmp_path / "tokens.bin")
    mapped = np.memmap(tmp_path / "tokens.bin", dtype=np.uint8, mode="r", shape=array.shape)
    one, two = make_student(), make_student()
    train(one, CrossEntropyELBO(), make_data(), config())
    train(two, CrossEntropyELBO(), mapped, config())
    assert torch.equal(weights(one), weights(two))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (torch.full((3, L), V), "token 5.*0..4"),
        (torch.full((3, L), -1), "token -1"),
        (torch.zeros(3, L), "integer"),
        (torch.zeros(L, dtype=torch.long), "N, L"),
        (torch.zeros(3, L + 1, dtype=torch.long), "made for 6"),
        (None, "data=None"),
    ],
)
def test_bad_data_are_refused_before_training(data, words):
    with pytest.raises(ValueError, match=words):
        train(make_student(), CrossEntropyELBO(), data, config())


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"lr": 0.0},
        {"ema": 1.0},
        {"accumulate": 3},
        {"decay": "step"},
        {"precision": "fp8"},
        {"clip": 0.0},
        {"final_lr": 2.0},
        {"max_seconds": 0.0},
        {"seed": -1},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        config(**options)


def test_distillation_logs_its_metrics_and_leaves_the_teacher_alone(tmp_path):
    teacher = freeze(make_student(seed=9))
    before = weights(teacher).clone()
    result = train(
        make_student(),
        ConditionalMatching("forward"),
        make_data(),
        config(steps=60),
        teacher=teacher,
        out=tmp_path,
    )
    assert torch.equal(before, weights(teacher))
    lines = read_metrics(tmp_path)
    assert lines[-1]["kl_to_teacher"] < lines[0]["kl_to_teacher"]
    assert {"clipped_mass", "student_entropy", "teacher_entropy", "grad_norm"} <= lines[0].keys()
    assert result.metrics == lines[-1]


def test_distillation_without_data_needs_only_a_length():
    student, teacher = make_student(), freeze(make_student(seed=9))
    result = train(
        student,
        ConditionalMatching("teacher-rollout", rollout_steps=2),
        None,
        config(steps=3),
        teacher=teacher,
    )
    assert result.step == 3
    student.length = None
    with pytest.raises(ValueError, match="length"):
        train(student, ConditionalMatching("teacher-rollout"), None, config(), teacher=teacher)


def test_bfloat16_reaches_the_network_and_nothing_else():
    seen = []

    class Watch(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(V, 8)
            self.linear = torch.nn.Linear(8, V)

        def forward(self, x_t, t):
            out = self.linear(self.table(x_t))
            seen.append(out.dtype)
            return out

    student = LogitDenoiser(Watch(), Uniform(V, LogLinear()), L)
    train(student, CrossEntropyELBO(), make_data(), config(precision="bfloat16", steps=2))
    assert seen == [torch.bfloat16] * 2
    assert weights(student).dtype == torch.float32
    student(make_data()[:2], 0.5)
    assert seen[-1] == torch.float32


@pytest.mark.slow
def test_compiled_training_equals_the_plain_one():
    one, two = make_student(dropout=0.0), make_student(dropout=0.0)
    train(one, CrossEntropyELBO(), make_data(), config())
    train(two, CrossEntropyELBO(), make_data(), config(compile=True))
    torch.testing.assert_close(weights(one), weights(two), rtol=0, atol=1e-4)
    copy.deepcopy(two)(make_data()[:2], 0.5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_in_half_precision_is_trained_in_float32(dtype):
    half, whole = make_student(dropout=0.0).to(dtype), make_student(dropout=0.0).to(dtype).float()
    train(half, CrossEntropyELBO(), make_data(), config())
    train(whole, CrossEntropyELBO(), make_data(), config())
    assert torch.equal(weights(half), weights(whole))


class _Unsound(ConditionalMatching):
    """After its step the student answers nothing that could be drawn from; its weights can be read.

    So does a network whose output overflows.
    """

    def __call__(self, student, teacher, batch, generator):
        loss, metrics = super().__call__(student, teacher, batch, generator)
        student.network.register_forward_hook(lambda *_: torch.full((len(batch), 6, 5), torch.nan))
        return loss, metrics


def test_a_student_that_cannot_be_watched_has_diverged(tmp_path):
    with pytest.raises(DivergenceError, match=r"step 1: the student cannot be sampled.*lower lr"):
        train(
            make_student(),
            _Unsound("forward"),
            make_data(),
            config(),
            teacher=freeze(make_student()),
            out=tmp_path,
        )


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda loss: loss, r"return \(loss, metrics\), got a Tensor"),
        (lambda loss: (loss.expand(3), {}), r"a loss of shape \(\) with gradients"),
        (lambda loss: (loss.detach(), {}), r"a loss of shape \(\) with gradients"),
        (lambda loss: (loss, {"nats": 1.0}), r"each a tensor of shape \(\)"),
    ],
)
def test_what_an_objective_of_yours_returns_is_checked(returned, message) -> None:
    class Mine(CrossEntropyELBO):
        def __call__(self, *given):
            return returned(super().__call__(*given)[0])

    with pytest.raises(TypeError, match=message):
        train(make_student(), Mine(), make_data(), config())
