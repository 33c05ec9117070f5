"""What the library has of a noun, by name: the one list of each.

Python, the command line, the documentation and the tests read these. A name stands for the place of
a class, which is imported when it is asked for: to list the names costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from fewjump.denoiser.heads import Head
    from fewjump.law.base import Decoding
    from fewjump.objective.base import Objective
    from fewjump.process.base import Process
    from fewjump.sampler.base import Sampler
    from fewjump.schedule import Schedule

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Classes, or functions, by name.

    Args:
        noun: what they are, for messages.
        places: name → ``module:Class``.
    """

    def __init__(self, noun: str, places: Mapping[str, str]) -> None:
        self.noun, self._places = noun, dict(places)
        self._classes: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        if name not in self._classes:
            if name not in self._places:
                raise KeyError(name)
            module, _, attribute = self._places[name].partition(":")
            self._classes[name] = getattr(import_module(module), attribute)
        return self._classes[name]

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def named(self, name: object) -> T:
        """The class of a name.

        Raises:
            ValueError: for an unknown one, with those that are known.
        """
        if name not in self._places:
            raise ValueError(f"unknown {self.noun} {name!r}; known: {', '.join(self)}")
        return self[str(name)]

    def add(self, name: str, cls: T) -> None:
        """Make a class of yours known by a name.

        Raises:
            ValueError: if another class has it.
        """
        place = f"{cls.__module__}:{cls.__qualname__}"  # type: ignore[attr-defined]
        known = self._places.setdefault(name, place)
        if known != place:
            raise ValueError(
                f"a {self.noun} of kind {name!r} exists already: {known.rpartition(':')[2]}"
            )
        self._classes[name] = cls


PROCESSES: Registry[type[Process]] = Registry(
    "process",
    {
        "Uniform": "fewjump.process.reset:Uniform",
        "Absorbing": "fewjump.process.reset:Absorbing",
        "ResetToPrior": "fewjump.process.reset:ResetToPrior",
        "TimeVaryingPrior": "fewjump.process.time_varying_prior:TimeVaryingPrior",
        "FixedRate": "fewjump.process.fixed_rate:FixedRate",
        "LowRankRate": "fewjump.process.low_rank:LowRankRate",
        "LowRankDiagonalRate": "fewjump.process.low_rank_diagonal:LowRankDiagonalRate",
        "TimeVaryingRate": "fewjump.process.time_varying_rate:TimeVaryingRate",
    },
)

HEADS: Registry[type[Head]] = Registry(
    "head",
    {
        "product": "fewjump.denoiser.heads:ProductHead",
        "mixture": "fewjump.denoiser.joint_heads.mixture:MixtureHead",
        "chain": "fewjump.denoiser.joint_heads.chain:ChainHead",
        "mixture-of-chains": "fewjump.denoiser.joint_heads.chain:MixtureOfChainsHead",
        "shared-chain": "fewjump.denoiser.joint_heads.chain:SharedChainHead",
        "shared-mixture": "fewjump.denoiser.joint_heads.mixture:SharedMixtureHead",
        "autoregressive": "fewjump.denoiser.joint_heads.autoregressive:AutoregressiveHead",
        "tensor-train": "fewjump.denoiser.joint_heads.tensor_train:TensorTrainHead",
        "any-order": "fewjump.denoiser.joint_heads.any_order:AnyOrderHead",
        "latent": "fewjump.denoiser.latent:LatentHead",
    },
)

SAMPLERS: Registry[type[Sampler]] = Registry(
    "sampler",
    {
        "euler": "fewjump.sampler.single_stage:Euler",
        "tau-leaping": "fewjump.sampler.single_stage:TauLeaping",
        "ancestral": "fewjump.sampler.single_stage:Ancestral",
        "scaled": "fewjump.sampler.scaled:Scaled",
        "flow-matching": "fewjump.sampler.single_stage:FlowMatching",
        "held-latent": "fewjump.sampler.single_stage:HeldLatent",
        "first-hitting": "fewjump.sampler.first_hitting:FirstHitting",
        "theta-trapezoidal": "fewjump.sampler.two_stage:ThetaTrapezoidal",
        "theta-rk2": "fewjump.sampler.two_stage:ThetaRK2",
        "entropy-bounded": "fewjump.sampler.adaptive:EntropyBounded",
        "confidence": "fewjump.sampler.adaptive:Confidence",
        "remdm": "fewjump.sampler.remasking:ReMDM",
        "psi": "fewjump.sampler.remasking:Psi",
    },
)

DECODINGS: Registry[type[Decoding]] = Registry(
    "decoding",
    {
        "fixed-point": "fewjump.law.decoding:FixedPoint",
        "draft": "fewjump.law.decoding:DraftAndVerify",
    },
)

_METHODS = {
    "sdtt": "fewjump.objective.self_distillation:SelfDistillation",
    "dcd": "fewjump.objective.consistency:DiscreteConsistency",
    "redi": "fewjump.objective.rectification:Rectification",
    "idlm": "fewjump.objective.inverse_distillation:InverseDistillation",
    "dmmd": "fewjump.objective.moment_matching:MomentMatching",
    "dimo": "fewjump.objective.token_matching:TokenMatching",
    "di4c": "fewjump.objective.correlation:CorrelationDistillation",
    "data-only": "fewjump.objective.data_only:DataLikelihood",
    "e-moe": "fewjump.objective.data_only:RoutedLikelihood",
    "vadd": "fewjump.objective.data_only:VariationalLikelihood",
    "lsd": "fewjump.objective.learned_sampler:SamplerDistillation",
}

SCHEDULES: Registry[type[Schedule]] = Registry(
    "schedule",
    {name: f"fewjump.schedule:{name}" for name in ("LogLinear", "Geometric", "Cosine", "Linear")},
)

#: Objectives that ``fewjump distill --method`` takes, beside matching.
METHODS: Registry[type[Objective]] = Registry("method", _METHODS)

OBJECTIVES: Registry[type[Objective]] = Registry(
    "objective",
    {
        **_METHODS,
        "conditional-matching": "fewjump.objective.conditional:ConditionalMatching",
        "joint-conditional-matching": "fewjump.objective.joint:JointConditionalMatching",
        "latent-matching": "fewjump.objective.latent:LatentMatching",
        "on-policy-refinement": "fewjump.objective.on_policy:OnPolicyRefinement",
        "reward-refinement": "fewjump.objective.reward:RewardRefinement",
        "cross-entropy": "fewjump.objective.elbo:CrossEntropyELBO",
        "score-entropy": "fewjump.objective.elbo:ScoreEntropy",
    },
)

#: What a room or a base calls of one above it: the hub's methods of every model, the grid that is
#: fitted to a model by drawing from it, and the denoiser that asks another for a class.
ENTRY_POINTS: Registry[Callable[..., Any]] = Registry(
    "entry point",
    {
        "from_pretrained": "fewjump.publish.hub:from_pretrained",
        "save_pretrained": "fewjump.publish.hub:save",
        "push_to_hub": "fewjump.publish.hub:push_to_hub",
        "generate": "fewjump.publish.hub:generate",
        "conditioned": "fewjump.denoiser.condition:conditioned",
        "fitted": "fewjump.sampler.fitted_grid:remembered_grid",
    },
)
