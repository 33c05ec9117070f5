"""Samplers: walk a time grid from noise to data."""

from fewjump.sampler.ancestral import Ancestral
from fewjump.sampler.base import Move, Moves, Sampler
from fewjump.sampler.euler import Euler
from fewjump.sampler.exact import exact_output_law
from fewjump.sampler.first_hitting import FirstHitting
from fewjump.sampler.grid import GRIDS, time_grid
from fewjump.sampler.registry import SAMPLERS, get_sampler
from fewjump.sampler.rk2 import ThetaRK2
from fewjump.sampler.run import SamplerRun, Seen, run, sample
from fewjump.sampler.tau_leaping import TauLeaping
from fewjump.sampler.trapezoidal import ThetaTrapezoidal

__all__ = [
    "Ancestral",
    "Euler",
    "FirstHitting",
    "GRIDS",
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
    "get_sampler",
    "run",
    "sample",
    "time_grid",
]
