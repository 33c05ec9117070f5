"""``fewjump verify vocabulary``: what recovery and a distillation step cost as V grows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fewjump.verify.checks import CheckOptions

if TYPE_CHECKING:
    from fewjump.verify.result import CheckResult

FAMILIES = (
    "uniform",
    "absorbing",
    "random prior",
    "low-rank rate",
    "low-rank and diagonal",
    "sparse rate",
    "sparse rate, near targets",
)


@dataclass
class Options(CheckOptions):
    """Time and memory of recovery and of a distillation step, from V = 2⁸ to 2¹⁷.

    Structured processes, low-rank rates (8 clusters) with equal exit rates and with any, and sparse
    rates (8 targets a token, anywhere or near). Time is the processor's, the least of several runs
    after a first; memory is the most that was allocated at once. The slope is that of the
    logarithms over the upper half of the sizes, where fixed costs no longer show. The dense route
    must refuse what would not fit.
    """

    families: list[str] = field(default_factory=lambda: list(FAMILIES))
    """Which processes."""

    smallest: int = 8
    """Smallest vocabulary, as a power of two."""

    largest: int = 17
    """Largest vocabulary, as a power of two."""

    repeats: int = 3
    """Times that everything is measured, of which the quickest counts."""

    limit: float = 1.1
    """Largest slope that counts as linear."""


def run(options: Options) -> CheckResult:
    """Measure, fit slopes, and see that the dense route refuses.

    Raises:
        ValueError: for options outside their range.
    """
    unknown = [name for name in options.families if name not in FAMILIES]
    if unknown:
        raise ValueError(f"unknown family {unknown[0]!r}; known: {', '.join(FAMILIES)}")
    if not 2 <= options.smallest < options.largest <= 20 or options.repeats < 1:
        raise ValueError("2 ≤ --smallest < --largest ≤ 20 and --repeats at least 1 are needed")

    from fewjump.verify.vocabulary_measure import measure, refusals
    from fewjump.verify.vocabulary_words import answer

    sizes = [2**k for k in range(options.smallest, options.largest + 1)]
    rows = measure(options.families, sizes, options.repeats, options.seed)
    return answer(rows, refusals(2 ** max(17, options.largest)), options)


def main() -> None:
    """The committed result: ``python -m fewjump.verify.vocabulary``; four CPU minutes."""
    from fewjump.verify.committed import commit_check

    commit_check("vocabulary", Options())


if __name__ == "__main__":
    main()
