"""Samplers: walk a time grid from noise to data."""

from fewjump.sampler.ancestral import Ancestral
from fewjump.sampler.base import Move, Moves, Sampler
from fewjump.sampler.cheapest_grid import IntervalCosts
from fewjump.sampler.euler import Euler
from fewjump.sampler.exact import exact_output_law
from fewjump.sampler.first_hitting import FirstHitting
from fewjump.sampler.fitted_grid import FittedGrid, fitted_grid, interval_costs
from fewjump.sampler.grid import FITTED, GRIDS, time_grid
from fewjump.sampler.kept_grids import keep_grid, kept_grid
from fewjump.sampler.registry import SAMPLERS, get_sampler
from fewjump.sampler.rk2 import ThetaRK2
from fewjump.sampler.run import SamplerRun, Seen, run, sample
from fewjump.sampler.tau_leaping import TauLeaping
from fewjump.sampler.trapezoidal import ThetaTrapezoidal

__all__ = [
    "Ancestral",
    "Euler",
    "FITTED",
    "FirstHitting",
    "FittedGrid",
    "GRIDS",
    "IntervalCosts",
    "Move",
    "Moves",
    "SAMPLERS",
    "Sampler",
    "SamplerRun",
    "Seen",
    "TauLeaping",
    "ThetaRK2",
    "ThetaTrapezoidal",
    "exact_output_law",
    "fitted_grid",
    "get_sampler",
    "interval_costs",
    "keep_grid",
    "kept_grid",
    "run",
    "sample",
    "time_grid",
]
