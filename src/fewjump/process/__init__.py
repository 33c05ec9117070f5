"""Forward processes: how data is noised, and how to step back."""

from fewjump.process.base import (
    Process,
    process_from_config,
)
from fewjump.process.bridge import Bridge
from fewjump.process.fixed_rate import FixedRate
from fewjump.process.generators import (
    birth_death_rate,
    discretised_gaussian_rate,
    rescale_to_gap,
)
from fewjump.process.kernel import DenseKernel, Kernel
from fewjump.process.low_rank import LowRankRate
from fewjump.process.low_rank_diagonal import LowRankDiagonalRate
from fewjump.process.prior_path import GIDDPriors, InterpolatedPriors, PriorPath
from fewjump.process.rank_one import RankOne, RankOneKernel
from fewjump.process.rate_path import RatePath, SummedRates
from fewjump.process.recovery import Recovery, RecoveryMethod
from fewjump.process.reset import Absorbing, ResetToPrior, Uniform
from fewjump.process.time_varying_prior import (
    TimeVaryingPrior,
    gidd,
    mask_to_uniform,
    uniform_to_mask,
)
from fewjump.process.time_varying_rate import TimeVaryingRate
from fewjump.registry import PROCESSES

__all__ = [
    "PROCESSES",
    "Absorbing",
    "Bridge",
    "DenseKernel",
    "FixedRate",
    "GIDDPriors",
    "InterpolatedPriors",
    "Kernel",
    "LowRankDiagonalRate",
    "LowRankRate",
    "PriorPath",
    "Process",
    "RankOne",
    "RankOneKernel",
    "RatePath",
    "Recovery",
    "RecoveryMethod",
    "ResetToPrior",
    "SummedRates",
    "TimeVaryingPrior",
    "TimeVaryingRate",
    "Uniform",
    "birth_death_rate",
    "discretised_gaussian_rate",
    "gidd",
    "mask_to_uniform",
    "process_from_config",
    "rescale_to_gap",
    "uniform_to_mask",
]
