"""``fewjump verify commutation``: is the exponential of the integral the kernel?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewjump.verify.checks import CheckOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from fewjump.process import Process
    from fewjump.verify.commutation_measure import Commutation
    from fewjump.verify.result import CheckResult


@dataclass
class Options(CheckOptions):
    """Measure whether generators of different times commute.

    Without --rate or --process: the noise of the original models and the library's hybrids. With
    one of them: yours. Reports the largest relative commutator over a grid of times and, beside it,
    by how much exp(∫Q) misses the time-ordered kernel. A few seconds.
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

    own = _own(options)
    if own is not None:
        name, generator = own
        return _answer([(commutation(generator, name, options.times), None)], options)
    measured: list[tuple[Commutation, bool | None]] = [
        (commutation(process, name, options.times), commutes)
        for name, (process, commutes) in families(options.vocab_size).items()
    ]
    return _answer(measured, options)


def _own(options: Options) -> tuple[str, Process | Callable[[float], Tensor]] | None:
    if options.rate is not None:
        return options.rate, load_function(options.rate)
    if options.process is not None:
        import json

        from fewjump.process import process_from_config

        config = json.loads(options.process.read_text(encoding="utf-8"))
        config = config.get("denoiser", config) if isinstance(config, dict) else {}
        return str(options.process), process_from_config(config.get("process", config))
    return None


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


def _answer(measured: list[tuple[Commutation, bool | None]], options: Options) -> CheckResult:
    from fewjump.report import Chart, Note, Series, Table
    from fewjump.verify.result import CheckResult

    found = [one for one, _ in measured]
    moving = [one for one in found if not one.commutes]
    failures = [
        f"{one.name} should {'commute' if expected else 'not commute'}, but its largest relative "
        f"commutator is {one.largest:.2g}"
        for one, expected in measured
        if expected is not None and one.commutes != expected
    ]
    failures += [
        f"{one.name} commutes, yet exp(∫Q) is off by {one.worst_error:.2g}"
        for one in found
        if one.commutes and one.worst_error > 1e-7
    ]
    shown = moving or found
    charts = [
        Chart(
            "How wrong is the exponential of the integral?",
            [Series(one.name, one.times, one.errors) for one in shown],
            x_label="time t",
            y_label="total variation at t, worst token",
            log_x=False,
            better="lower",
            caption="Between exp(∫₀ᵗ Q) and the time-ordered kernel P of t given 0.",
        ),
        Chart(
            "How far from commuting?",
            [Series(one.name, one.times, one.commutators) for one in shown],
            x_label="time t",
            y_label="largest relative commutator of Q_t",
            log_x=False,
            better="lower",
            caption="‖[Q_t, Q_u]‖ / (‖Q_t‖·‖Q_u‖), the largest over the other times u.",
        ),
    ]
    table = Table(
        "Every generator",
        ("noise", "commutes", "largest relative commutator", "error of exp(∫Q)"),
        [
            (one.name, "yes" if one.commutes else "no", f"{one.largest:.1e}",
             f"{one.worst_error:.1e}")
            for one in found
        ],
    )  # fmt: skip
    rows: list[dict[str, Any]] = [
        {**asdict(one), "commutes": one.commutes, "worst_error": one.worst_error} for one in found
    ]
    return CheckResult(
        name="commutation",
        question="Do the generators of different times commute?",
        verdict=[one.verdict for one in sorted(found, key=lambda one: -one.largest)],
        rows=rows,
        charts=charts,
        tables=[table],
        notes=[
            Note(
                "How it is measured",
                (
                    "One matrix times a rate σ(t) always commutes, whatever the schedule: "
                    "relative commutators are taken of Q_t/σ(t), whose size σ does not blow up.",
                    "The reference is a product of fourth-order Magnus steps, refined until step "
                    f"doubling agrees to {max(one.reference_error for one in found):.0e}.",
                ),
            )
        ],
        settings=asdict(options),
        failures=failures,
    )


def main() -> None:
    """The committed result: ``python -m fewjump.verify.commutation``; a few seconds."""
    from fewjump.verify.committed import commit_check

    commit_check("commutation", Options())


if __name__ == "__main__":
    main()
