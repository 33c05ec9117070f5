"""``fewjump verify``: the identities, checked by enumeration; and the named checks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fewjump.verify.checks import Check


@dataclass
class Options:
    """Check the mathematics on a problem small enough to enumerate completely.

    Every formula the library uses (forward kernel, Markov decomposition, recovery of posteriors
    from ratios, reverse step, bridge, product floor) is compared with full tables in float64, for
    four processes on a random law over all sequences. Takes a few seconds. The exit code is 1 if
    a check fails.

    `fewjump verify NAME` measures one thing instead and writes results.json and report.html;
    `fewjump verify list` says which, `fewjump verify NAME --help` explains one.

    Attributes:
        vocab_size: tokens of the problem.
        length: positions of the problem; vocab_size to the power length states are enumerated.
        seed: which random law and which random processes.
        verbose: say what each check means.
    """

    vocab_size: int = 4
    length: int = 3
    seed: int = 0
    verbose: bool = False


def main(words: Sequence[str]) -> int:
    """The verb: the identities, or the check that the first word names."""
    from fewjump.commands.arguments import parse

    if not words or words[0].startswith("-"):
        return run(parse(Options, words, prog="fewjump verify"))
    from fewjump.verify.checks import check_called, describe_checks

    name, rest = words[0], words[1:]
    if name == "list":
        print(describe_checks())
        return 0
    return run_named(parse(check_called(name), rest, prog=f"fewjump verify {name}"))


def run_named(check: Check) -> int:
    """Run one check, print its verdict, write its files."""
    import time

    from fewjump.files import check_file_writable
    from fewjump.lock import sole_writer

    out = check.out or Path(f"verify-{check.name}")
    with sole_writer(out):
        for file in ("results.json", "report.html"):
            check_file_writable(out / file)
        started = time.perf_counter()
        result = check.run()
        page = result.save(out, seconds=round(time.perf_counter() - started, 1))
    print(result.question)
    for text in result.verdict:
        print(f"- {text.replace('**', '')}")
    print(f"report: {page}")
    for text in result.failures:
        print(f"does not hold: {text}", file=sys.stderr)
    return 0 if result.passed else 1


def run(options: Options) -> int:
    from fewjump.verify.enumeration import TOLERANCE, run_checks

    if options.vocab_size < 2 or options.length < 1:
        raise ValueError("--vocab-size must be at least 2 and --length at least 1")
    states = (options.vocab_size + 1) ** options.length
    if states > 1500:
        raise ValueError(
            f"{states} states make tables of {states}² entries; choose a smaller --vocab-size or "
            "--length (at most 1500 states, the mask counted as a token)"
        )
    checks = run_checks(options.vocab_size, options.length, options.seed)
    width = max(len(check.name) for check in checks)
    process_width = max(len(check.process) for check in checks)
    for check in checks:
        mark = "ok  " if check.passed else "FAIL"
        print(
            f"{mark}  {check.process:<{process_width}}  {check.name:<{width}}  "
            f"{check.error:9.2e}  (limit {TOLERANCE:.0e})"
        )
        if options.verbose or not check.passed:
            print(f"      {check.explanation}")
    failed = sum(not check.passed for check in checks)
    if failed:
        print(f"{failed} of {len(checks)} checks failed", file=sys.stderr)
        return 1
    print(f"all {len(checks)} checks hold")
    return 0
