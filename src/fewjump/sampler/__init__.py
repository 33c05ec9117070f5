"""Samplers: walk a time grid from noise to data."""

from fewjump.registry import SAMPLERS
from fewjump.sampler.adaptive import Confidence, EntropyBounded
from fewjump.sampler.base import Move, Moves, Sampler, get_sampler
from fewjump.sampler.carried import carried_grid, carry_grid, carry_sampler
from fewjump.sampler.exact import exact_coupling, exact_output_law
from fewjump.sampler.first_hitting import FirstHitting
from fewjump.sampler.fitted_grid import FittedGrid, IntervalCosts, fitted_grid, interval_costs
from fewjump.sampler.remasking import Psi, ReMDM
from fewjump.sampler.run import RunProgress, SamplerRun, run, sample
from fewjump.sampler.scaled import Scaled
from fewjump.sampler.single_stage import Ancestral, Euler, FlowMatching, HeldLatent, TauLeaping
from fewjump.sampler.time_grid import FITTED, GRIDS, time_grid
from fewjump.sampler.two_stage import ThetaRK2, ThetaTrapezoidal

__all__ = [
    "Ancestral",
    "Confidence",
    "EntropyBounded",
    "Euler",
    "FITTED",
    "FirstHitting",
    "FittedGrid",
    "FlowMatching",
    "GRIDS",
    "HeldLatent",
    "IntervalCosts",
    "Move",
    "Moves",
    "Psi",
    "ReMDM",
    "SAMPLERS",
    "Sampler",
    "Scaled",
    "SamplerRun",
    "RunProgress",
    "TauLeaping",
    "ThetaRK2",
    "ThetaTrapezoidal",
    "exact_coupling",
    "exact_output_law",
    "fitted_grid",
    "get_sampler",
    "interval_costs",
    "carry_grid",
    "carry_sampler",
    "carried_grid",
    "run",
    "sample",
    "time_grid",
]
