"""Which subclasses the law tests run over, and how the meta-tests find one that is missing.

A room keeps one :class:`Registry` for each of its base classes, adds at least one case for each
concrete subclass, and has a test that asserts ``registry.missing() == set()``.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import Any, Generic, TypeVar

import pytest
import torch

from fewjump import process as processes
from fewjump.process import (
    Absorbing,
    FixedRate,
    LowRankDiagonalRate,
    Process,
    ResetToPrior,
    SummedRates,
    TimeVaryingPrior,
    TimeVaryingRate,
    birth_death_rate,
    discretised_gaussian_rate,
    gidd,
    mask_to_uniform,
    uniform_to_mask,
)
from fewjump.schedule import Cosine, Geometric, Linear, LogLinear, Schedule

T = TypeVar("T")


class Registry(Generic[T]):
    """Named factories of instances of the concrete subclasses of ``base``.

    Args:
        base: the base class.
        package: dotted name of the package (or module) in which subclasses are looked for.
    """

    def __init__(self, base: type[T], package: str) -> None:
        self.base = base
        self.package = package
        self._cases: dict[str, tuple[type[T], Callable[..., T]]] = {}

    def add(self, cls: type[T], make: Callable[..., T], name: str | None = None) -> None:
        """Register a factory for instances of exactly ``cls``."""
        name = name or cls.__name__
        if name in self._cases:
            raise ValueError(f"a case named {name!r} is registered twice")
        self._cases[name] = (cls, make)

    def params(self) -> list[Any]:
        """For ``pytest.mark.parametrize("make", ...)``."""
        return [pytest.param(make, id=name) for name, (_, make) in self._cases.items()]

    def names(self) -> list[str]:
        return list(self._cases)

    def make(self, name: str, *args: Any, **kwargs: Any) -> T:
        """Build the case of that name."""
        return self._cases[name][1](*args, **kwargs)

    def concrete(self) -> set[type[T]]:
        """Every concrete subclass defined in the package, all of whose modules are imported."""
        module = importlib.import_module(self.package)
        for info in pkgutil.walk_packages(getattr(module, "__path__", []), self.package + "."):
            importlib.import_module(info.name)
        found, queue = set(), [self.base]
        while queue:
            for cls in queue.pop().__subclasses__():
                queue.append(cls)
                if cls.__module__.startswith(self.package) and not inspect.isabstract(cls):
                    found.add(cls)
        return found

    def missing(self) -> set[type[T]]:
        """Concrete subclasses without a case; a law test asserts that there are none."""
        return self.concrete() - {cls for cls, _ in self._cases.values()}


SCHEDULES: Registry[Schedule] = Registry(Schedule, "fewjump.schedule")
SCHEDULES.add(LogLinear, LogLinear)
SCHEDULES.add(LogLinear, lambda: LogLinear(eps=1e-5), "LogLinear-1e-5")
SCHEDULES.add(Geometric, Geometric)
SCHEDULES.add(Geometric, lambda: Geometric(sigma_min=1e-2, sigma_max=5.0), "Geometric-mild")
SCHEDULES.add(Cosine, Cosine)
SCHEDULES.add(Linear, lambda: Linear(sigma_max=6.0))
SCHEDULES.add(Linear, lambda: Linear(sigma_max=4.0, sigma_min=1e-2), "Linear-offset")


def random_rate(vocab_size: int, seed: int = 3) -> torch.Tensor:
    """A dense generator with no symmetry: (V, V) float64."""
    source = torch.Generator().manual_seed(seed)
    rate = torch.rand(vocab_size, vocab_size, generator=source, dtype=torch.float64) + 0.05
    rate.fill_diagonal_(0)
    return rate - torch.diag(rate.sum(-1))


def reversible_rate(vocab_size: int, seed: int = 4) -> torch.Tensor:
    """A generator in detailed balance with a law that is not uniform: (V, V) float64."""
    source = torch.Generator().manual_seed(seed)
    flow = torch.rand(vocab_size, vocab_size, generator=source, dtype=torch.float64) + 0.1
    law = torch.rand(vocab_size, generator=source, dtype=torch.float64) + 0.2
    rate = (flow + flow.mT) / law[:, None]
    rate.fill_diagonal_(0)
    return rate - torch.diag(rate.sum(-1))


def jordan_rate() -> torch.Tensor:
    """An irreducible generator without a basis of eigenvectors: (4, 4) float64.

    Q = 1πᵀ − I + u·vᵀ with π uniform, v orthogonal to 1, u to π, and v to u: the last term is
    nilpotent on the eigenspace of −1.
    """
    u = torch.tensor([1.0, -1.0, 0.0, 0.0], dtype=torch.float64)
    v = torch.tensor([0.0, 0.0, 1.0, -1.0], dtype=torch.float64)
    return torch.full((4, 4), 0.25).double() - torch.eye(4).double() + 0.2 * u[:, None] * v


def turning_prior(t: torch.Tensor) -> torch.Tensor:
    """A prior that goes around a circle in the simplex: (N,) → (N, 4)."""
    angle = 2 * torch.pi * t[:, None] + torch.tensor([0.0, 0.5, 1.0, 1.5], dtype=t.dtype) * torch.pi
    return (1 + 0.8 * torch.sin(angle)) / 4


@cache
def between_rates(schedule: Schedule) -> TimeVaryingRate:
    """From one generator without symmetry to another, in a straight line."""
    path = SummedRates([random_rate(4, 1), random_rate(4, 2)], [0, 1], [[1, 0.2], [0, 1]])
    return TimeVaryingRate(path, schedule, tolerance=1e-12)


@cache
def mask_and_walk(schedule: Schedule) -> TimeVaryingRate:
    """Three levels that walk at first and are masked, in state 3, later on."""
    walk = torch.zeros(4, 4, dtype=torch.float64)
    walk[:3, :3] = birth_death_rate(3, up=1.5, down=1.0)
    mask = torch.zeros(4, 4, dtype=torch.float64)
    mask[:3, 3], mask[range(3), range(3)] = 1.0, -1.0
    path = SummedRates([walk, mask], [0, 1], [[1, 0.5], [0, 1.5]])
    return TimeVaryingRate(path, schedule, mask=3, tolerance=1e-12)


# Every factory takes the schedule; V = 4 throughout, so that V³ sequences are enumerable. The
# library's registry gives one of each process; the others are corners.
PROCESSES: Registry[Process] = Registry(Process, "fewjump.process")
for name, registered in processes.PROCESSES.items():
    PROCESSES.add(registered, registered.example, name)
PROCESSES.add(Absorbing, lambda schedule: Absorbing(4, schedule, mask=1), "Absorbing-mask1")
PROCESSES.add(
    ResetToPrior,
    lambda schedule: ResetToPrior(torch.tensor([0.6, 0.0, 0.4, 0.0]), schedule),
    "ResetToPrior-zeros",
)
PROCESSES.add(
    TimeVaryingPrior, lambda schedule: mask_to_uniform(4, schedule), "MovingPrior-mask-to-uniform"
)
PROCESSES.add(
    TimeVaryingPrior, lambda schedule: uniform_to_mask(4, schedule), "MovingPrior-uniform-to-mask"
)
PROCESSES.add(TimeVaryingPrior, lambda schedule: gidd(4, schedule, 0.3), "MovingPrior-gidd")
PROCESSES.add(
    TimeVaryingPrior,
    lambda schedule: TimeVaryingPrior(turning_prior, schedule, tolerance=1e-13),
    "MovingPrior-function",
)
PROCESSES.add(TimeVaryingRate, between_rates, "MovingRate-sum")
PROCESSES.add(TimeVaryingRate, mask_and_walk, "MovingRate-mask-and-walk")
PROCESSES.add(
    LowRankDiagonalRate,
    lambda schedule: LowRankDiagonalRate(
        torch.tensor([[1.0], [0.5], [2.0], [0.0]]),
        torch.tensor([[0.0, 0, 0, 1]]),
        schedule,
        mask=3,
    ),
    "LowRankDiagonalRate-masks",
)
PROCESSES.add(FixedRate, lambda schedule: FixedRate(random_rate(4), schedule), "FixedRate-random")
PROCESSES.add(
    FixedRate, lambda schedule: FixedRate(reversible_rate(4), schedule), "FixedRate-reversible"
)
PROCESSES.add(FixedRate, lambda schedule: FixedRate(jordan_rate(), schedule), "FixedRate-defective")
PROCESSES.add(
    FixedRate,
    lambda schedule: FixedRate(discretised_gaussian_rate(4, width=1.0), schedule),
    "FixedRate-gaussian",
)
