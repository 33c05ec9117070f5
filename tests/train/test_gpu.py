"""Training on an accelerator: everything runs there, and draws what the CPU draws."""

from __future__ import annotations

import pytest
import torch
from toy import make_data, make_student

from fewjump.objective import ConditionalMatching, CrossEntropyELBO, ScoreEntropy, freeze
from fewjump.process import Absorbing, Uniform
from fewjump.schedule import LogLinear
from fewjump.train import TrainConfig, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


def run(device: str, objective, steps: int = 8, **changes):
    student = make_student(dropout=0.0)
    teacher = freeze(make_student(seed=9, dropout=0.0)) if objective.needs_teacher else None
    config = TrainConfig(
        steps=steps, batch_size=16, lr=1e-3, warmup=2, device=device, progress=False, **changes
    )
    data = make_data() if objective.needs_data else None
    result = train(student, objective, data, config, teacher=teacher)
    return torch.cat([p.detach().cpu().reshape(-1) for p in result.student.parameters()])


@pytest.mark.parametrize(
    "objective",
    [
        CrossEntropyELBO(),
        CrossEntropyELBO("elbo"),
        ScoreEntropy(),
        *(
            ConditionalMatching(how, rollout_steps=2)
            for how in ("student-euler", "student-exact", "forward", "teacher-rollout")
        ),
    ],
    ids=lambda o: f"{type(o).__name__}-{getattr(o, 'intermediate', '')}",
)
def test_cuda_training_follows_the_cpu(objective):
    torch.testing.assert_close(run("cuda", objective), run("cpu", objective), rtol=0, atol=2e-3)


def test_bfloat16_on_cuda_stays_near():
    objective = ConditionalMatching("forward")
    plain, half = run("cuda", objective), run("cuda", objective, precision="bfloat16")
    assert not torch.equal(plain, half)
    torch.testing.assert_close(plain, half, rtol=0, atol=2e-2)


def test_large_vocabularies_need_no_second_table():
    """The loss adds at most half a (B, L, V) tensor to the two that the networks emit and the
    gradient."""
    from fewjump.law.product import ProductLaw
    from fewjump.objective.base import Given
    from fewjump.objective.conditional import compare

    B, L, V = 8, 256, 32_000
    size = B * L * V * 4
    logits = torch.randn(B, L, V, device="cuda", requires_grad=True)
    target = torch.randn(B, L, V, device="cuda")
    x = torch.randint(V, (B, L), device="cuda")
    for process in (Uniform(V, LogLinear()), Absorbing(V, LogLinear(), mask=0)):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        weight = torch.ones(B, device="cuda")
        given = Given(x, None, process)
        loss, _ = compare(ProductLaw(logits), ProductLaw(target), x, weight, given)
        loss.backward()
        assert torch.cuda.max_memory_allocated() - before < 1.5 * size
        logits.grad = None
