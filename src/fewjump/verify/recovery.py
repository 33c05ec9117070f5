"""``fewjump verify recovery``: when can a posterior be recovered from scores (Eq. 8–10)?"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewjump.reading import ReadingOptions, reading_values
from fewjump.verify.checks import CheckOptions, refuse_without_model

if TYPE_CHECKING:
    from fewjump.verify.result import CheckResult


@dataclass
class Options(ReadingOptions, CheckOptions):
    """Recover posteriors from ratios until it breaks: every process, precision and method.

    Exact ratios (in float64, float32 and bfloat16), ratios with noise, and those of a small score
    network that is trained here, against exact posteriors. With --model, a saved model's own ratios
    too: the clipped mass, and how surprised each method's posterior is by the true token.
    """

    families: list[str] = field(
        default_factory=lambda: [
            "uniform",
            "absorbing",
            "random prior",
            "discretised Gaussian",
            "random rate",
        ]
    )
    """Which processes."""

    vocab_sizes: list[int] = field(default_factory=lambda: [4, 64, 256])
    """Vocabularies. Structured processes take any; 50257 takes about two minutes."""

    dense_limit: int = 256
    """Largest vocabulary of the processes with a dense kernel. Up to 1024 in a few minutes."""

    threshold: float = 0.1
    """Recovery breaks where E‖p̂ − p‖₁ passes this."""

    seeds: int = 3
    """Repetitions, for the intervals. Vocabularies that take long are measured once."""

    network_steps: int = 300
    """Optimiser steps of the score networks; 0 for none."""

    model: Path | None = None
    """A saved model, the run folder that holds it, or a checkpoint of SEDD, MDLM, UDLM or Duo."""

    data: str | None = None
    """What the model was trained on: a file, `digits` or `text`. Default: its own samples."""


def run(options: Options) -> CheckResult:
    """Measure, and say where each method breaks.

    Raises:
        ValueError: for an unknown process, or options outside their range.
        FileNotFoundError: if there is no model.
    """
    from fewjump.verify.recovery_cases import DENSE, STRUCTURED
    from fewjump.verify.recovery_measure import measure
    from fewjump.verify.recovery_words import answer

    unknown = [f for f in options.families if f not in STRUCTURED + DENSE]
    if unknown:
        known = ", ".join(STRUCTURED + DENSE)
        raise ValueError(f"unknown family {unknown[0]!r}; known: {known}")
    if not options.vocab_sizes or min(options.vocab_sizes) < 3 or options.seeds < 1:
        raise ValueError("--vocab-sizes must be at least 3 (a mask included), --seeds at least 1")
    if not 0 < options.threshold < 2 or options.network_steps < 0:
        raise ValueError("--threshold lies between 0 and 2, --network-steps is at least 0")
    refuse_without_model(options)
    # A model that cannot be opened should not cost minutes first.
    saved = None if options.model is None else _saved(options)
    seeds = [options.seed + k for k in range(options.seeds)]
    rows = measure(
        options.families, options.vocab_sizes, seeds, options.threshold, options.dense_limit
    )
    networks = [] if options.network_steps == 0 else _networks(options, seeds)
    return answer(rows, networks, saved, options)


def _networks(options: Options, seeds: list[int]) -> list[dict[str, Any]]:
    from fewjump.verify.recovery_network import measure_trained, train_networks

    rows = []
    for family in ("uniform", "absorbing"):
        for seed in seeds:
            trained = train_networks(family, options.network_steps, seed)
            rows += [
                {"family": family, "seed": seed} | row for row in measure_trained(trained, seed)
            ]
    return rows


def _saved(options: Options) -> list[dict[str, Any]]:
    from fewjump.verify.recovery_network import measure_checkpoint
    from fewjump.verify.saved_model import open_saved, tokens_for

    assert options.model is not None
    model = open_saved(options.model, reading_values(options))
    tokens = tokens_for(model, options.data, count=128, seed=options.seed)
    return measure_checkpoint(model.denoiser, tokens, options.seed)


def main() -> None:
    """The committed result: ``python -m fewjump.verify.recovery``; about 12 minutes."""
    from fewjump.verify.committed import commit_check

    commit_check(
        "recovery",
        Options(vocab_sizes=[4, 64, 1024, 50257], dense_limit=1024, network_steps=400),
    )


if __name__ == "__main__":
    main()
