"""Enumerated worlds for the tests: an exact teacher and a student that is a free table."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fewjump.denoiser.base import Denoiser
from fewjump.law.base import enumerate_states, ravel
from fewjump.law.product import ProductLaw
from fewjump.objective.base import Given
from fewjump.objective.conditional import compare
from fewjump.process import Process
from fewjump.sampler.moves import JumpMove
from fewjump.sampler.reverse import reverse_rates


def random_joint(vocab_size: int, length: int, seed: int = 0) -> Tensor:
    """A joint law over V^L states, (V^L,) float64, far from a product."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(vocab_size**length, generator=generator, dtype=torch.float64) ** 3
    return weights / weights.sum()


class BruteForceDenoiser(Denoiser):
    """Exact posterior marginals by summing over every x₀ of the joint ``probs`` (V₀^L,)."""

    def __init__(self, probs: Tensor, length: int, process: Process, clean: int) -> None:
        super().__init__(process, length)
        self.probs, self.clean = probs, clean
        self.states = enumerate_states(clean, length)

    def joint(self, x_t: Tensor, t: Tensor) -> Tensor:
        """p(x₀ | x_t) for every x₀: (B, V₀^L)."""
        likelihood = self.process.likelihood(x_t, t)
        picked = likelihood[:, None].expand(-1, len(self.states), -1, -1)
        index = self.states[None, :, :, None].expand(x_t.shape[0], -1, -1, 1)
        weights = picked.gather(-1, index)[..., 0].prod(-1) * self.probs
        return weights / weights.sum(-1, keepdim=True)

    def law(self, x_t: Tensor, t: Tensor) -> ProductLaw:
        joint = self.joint(x_t, t)
        one_hot = nn.functional.one_hot(self.states, self.process.vocab_size).double()
        return ProductLaw(torch.einsum("bn,nlv->blv", joint, one_hot).log())


class TabularStudent(Denoiser):
    """A free logit for every (grid time, x_t, position, token); ``start`` makes it float64."""

    def __init__(self, process: Process, length: int, times: list[float]) -> None:
        super().__init__(process, length)
        size = process.vocab_size**length
        self.register_buffer("times", torch.tensor(times, dtype=torch.float64))
        shape = (len(times), size, length, process.vocab_size)
        self.table = nn.Parameter(torch.zeros(shape, dtype=torch.float64))

    def law(self, x_t: Tensor, t: Tensor) -> ProductLaw:
        index = (t[:, None] - self.times).abs().argmin(-1)
        return ProductLaw(self.table[index, ravel(x_t, self.process.vocab_size)])

    @torch.no_grad()
    def copy_from(self, teacher: Denoiser, floor: float = -60.0) -> None:
        """Set every entry to the teacher's log-probabilities."""
        states = enumerate_states(self.process.vocab_size, teacher.length or 0)
        for k, time in enumerate(self.times.tolist()):
            self.table[k] = teacher(states, time).log_probs().clamp(min=floor)


class Constant(Denoiser):
    """The same logits whatever the state: (1, L, V), or (B, L, V) for a batch of B."""

    def __init__(self, process: Process, logits: Tensor) -> None:
        super().__init__(process, logits.shape[1])
        self.logits = logits

    def law(self, x_t: Tensor, t: Tensor) -> ProductLaw:
        return ProductLaw(self.logits.expand(x_t.shape[0], -1, -1))


def euler_table(process: Process, law: ProductLaw, x_t: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """What the Euler sampler's step from x_t draws from: (B, L, V)."""
    return JumpMove(x_t, reverse_rates(law, process, x_t, t), t - s, "linear").rows()


def true_reverse(probs, process, states, clean, s, t):
    """p(x_t) and p(x_s|x_t) over all states: (N,), (N, N) with rows x_t."""

    def noise(a, b, first, second):
        return process.kernel(a, b).dense()[first[:, None, :], second[None, :, :]].prod(-1)

    p_s = probs @ noise(0.0, s, clean, states)
    joint = p_s[:, None] * noise(s, t, states, states)
    p_t = joint.sum(0)
    return p_t, (joint / p_t.clamp(min=1e-300)).T


def gradient_at_teacher(length: int, process, clean_size: int, how: str, gap: float):
    """Gradient of the enumerated objective at the teacher's own posterior, t = 0.6."""
    t, s = 0.6, 0.6 - gap
    probs = random_joint(clean_size, length, seed=5)
    teacher = BruteForceDenoiser(probs, length, process, clean_size)
    student = TabularStudent(process, length, [t])
    reachable = enumerate_states(process.vocab_size, length)
    student.copy_from(teacher)
    p_t, reverse = true_reverse(probs, process, reachable, teacher.states, s, t)
    n = len(reachable)
    if how != "forward":
        posterior = teacher(reachable, t).marginals().nan_to_num(0.0)
        times = torch.full((n,), t, dtype=torch.float64)
        if how == "student-euler":
            law = ProductLaw(posterior.log())
            table = euler_table(process, law, reachable, times - gap, times)
        else:
            table = process.reverse_marginals(posterior, reachable, s, t)
        reverse = torch.stack(
            [
                table.gather(-1, x[None, :, None].expand(n, -1, 1))[..., 0].prod(-1)
                for x in reachable
            ],
            -1,
        )
    weights = (p_t[:, None] * reverse).reshape(-1)
    used = weights > 0
    x_t = reachable.repeat_interleave(n, 0)[used]
    x_s = reachable.repeat(n, 1)[used]
    law = student(x_t, t)
    loss, _ = compare(
        law, teacher(x_s, s), x_t, weights[used] * len(x_t), Given(x_t, None, process)
    )
    loss.backward()
    assert student.table.grad is not None
    return float(student.table.grad.abs().max())
