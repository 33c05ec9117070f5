"""Samples at several numbers of steps and seeds, each set measured: the loop behind every row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fewjump.evaluate.bootstrap import Interval, combine
from fewjump.evaluate.frontier import Row, as_result

if TYPE_CHECKING:
    from fewjump.denoiser.base import Denoiser
    from fewjump.sampler.base import Sampler
    from fewjump.sampler.time_grid import GridSpec

Measure = Callable[[Tensor, int], dict[str, Interval]]


def rows_by_steps(
    denoiser: Denoiser,
    measure: Measure,
    steps_list: Sequence[int],
    sampler: str | Sampler,
    num_samples: int,
    seeds: Sequence[int],
    model: str,
    grid: GridSpec | None,
    batch_size: int | None,
    progress: Callable[[str], None] | None,
    temperature: float = 1.0,
    given: Mapping[str, Any] = MappingProxyType({}),
) -> list[Row]:
    """The mean over seeds of each metric at each number of steps.

    Args:
        measure: (samples on the CPU, seed) → metrics.
        given: further arguments of :func:`fewjump.sampler.run`.
        The others are those of :func:`fewjump.evaluate.evaluate_images`.

    Raises:
        ValueError: for steps or seeds that make no sense, before anything is sampled.
    """
    from fewjump.sampler.base import get_sampler
    from fewjump.sampler.run import run
    from fewjump.sampler.time_grid import check_spec

    method = get_sampler(sampler)
    method.check(denoiser)
    if not steps_list or not seeds or num_samples < 2:
        raise ValueError(
            "give at least one number of steps, one seed and 2 samples; got "
            f"steps {list(steps_list)}, seeds {list(seeds)}, {num_samples} samples"
        )
    for steps in steps_list:
        check_spec(grid, steps, denoiser.process.schedule)
    rows = []
    for steps in steps_list:
        runs, scores = [], []
        for seed in seeds:
            result = run(
                denoiser,
                num_samples,
                steps,
                method,
                grid,
                seed,
                batch_size=batch_size,
                temperature=temperature,
                **given,
            )
            runs.append(result)
            scores.append(measure(result.samples.cpu(), seed))
            if progress is not None:
                progress(f"{model}, {method.name}, {steps} steps, seed {seed}")
        nfe = max(result.nfe for result in runs)
        seconds = sum(result.seconds for result in runs) / len(runs)
        for metric in scores[0]:
            value = combine([score[metric] for score in scores if metric in score])
            rows.append(as_result(value, metric, model, method.name, steps, nfe, seconds))
    return rows


def check_fit(denoiser: Denoiser, vocab_size: int, length: int) -> None:
    """Raise ValueError unless what the denoiser makes can be compared with data of this shape."""
    never = {*denoiser.process.kept, denoiser.process.mask}
    made = 1 + max(token for token in range(denoiser.clean_vocab_size) if token not in never)
    if made > vocab_size or denoiser.length not in (None, length):
        raise ValueError(
            f"the denoiser makes {denoiser.length} tokens below {made}, the data have "
            f"{length} below {vocab_size}: is this the data set it was trained on?"
        )
