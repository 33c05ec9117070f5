"""Learnable sampler distillation: the network stays, and a few-step sampler of it is learned."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from fewjump.config import require
from fewjump.denoiser.base import Condition, Denoiser
from fewjump.inversion import row_chunks
from fewjump.law import Law
from fewjump.law.product import as_product
from fewjump.objective.base import Metrics, Objective, require_frozen
from fewjump.options.matching import WholeJumpOptions
from fewjump.options.sampled import LearnedSamplerOptions, ScaledName
from fewjump.random import Generator, bernoulli, integers
from fewjump.sampler import Ancestral, Scaled
from fewjump.sampler.base import draw_step
from fewjump.sampler.carried import carry_sampler
from fewjump.sampler.interval_cost import forward_entropies, reverse_entropies
from fewjump.sampler.rates import Rates
from fewjump.sampler.reverse import reverse_rates
from fewjump.sampler.run import trajectory

#: The coefficients are few, and logarithms: they take larger steps than a network's weights.
LR_SCALE = 30.0
# The probability that counts for what the few-step sampler cannot do at all.
_FLOOR = 1e-12
# An interval is longer than so many of the teacher's: its ends then never share a place.
_CELLS = 2


@dataclass(eq=False)
class SamplerDistillation(Objective, WholeJumpOptions, LearnedSamplerOptions):
    """A few-step sampler of the teacher learns to follow its many-step one (LSD, LSD+, 2509.19962).

    The network is the teacher's and is not trained. Step k of K moves positions by the rates of
    ``base`` times Φ_k (:class:`~fewjump.sampler.Scaled`). Learned are log Φ_k, from 0, of the
    K − 1 steps before the final draw of x₀, and with ``learn_times`` (LSD+) the intervals κ_k > 0,
    Σκ_k = 1, of the times τ_k = 1 − Σ_{j≤k} κ_j. The result is the teacher, which carries the
    sampler: its default at this number of steps. Data are never read.

    **Transitions** (the default). A trajectory x* of the teacher's ancestral sampler, in N =
    ``path_steps`` equal steps, is what the K-step sampler should be likely to do. With P_k its step
    τ_k → τ_{k+1}, P¹_k the exact step of the teacher's law, C_k what that one loses by moving
    positions independently (:mod:`fewjump.sampler.interval_cost`), and both P at the trajectory,

      J = Σ_k E[C_k + log P¹_k(x*_{τ_{k+1}} | x*_{τ_k}) − log P_k(x*_{τ_{k+1}} | x*_{τ_k})].

    Where the trajectory is the exact reverse chain's, J is the KL divergence of the law of the
    states at the τ_k, up to a constant that no Φ and no times change; it bounds that of what is
    drawn. Gradients pass through P_k, never through a draw. A time between two of the teacher's
    counts as each of them, in proportion to how near it is, so that J is continuous in the times.
    Intervals stay longer than 2/N.

    **Scores** is the published loss (Eq. 6, with ``relaxed`` > 0 Eq. 10), on the rates R = σQ·score
    in place of scores, which moves no minimum:

      L_k = E‖Φ_k·R(x_k) − R(x*_k)‖²,

    x from the K-step sampler and x* from the teacher, each on a trajectory of its own. ``relaxed``
    (0.05 in the paper) is the share of tokens at which the noise that x begins from is redrawn. The
    minimum, Φ_k = E⟨R(x_k), R(x*_k)⟩/E‖R(x_k)‖², is below 1 even where both have one law: on
    enumerated problems it takes the sampler away from the teacher's. The paper's times follow its
    Eq. 8, whose minimum never reaches data; here they follow J.

    **What to expect.** For a consistent teacher the step of ``ancestral`` is at the minimum of J
    over Φ already. What is learned is the times, and they tend to those of ``grid="fitted"``. For
    ``euler`` and ``tau-leaping`` learn the multipliers alone (``learn_times=False``): they cannot
    make some moves of the exact chain, whose cost rules J. Under uniform noise J then falls and the
    law of what is drawn gets worse. Totals of Euler's above 1 have no gradient.

    Options by keyword: those of :class:`~fewjump.options.sampled.LearnedSamplerOptions`, and
    ``steps`` (K, 8 by default) or ``grid``, where the times begin. The coefficients learn at 30
    times the learning rate.

    Metrics: ``excess``, Σ_k E[log P¹_k − log P_k] in nats per position, or with scores
    ``relative_error``, Σ_k L_k/Σ_k E‖R(x*_k)‖²; ``least_multiplier``, ``largest_multiplier`` and
    ``last_time``, τ_{K−1}.

    Raises:
        ValueError: for options outside their range; at check, for teachers of joint laws.
    """

    keeps_network: ClassVar[bool] = True
    default_steps: ClassVar[int] = 8
    needs_data = False

    def __post_init__(self) -> None:
        super().__post_init__()
        times = self.few_step_times()
        require(
            self.min_time == SamplerDistillation.min_time,
            "min_time (--min-time) is for methods that draw their times: lsd follows its teacher "
            "all the way to data; leave it out",
        )
        require(
            len(times) > 2,
            "one jump is the draw of x₀ alone, in which nothing can be learned: ask for 2 or more "
            f"(--jumps), got {len(times) - 1}",
        )
        require(
            all(t - s > _CELLS / self.path_steps for t, s in pairwise(times)),
            f"every jump must be longer than {_CELLS} of the teacher's steps: raise path_steps "
            f"(--path-steps), got {self.path_steps} and jumps between {times}",
        )
        places = [t * self.path_steps for t in times]
        require(
            self.align != "scores" or all(abs(p - round(p)) < 1e-6 for p in places),
            "align='scores' compares at times of both samplers: path_steps must be a multiple of "
            f"the jumps, got {self.path_steps} and jumps between {times}",
        )
        self.grid, self.steps = times, None
        if self.learn_times is None:
            self.learn_times = self.align == "transitions"

    def trained(self, student: Denoiser, teacher: Denoiser, seed: int) -> Denoiser:
        return LearnedSampler(teacher, self)

    def delivered(self, model: Denoiser) -> Denoiser:
        return _learned(model).carried()

    def check(self, student: Denoiser, teacher: Denoiser | None) -> None:
        super().check(student, teacher)
        if _learned(student).joint:
            raise ValueError(
                "lsd scales the rates of single positions, and this teacher draws them jointly: "
                "distil a product teacher, or use --method matching"
            )

    def __call__(
        self, student: Denoiser, teacher: Denoiser | None, batch: Tensor, generator: Generator
    ) -> tuple[Tensor, Metrics]:
        teacher, learned = require_frozen(teacher, student), _learned(student)
        times = torch.linspace(1, 0, self.path_steps + 1, dtype=torch.float64, device=batch.device)
        with torch.no_grad():
            x = teacher.process.noise_for(batch, generator)
            states = [x]
            for step in trajectory(Ancestral(), teacher, x, times):
                states.append(draw_step(step(states[-1]), generator))
        path = Path(teacher, states, times)
        if self.align == "scores":
            loss, metrics = self._scores(learned, path, generator)
        else:
            loss, metrics = self._transitions(learned, path)
        multipliers = learned.multipliers().detach()
        return loss, {
            **metrics,
            "least_multiplier": multipliers.min(),
            "largest_multiplier": multipliers.max(),
            "last_time": learned.times().detach()[-2],
        }

    def _transitions(self, learned: LearnedSampler, path: Path) -> tuple[Tensor, Metrics]:
        whole = torch.ones((), dtype=torch.float64, device=path.times.device)
        inner = [path.around(time) for time in learned.times()[1:-1]]
        around = [[(0, whole)], *inner, [(self.path_steps, whole)]]
        loss, excess = torch.zeros_like(whole), torch.zeros_like(whole)
        for starts, ends, multiplier in zip(around, around[1:], [*learned.multipliers(), None]):
            for begin, share in starts:
                with torch.no_grad():
                    law = path.law(begin)
                    costs = path.costs(law, begin, [end for end, _ in ends])
                for (end, other), cost in zip(ends, costs):
                    more = torch.zeros_like(whole)
                    if multiplier is not None:
                        more = self._excess(law, path, begin, end, multiplier)
                    loss = loss + share * other * (cost + more)
                    excess = excess + (share * other * more).detach()
        return loss, {"excess": excess}

    def _excess(self, law: Law, path: Path, begin: int, end: int, multiplier: Tensor) -> Tensor:
        """By how much less the scaled step is likely to make the teacher's way than the exact one.

        Mean over the positions, in nats: ().
        """
        x, y, t, s = path.states[begin], path.states[end], path.times[begin], path.times[end]
        process = path.teacher.process
        exact = Scaled().jump(law, process, x, t, s).log_prob(y, _FLOOR)
        scaled = Scaled(base=self.base).jump(law, process, x, t, s, multiplier).log_prob(y, _FLOOR)
        return (exact - scaled).mean()

    def _scores(
        self, learned: LearnedSampler, path: Path, generator: Generator
    ) -> tuple[Tensor, Metrics]:
        teacher, process = path.teacher, path.teacher.process
        own_step, x = Scaled(base=self.base), path.states[0]
        if self.relaxed:
            redrawn = bernoulli(torch.full_like(x, self.relaxed, dtype=torch.float64), generator)
            other = integers(teacher.clean_vocab_size, x.shape, generator, x.device)
            x = torch.where(redrawn & ~process.is_kept(other), other, x)
        loss = torch.zeros((), dtype=torch.float64, device=x.device)
        scale = torch.zeros_like(loss)
        for multiplier, (t, s) in zip(learned.multipliers(), pairwise(learned.times())):
            ((place, _),) = path.around(t)
            with torch.no_grad():
                law, aim = teacher(x, t), path.law(place)
                rates = reverse_rates(law, process, x, t)
                target = reverse_rates(aim, process, path.states[place], t)
                own, both, theirs = inner_products(rates, target) / x.numel()
                x = own_step.jump(law, process, x, t, s, multiplier).sample(generator)
            loss = loss + multiplier.square() * own - 2 * multiplier * both + theirs
            scale += theirs
        return loss, {"relative_error": loss.detach() / scale}


class Path(NamedTuple):
    """A trajectory of the teacher.

    Attributes:
        teacher: whose it is.
        states: N + 1 of (B, L), from noise to x₀.
        times: (N + 1,) float64, from 1 to 0.
    """

    teacher: Denoiser
    states: list[Tensor]
    times: Tensor

    def law(self, place: int) -> Law:
        """The teacher's, at a state of its own."""
        return self.teacher(self.states[place], self.times[place])

    def around(self, time: Tensor) -> list[tuple[int, Tensor]]:
        """The places on both sides of a time, and how much it is of each; one where it is there."""
        place = (1 - time) * (len(self.states) - 1)
        low = int(place.detach() + 1e-9)
        over = place - low
        if not time.requires_grad and float(over) < 1e-9:
            return [(low, torch.ones_like(over))]
        return [(low, 1 - over), (low + 1, over)]

    def costs(self, law: Law, begin: int, ends: list[int]) -> Tensor:
        """What the exact step of a law loses from a place to others, nats per position.

        Up to what telescopes (:mod:`fewjump.sampler.interval_cost`): (S,) float64.
        """
        process, x, clean = self.teacher.process, self.states[begin], self.states[-1]
        t, earlier = float(self.times[begin]), self.times[ends].tolist()
        counts = torch.bincount(clean.reshape(-1), minlength=process.vocab_size).double()
        found = reverse_entropies(as_product(law), process, x, t, earlier).sum(0)
        return (found - forward_entropies(process, counts[None], t, earlier)[0]) / x.numel()


class LearnedSampler(Denoiser):
    """A teacher, with the coefficients of a few-step sampler of it as its only parameters.

    Args:
        teacher: no part of the module: it is neither trained nor saved with it.
        options: what to begin with.
    """

    def __init__(self, teacher: Denoiser, options: SamplerDistillation) -> None:
        super().__init__(teacher.process, teacher.length, teacher.clean_vocab_size)
        self._teacher = (teacher,)
        self.take_after(teacher)
        self.classes, self.guidance_range = teacher.classes, teacher.guidance_range
        self.base: ScaledName = options.base
        self.shortest = _CELLS / options.path_steps
        grid = torch.tensor(options.few_step_times(), dtype=torch.float64)
        self.log_multipliers = nn.Parameter(grid.new_zeros(len(grid) - 2))
        shares = (-grid.diff() - self.shortest).log()
        self.log_shares = nn.Parameter(shares, requires_grad=bool(options.learn_times))
        for parameter in self.parameters():
            parameter.lr_scale = LR_SCALE  # pyright: ignore[reportAttributeAccessIssue]

    def law(self, x_t: Tensor, t: Tensor) -> Law:
        return self._teacher[0](x_t, t)

    def conditional_law(self, x_t: Tensor, t: Tensor, condition: Condition) -> Law:
        return self._teacher[0](x_t, t, condition)

    def multipliers(self) -> Tensor:
        """Φ_k: (K − 1,) float64."""
        return self.log_multipliers.exp()

    def times(self) -> Tensor:
        """From 1 to 0: (K + 1,) float64."""
        count = len(self.log_shares)
        free = 1 - count * self.shortest
        passed = (self.shortest + free * self.log_shares.softmax(0)).cumsum(0)
        return torch.cat([passed.new_ones(1), 1 - passed[:-1], passed.new_zeros(1)])

    def carried(self) -> Denoiser:
        """The teacher itself, in eval mode, which carries the sampler from now on."""
        model = self._teacher[0].requires_grad_(True).eval()
        model.evaluations = 0
        with torch.no_grad():
            carry_sampler(model, self.times(), self.multipliers(), self.base)
        return model


def inner_products(first: Rates, second: Rates) -> Tensor:
    """⟨R, R⟩, ⟨R, R'⟩ and ⟨R', R'⟩ of two tables of rates, over all their entries: (3,) float64."""
    index = ((first.bound != 0) | (second.bound != 0)).reshape(-1).nonzero()[:, 0]
    out = torch.zeros(3, dtype=torch.float64, device=index.device)
    together = min(first.rows_at_once(), second.rows_at_once())
    for part in row_chunks(index.shape[0], 1, together):
        a, b = (rates.values(index[part]).double() for rates in (first, second))
        out += torch.stack([(a * a).sum(), (a * b).sum(), (b * b).sum()])
    return out


def _learned(student: Denoiser) -> LearnedSampler:
    found = student.unconditioned
    if not isinstance(found, LearnedSampler):
        raise ValueError(
            "lsd trains the coefficients of a sampler, no network; use fewjump.distill, or "
            "objective.trained(teacher, teacher, 0)"
        )
    return found
