"""Every objective, with an exact student on an enumerated problem, for the law tests.

The data are a mixture of two products, so that the exact posterior is known as a product of its
marginals, as a mixture, as a latent variable and as concrete scores. Each student is the exact one
but for free offsets of its log-probabilities, all 0: the gradient at the exact posterior is that of
the offsets.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fewjump.denoiser.base import Denoiser
from fewjump.law import DiscreteLatent, LatentLaw, Law, MixtureLaw, ProductLaw
from fewjump.law.base import enumerate_states, ravel
from fewjump.objective import (
    ConditionalMatching,
    CorrelationDistillation,
    CrossEntropyELBO,
    DataLikelihood,
    DiscreteConsistency,
    InverseDistillation,
    JointConditionalMatching,
    LatentMatching,
    MomentMatching,
    Objective,
    OnPolicyRefinement,
    Rectification,
    RewardRefinement,
    RoutedLikelihood,
    SamplerDistillation,
    ScoreEntropy,
    SelfDistillation,
    TokenMatching,
    VariationalLikelihood,
)
from fewjump.objective.learned_sampler import LearnedSampler
from fewjump.objective.on_policy import StudentWithAuxiliary
from fewjump.problem import EnumeratedJoint
from fewjump.process import Process
from laws.registry import Registry

V, K = 3, 2


class World:
    """A mixture of K products over V tokens, and a process over them (a mask is one state more)."""

    def __init__(self, process: Process, length: int) -> None:
        source = torch.Generator().manual_seed(4)
        self.process, self.length = process, length
        self.weights = torch.tensor([0.4, 0.6], dtype=torch.float64)
        logits = torch.randn(K, length, V, generator=source, dtype=torch.float64)
        self.tables = logits.softmax(-1)
        states = enumerate_states(V, length)
        each = self.tables.gather(-1, states.T.expand(K, -1, -1))
        self.problem = EnumeratedJoint((self.weights @ each.prod(1)).reshape((V,) * length))

    def mixture(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the exact posterior's components, (B, K, L, V'), and of its weights, (B, K)."""
        extra = self.process.vocab_size - V
        tables = nn.functional.pad(self.tables, (0, extra))
        joint = tables * self.process.likelihood(x_t, t)[:, None]
        return joint.log(), self.weights.log() + joint.sum(-1).log().sum(-1)


class Exact(Denoiser):
    """What a world's posterior is, but for offsets by state."""

    def __init__(self, world: World, **shapes: tuple[int, ...]) -> None:
        super().__init__(world.process, world.length)
        self.world, states = world, world.process.vocab_size**world.length
        self.offsets = nn.ParameterDict(
            {
                n: nn.Parameter(torch.zeros(states, *s, dtype=torch.float64))
                for n, s in shapes.items()
            }
        )

    def offset(self, name: str, x_t: Tensor) -> Tensor:
        return self.offsets[name][ravel(x_t, self.process.vocab_size)]


class Marginals(Exact):
    """The product of the exact marginals."""

    def __init__(self, world: World) -> None:
        super().__init__(world, tokens=(world.length, world.process.vocab_size))

    def law(self, x_t: Tensor, t: Tensor) -> ProductLaw:
        exact = self.world.problem.posterior(x_t, t, self.process).marginals()
        return ProductLaw(exact.log() + self.offset("tokens", x_t))


class Joint(Exact):
    """The exact joint posterior, as a mixture."""

    mixture = True

    def __init__(self, world: World) -> None:
        tokens = (K, world.length, world.process.vocab_size)
        super().__init__(world, tokens=tokens, weights=(K,))

    def parts(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        logits, weights = self.world.mixture(x_t, t)
        return logits + self.offset("tokens", x_t), weights + self.offset("weights", x_t)

    def law(self, x_t: Tensor, t: Tensor) -> Law:
        return MixtureLaw(*self.parts(x_t, t))


class Latent(Joint):
    """The same with the component as a latent variable."""

    latent = mixture = True
    head = SimpleNamespace(encoder=True, is_one_category=lambda: True)

    def law(self, x_t: Tensor, t: Tensor) -> Law:
        logits, weights = self.parts(x_t, t)
        self.head.encode = lambda *_: DiscreteLatent(weights.detach())

        def decode(z: Tensor, rows: Tensor) -> ProductLaw:
            return ProductLaw(logits[rows, z.argmax(-1) if z.is_floating_point() else z])

        return LatentLaw(
            DiscreteLatent(weights),
            decode,
            self.world.length,
            self.process.vocab_size,
        )


class ScoresOf(Marginals):
    """The exact concrete scores."""

    def ratios(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.world.problem.ratios(x_t, t, self.process) * self.offset("tokens", x_t).exp()


def beside(student: Callable[[World], Denoiser]) -> Callable[[World], Denoiser]:
    """Students with the exact auxiliary network."""
    return lambda world: StudentWithAuxiliary(student(world), Marginals(world))


refined = beside(Joint)


def following() -> SamplerDistillation:
    return SamplerDistillation(steps=3, path_steps=9, learn_times=False)


class Case(NamedTuple):
    """An objective, the exact student for it, and where the exact posterior is its fixed point.

    Attributes:
        make: the objective.
        student: the exact student of a world.
        length: positions of the world: 1 where drawing them independently is all that is wrong.
        masked: whether it is for noise with a mask only.
        unmasked: whether it is for noise without a mask only.
    """

    make: Callable[[], Objective]
    student: Callable[[World], Denoiser]
    length: int = 2
    masked: bool = False
    unmasked: bool = False


OBJECTIVE_CASES: Registry[Objective] = Registry(Objective, "fewjump.objective")
CASES: dict[str, Case] = {}


def add(name: str, make: Callable[[], Objective], student: Callable[..., Denoiser], **options: Any):
    CASES[name] = Case(make, student, **options)
    OBJECTIVE_CASES.add(type(make()), make, name)


add("conditional-forward", lambda: ConditionalMatching("forward", min_time=0.05), Marginals)
for how in ("student-exact", "teacher-rollout"):
    add(
        f"conditional-{how}",
        lambda how=how: ConditionalMatching(how, min_time=0.05, rollout_steps=2),
        Marginals,
        length=1,
    )
add("joint-forward", lambda: JointConditionalMatching("forward", min_time=1e-4), Joint)
# As s falls to 0 its target is the student's own law, whatever that is.
add("joint-student", lambda: JointConditionalMatching("student", near=0.3), Joint, length=1)
add("joint-product", lambda: JointConditionalMatching("forward", near=0.3), Marginals)
add("latent", lambda: LatentMatching("forward", min_time=1e-4), Latent)
add("on-policy-student", lambda: OnPolicyRefinement("student", steps=2, min_time=0.05), refined)
add(
    "on-policy-forward",
    lambda: OnPolicyRefinement("forward", steps=2, min_time=0.05, estimator="score"),
    refined,
)
# A reward that is the same for all leaves the start, which here is the exact product.
for source in ("student", "forward"):
    add(
        f"reward-{source}",
        lambda source=source: RewardRefinement(
            source, steps=2, min_time=0.05, reward=lambda x0: torch.ones(len(x0)), anchor=1.0
        ),
        Marginals,
    )
add("inverse", lambda: InverseDistillation(steps=2, min_time=0.1, anchor=0.0), refined)
# A product law is what the anchor pulls to.
add("inverse-anchored", lambda: InverseDistillation(min_time=0.1), refined, length=1)
add("dmmd", lambda: MomentMatching("student", steps=2, min_time=0.1), refined)
add("dmmd-published", lambda: MomentMatching(min_time=0.1), beside(Marginals), length=1)
add("dimo", lambda: TokenMatching(min_time=0.1, reverse_share=0.4, estimator="score"), refined)
add("dimo-published", lambda: TokenMatching(min_time=0.1), beside(Marginals), length=1)
add("dimo-latent", lambda: TokenMatching(min_time=0.1), beside(Latent))
add("di4c", lambda: CorrelationDistillation(min_time=0.02, distil_until=0.1), Joint, length=1)
add("data-only", lambda: DataLikelihood(min_time=0.05), Joint)
add("data-only-elbo", lambda: DataLikelihood(weighting="elbo", min_time=0.1), Joint)
add("e-moe", lambda: RoutedLikelihood(steps=2), Joint)
add("vadd", lambda: VariationalLikelihood(min_time=0.05), Latent)
add("cross-entropy", lambda: CrossEntropyELBO(min_time=0.05), Marginals)
add("cross-entropy-joint", lambda: CrossEntropyELBO(min_time=0.05), Joint)
add("elbo", lambda: CrossEntropyELBO("elbo", min_time=0.1), Marginals)
add("score-entropy", lambda: ScoreEntropy(min_time=0.1), ScoresOf)
add("score-entropy-posterior", lambda: ScoreEntropy(min_time=0.1), Marginals)
add(
    "self-distillation",
    lambda: SelfDistillation(jumps_before=4, rounds=1, divergence="forward", min_time=0.05),
    Marginals,
    masked=True,
)
add(
    "self-distillation-reverse",
    lambda: SelfDistillation(jumps_before=4, rounds=1, min_time=0.05),
    Marginals,
    length=1,
    masked=True,
)
# With several positions the teacher's path is that of a product law at each of its steps.
add(
    "learned-sampler",
    following,
    lambda world: LearnedSampler(world.problem.denoiser(world.process), following()),
    length=1,
)
add("redi", lambda: Rectification(rounds=1, min_time=0.05), Marginals, unmasked=True)
add("redi-joint", lambda: Rectification(rounds=1, min_time=0.05), Joint, unmasked=True)
# As the step falls to 0: the fixed point that the paper states, and the only one.
for how in ("reverse", "forward"):
    add(
        f"dcd-{how}",
        lambda how=how: DiscreteConsistency(
            jumps_before=2**46, rounds=1, divergence=how, min_time=0.05
        ),
        Marginals,
        unmasked=True,
    )
