"""One sampler of text at one number of steps: quality at matched entropy, and where time goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from experiments.harness import with_ends
from fewjump.data import Dataset
from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.evaluate.bootstrap import REPLICATES
from fewjump.evaluate.text import Scores, TextMeter, enclosing, matched
from fewjump.sampler import Sampler
from fewjump.sampler import run as draw
from fewjump.sampler.time_grid import GridSpec


@contextmanager
def timed_trunk(denoiser: Denoiser) -> Iterator[list[float]]:
    """Seconds inside the network's trunk while the block runs, as a list of one number.

    What is left of a run's time is the head's: its factors and the drawing from its law.

    Raises:
        TypeError: for a denoiser without a trunk.
    """
    if not isinstance(denoiser, NetworkDenoiser):
        raise TypeError(f"only a NetworkDenoiser has a trunk, not a {type(denoiser).__name__}")
    trunk, spent = denoiser.trunk, [0.0]
    plain, own = trunk.features, "features" in vars(trunk)

    def features(*args: Any, **options: Any) -> Tensor:
        started = time.perf_counter()
        out = plain(*args, **options)
        if out.is_cuda:
            torch.cuda.synchronize(out.device)
        spent[0] += time.perf_counter() - started
        return out

    object.__setattr__(trunk, "features", features)
    try:
        yield spent
    finally:
        if own:
            object.__setattr__(trunk, "features", plain)
        else:
            object.__delattr__(trunk, "features")


def measure_text(
    denoiser: Denoiser,
    meter: TextMeter,
    steps: int,
    count: int,
    seed: int,
    target: float,
    replicates: int = REPLICATES,
    grid: GridSpec | None = None,
    prompt: Tensor | None = None,
    fixed: Tensor | None = None,
    sampler: str | Sampler = "ancestral",
) -> dict[str, Any]:
    """Everything about ``count`` samples at ``steps`` steps.

    Args:
        denoiser: a network.
        meter: judge and dictionary.
        steps: of the sampler.
        count: samples at each temperature.
        seed: of the draws.
        target: trigram entropy in nats that quality is matched at.
        replicates: of every interval.
        grid, prompt, fixed, sampler: as for :func:`fewjump.sample`.

    Returns:
        The metrics of :class:`~fewjump.evaluate.text.TextMeter` at temperature 1 with ``_low`` and
        ``_high`` ends; ``matched_nll`` and, where there is a dictionary, ``matched_words``: their
        values at the target's entropy (None if no temperature of the ladder reaches it);
        ``temperatures`` that were run; ``nfe`` (evaluations of the trunk), and at temperature 1
        ``seconds``, ``trunk_seconds``, ``head_seconds`` and ``samples_per_second``.
    """
    about: dict[str, Any] = {"steps": steps, "samples": count}

    def measure(temperature: float) -> Scores:
        with timed_trunk(denoiser) as spent:
            result = draw(
                denoiser,
                count,
                steps,
                sampler,
                grid=grid,
                generator=seed,
                temperature=temperature,
                prompt=prompt,
                fixed=fixed,
            )
        if temperature == 1:
            about.update(
                nfe=result.nfe,
                seconds=result.seconds,
                trunk_seconds=spent[0],
                head_seconds=result.seconds - spent[0],
                samples_per_second=count / result.seconds,
            )
        return meter.measure(result.samples, seed, replicates)

    found = enclosing(measure, target)
    for name, interval in found[1.0].items():
        about |= with_ends(name, interval)
    about |= with_ends("matched_nll", matched(found, target, "nll"))
    if meter.words is not None:
        about |= with_ends("matched_words", matched(found, target, "dictionary_words"))
    return {**about, "temperatures": sorted(found)}


def reference_row(dataset: Dataset, meter: TextMeter, count: int) -> dict[str, Any]:
    """The same metrics of ``count`` test sequences: what real text scores in a set of that size.

    Entropies and counts of kinds depend on the size of the set, so samples must be as many.
    """
    rows = dataset.all("test", count)
    scores = meter.measure(rows)
    return {
        "student": "test data",
        "samples": len(rows),
        **{k: v for name, interval in scores.items() for k, v in with_ends(name, interval).items()},
    }
