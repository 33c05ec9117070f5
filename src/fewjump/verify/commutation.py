"""``fewjump verify commutation``: is the exponential of the integral the kernel?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fewjump.report import Series, Table
from fewjump.verify.checks import CheckOptions, CheckResult
from fewjump.verify.summary import Rows, chart, pick

if TYPE_CHECKING:
    from torch import Tensor

    from fewjump.process import Process


@dataclass
class Options(CheckOptions):
    """Measure whether generators of different times commute.

    Without --rate or --process: the noise of the original models and the library's hybrids. With
    one of them: yours. Reports the largest relative commutator over a grid of times and, beside it,
    by how much exp(∫Q) misses the time-ordered kernel. A few seconds.

    One matrix times a rate σ(t) always commutes: relative commutators are taken of Q_t/σ(t). The
    reference is a product of fourth-order Magnus steps, refined until step doubling agrees.
    """

    rate: str | None = None
    """Your generator, as file.py:function, a function from a time in [0, 1] to the rate matrix
    (V, V), entry [a, b] the rate a → b. The file is run."""

    process: Path | None = None
    """A process as JSON: what Process.config() gives, or a saved model's config.json."""

    vocab_size: int = 6
    """Clean tokens of the original families."""

    times: int = 17
    """Points of the grid."""


def run(options: Options) -> CheckResult:
    """Measure, and say what may be used.

    Raises:
        ValueError: for options that do not fit, and for what is no generator.
        FileNotFoundError: if there is no such file.
    """
    if options.rate is not None and options.process is not None:
        raise ValueError("give --rate or --process, not both")
    if options.times < 2 or options.vocab_size < 2:
        raise ValueError("--times and --vocab-size must be at least 2")
    from fewjump.verify.commutation_measure import commutation, families

    expected: dict[str, bool] = {}
    asked: dict[str, Process | Callable[[float], Tensor]] = {}
    if options.rate is not None:
        asked[options.rate] = load_function(options.rate)
    elif options.process is not None:
        asked[str(options.process)] = load_process(options.process)
    else:
        known = families(options.vocab_size)
        asked = {name: process for name, (process, _) in known.items()}
        expected = {name: commutes for name, (_, commutes) in known.items()}
    rows = [commutation(given, name, options.times).row() for name, given in asked.items()]
    return summarise(rows, options, expected)


def load_process(path: Path) -> Process:
    """The process that a JSON file describes, alone or in a saved model's ``config.json``."""
    import json

    from fewjump.process import process_from_config

    config = json.loads(path.read_text(encoding="utf-8"))
    config = config.get("denoiser", config) if isinstance(config, dict) else {}
    return process_from_config(config.get("process", config))


def load_function(where: str) -> Callable[[float], Tensor]:
    """The function that ``file.py:function`` names; the file is run.

    Raises:
        ValueError: for words of another form, or a file without that function.
        FileNotFoundError: if there is no such file.
    """
    import importlib.util

    file, colon, name = where.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise ValueError(f"--rate takes file.py:function, got {where!r}")
    if not Path(file).is_file():
        raise FileNotFoundError(f"no such file: {file}")
    spec = importlib.util.spec_from_file_location("fewjump_user_rate", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, name, None)):
        raise ValueError(f"{file} has no function {name!r}")
    return getattr(module, name)


def summarise(
    rows: Rows, options: Options, expected: Mapping[str, bool] = MappingProxyType({})
) -> CheckResult:
    """The check from what was measured.

    Args:
        rows: fields of :class:`~fewjump.verify.commutation_measure.Commutation`, ``commutes`` and
            ``worst_error``.
        options: what was asked for.
        expected: by name, whether it must commute.
    """
    failures = [
        f"{row['name']} should {'commute' if expected[row['name']] else 'not commute'}, but its "
        f"largest relative commutator is {row['largest']:.2g}"
        for row in rows
        if expected.get(row["name"], row["commutes"]) != row["commutes"]
    ]
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
    return CheckResult(
        name="commutation",
        question="Do the generators of different times commute?",
        verdict=[told(row) for row in sorted(rows, key=lambda row: -row["largest"])],
        rows=rows,
        charts=charts,
        tables=[table],
        notes=[options.note()],
        settings=options.settings(),
        failures=failures,
    )


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
