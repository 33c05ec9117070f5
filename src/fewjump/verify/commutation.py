"""``fewjump verify commutation``: is the exponential of the integral the kernel?

If every [Q_t, Q_u] vanishes, P_{t|s} = exp(∫ Q_u du). If not, that closed form is wrong, and the
kernel is the time-ordered exponential.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewjump.report import Series, Table
from fewjump.textfile import function_at
from fewjump.verify.checks import Check, CheckResult, Rows, chart, pick

if TYPE_CHECKING:
    from torch import Tensor

    from fewjump.process import Process
    from fewjump.process.rate_path import SampledRates
    from fewjump.schedule import Schedule

#: Relative commutators below this are rounding.
COMMUTES = 1e-10
TOLERANCE = 1e-9
_NODES = 16
#: Those of :func:`families` that must not commute; all others must.
HYBRIDS = ("GIDD hybrid", "mask to uniform")


@dataclass
class Commutation(Check):
    """Measure whether generators of different times commute.

    Without --rate or --process: the noise of the original models and the library's hybrids. With
    one of them: yours. Reports the largest relative commutator over a grid of times and, beside it,
    by how much exp(∫Q) misses the time-ordered kernel. A few seconds.

    One matrix times a rate σ(t) always commutes: relative commutators are taken of Q_t/σ(t). The
    reference is a product of fourth-order Magnus steps, refined until step doubling agrees.

    Attributes:
        rate: your generator, as file.py:function, a function from a time in [0, 1] to the rate
            matrix (V, V), entry [a, b] the rate a → b. The file is run.
        process: a process as JSON: what Process.config() gives, or a saved model's config.json.
        vocab_size: clean tokens of the original families.
        times: points of the grid.
    """

    name = "commutation"
    about = "whether the generators of different times commute, and the error if not"
    question = "Do the generators of different times commute?"

    rate: str | None = None
    process: Path | None = None
    vocab_size: int = 6
    times: int = 17

    def validate(self) -> None:
        if self.rate is not None and self.process is not None:
            raise ValueError("give --rate or --process, not both")
        if self.times < 2 or self.vocab_size < 2:
            raise ValueError("--times and --vocab-size must be at least 2")

    def measure(self) -> list[dict[str, Any]]:
        """Rows of :func:`commutation`: of the user's generator, or of the known families."""
        asked: dict[str, Process | Callable[[float], Tensor]] = {}
        if self.rate is not None:
            asked[self.rate] = function_at(self.rate, "--rate takes file.py:function")[0]
        elif self.process is not None:
            from fewjump.checkpoint.folder import process_in

            asked[str(self.process)] = process_in(self.process)
        else:
            asked |= families(self.vocab_size)
        return [asdict(commutation(given, name, self.times)) for name, given in asked.items()]

    def answer(self, rows: Rows) -> CheckResult:
        known = self.rate is None and self.process is None
        failures = []
        for row in rows if known else ():
            if row["commutes"] == (row["name"] in HYBRIDS):
                should = "not commute" if row["commutes"] else "commute"
                failures.append(
                    f"{row['name']} should {should}, but its largest relative commutator is "
                    f"{row['largest']:.2g}"
                )
        failures += [
            f"{row['name']} commutes, yet exp(∫Q) is off by {row['worst_error']:.2g}"
            for row in rows
            if row["commutes"] and row["worst_error"] > 1e-7
        ]
        shown = pick(rows, commutes=False) or rows
        charts = [
            chart(
                title,
                [Series(row["name"], row["times"], row[key]) for row in shown],
                "time t",
                y_label,
                caption=caption,
            )
            for title, key, y_label, caption in (
                (
                    "How wrong is the exponential of the integral?",
                    "errors",
                    "total variation at t, worst token",
                    "Between exp(∫₀ᵗ Q) and the time-ordered kernel P of t given 0.",
                ),
                (
                    "How far from commuting?",
                    "commutators",
                    "largest relative commutator of Q_t",
                    "‖[Q_t, Q_u]‖ / (‖Q_t‖·‖Q_u‖), the largest over the other times u.",
                ),
            )
        ]
        table = Table(
            "Every generator",
            ("noise", "commutes", "largest relative commutator", "error of exp(∫Q)"),
            [
                (
                    row["name"],
                    "yes" if row["commutes"] else "no",
                    f"{row['largest']:.1e}",
                    f"{row['worst_error']:.1e}",
                )
                for row in rows
            ],
        )
        return self.result(
            rows,
            [told(row) for row in sorted(rows, key=lambda row: -row["largest"])],
            charts,
            tables=[table],
            failures=failures,
        )


@dataclass(frozen=True)
class Commuting:
    """What was found for one generator.

    Attributes:
        name: whose.
        times: the grid.
        commutators: at each time, the largest ‖[Q_t, Q_u]‖/(‖Q_t‖·‖Q_u‖) over the other times u.
        largest: the largest of them.
        between: the two times of the largest.
        errors: at each time, total variation between exp(∫₀ᵗ Q) and the time-ordered kernel, for
            the worst token.
        reference_error: what the reference itself may be off by.
        commutes: whether the generators commute, up to rounding.
        worst_error: the largest error of the closed form.
    """

    name: str
    times: list[float]
    commutators: list[float]
    largest: float
    between: tuple[float, float]
    errors: list[float]
    reference_error: float
    commutes: bool
    worst_error: float


def commutation(
    generator: Process | Callable[[float], Tensor],
    name: str | None = None,
    times: Sequence[float] | int = 17,
) -> Commuting:
    """Measure one generator.

    Args:
        generator: a process, whose ``rate(t)`` is taken; or a function from t in [0, 1] to the rate
            matrix Q_t (V, V), ``[a, b]`` the rate a → b.
        name: what to call it.
        times: the grid, increasing in (0, 1]; or how many, evenly spaced.

    Raises:
        ValueError: if it is no generator, is too large to be dense, or moves too fast to be
            resolved to 1e-9.
    """
    import torch

    from fewjump.process import Process
    from fewjump.process.exponential import exponential_from_series
    from fewjump.process.flow import DenseFlow
    from fewjump.process.generators import close_rows
    from fewjump.process.rate_path import SampledRates
    from fewjump.schedule import Linear

    if isinstance(times, int):
        times = [(k + 1) / times for k in range(times)]
    grid = torch.tensor(list(times), dtype=torch.float64)
    if grid.numel() < 2 or bool((grid.diff() <= 0).any()) or not 0 < grid[0] < grid[-1] <= 1:
        raise ValueError(f"times must be at least 2 increasing numbers in (0, 1], got {times}")
    schedule: Schedule = generator.schedule if isinstance(generator, Process) else Linear(1.0)

    def per_noise(t: float) -> Tensor:
        """The generator in units of the noise rate."""
        if isinstance(generator, Process):
            return generator.rate(t) / schedule.sigma(t)
        return generator(t).double()

    path = SampledRates(per_noise)
    relative = _commutators(path.dense(grid))
    first, second = divmod(int(relative.argmax()), grid.numel())
    levels = schedule.level(grid)
    edges = torch.cat([torch.zeros(1, dtype=torch.float64), levels])
    inner = schedule.sigma_bar(0.0).reshape(1)
    edges = torch.cat([edges, inner[(inner > 0) & (inner < levels[-1])]]).unique()
    flow = DenseFlow(path, schedule.time_of_sigma_bar, edges, TOLERANCE)
    exact = flow.matrices(torch.zeros_like(levels), levels)
    errors = []
    for total, kernel in zip(_integrals(path, schedule, edges, levels), exact, strict=True):
        closed = exponential_from_series(close_rows(total), torch.ones(1, dtype=torch.float64))[0]
        errors.append(float((closed - kernel).abs().sum(-1).max()) / 2)
    return Commuting(
        name=name or (repr(generator) if isinstance(generator, Process) else "this generator"),
        times=grid.tolist(),
        commutators=relative.amax(1).tolist(),
        largest=float(relative.max()),
        between=(float(grid[first]), float(grid[second])),
        errors=errors,
        reference_error=flow.error,
        commutes=float(relative.max()) <= COMMUTES,
        worst_error=max(errors),
    )


def _commutators(rates: Tensor) -> Tensor:
    """‖[Q_t, Q_u]‖/(‖Q_t‖·‖Q_u‖) in the Frobenius norm: (M, V, V) → (M, M)."""
    import torch

    norms = rates.flatten(1).norm(dim=1)
    out = torch.zeros(len(rates), len(rates), dtype=torch.float64)
    for k, rate in enumerate(rates):
        bracket = rate @ rates - rates @ rate
        out[k] = bracket.flatten(1).norm(dim=1)
    return out / (norms[:, None] * norms).clamp(min=1e-300)


def _integrals(
    path: SampledRates, schedule: Schedule, edges: Tensor, levels: Tensor
) -> list[Tensor]:
    """∫₀ of R over the noise, up to each of ``levels`` (all of them edges)."""
    import numpy as np
    import torch

    nodes, weights = (torch.tensor(v) for v in np.polynomial.legendre.leggauss(_NODES))
    total = torch.zeros(path.vocab_size, path.vocab_size, dtype=torch.float64)
    out = []
    for start, end in pairwise(edges):
        half = (end - start) / 2
        rates = path.dense(schedule.time_of_sigma_bar(start + half * (1 + nodes)))
        total = total + half * torch.einsum("n,nab->ab", weights, rates)
        if bool((levels == end).any()):
            out.append(total)
    return out


def families(vocab_size: int = 6) -> dict[str, Process]:
    """The original models' noise over ``vocab_size`` clean tokens, and the library's hybrids."""
    from fewjump.process import Absorbing, Uniform, gidd, mask_to_uniform
    from fewjump.schedule import Cosine, Geometric, LogLinear

    masked = vocab_size + 1
    return {
        "SEDD absorbing": Absorbing(masked, LogLinear()),
        "SEDD uniform": Uniform(vocab_size, Geometric()),
        "MDLM": Absorbing(masked, LogLinear(eps=1e-5)),
        "UDLM": Uniform(vocab_size, LogLinear()),
        "Duo": Uniform(vocab_size, Cosine()),
        "GIDD hybrid": gidd(masked, LogLinear(), peak=0.2),
        "mask to uniform": mask_to_uniform(masked, LogLinear()),
    }


def told(row: Mapping[str, Any]) -> str:
    """One generator's answer in plain words."""
    if row["commutes"]:
        return (
            f"**{row['name']}** commutes: the exponential of the integral is its kernel (largest "
            f"difference {row['worst_error']:.1e})."
        )
    t, u = row["between"]
    when = row["times"][row["errors"].index(row["worst_error"])]
    return (
        f"**{row['name']}** does not commute (relative commutator {row['largest']:.2g} between "
        f"t = {t:.2g} and {u:.2g}); exp(∫Q) is wrong by {row['worst_error']:.2g} in total "
        f"variation at t = {when:.2g}: use `TimeVaryingPrior` if every Q_t redraws from a law, "
        "`TimeVaryingRate` otherwise."
    )
