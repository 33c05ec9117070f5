"""What is measured of the models of a comparison, each once for its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from fewjump.commands.compare_plan import Plan
from fewjump.commands.evaluate import MEASURED, judge_facts
from fewjump.files import write_text

if TYPE_CHECKING:
    from fewjump.data import Dataset
    from fewjump.denoiser import Denoiser
    from fewjump.evaluate.bootstrap import Interval
    from fewjump.evaluate.meter import DataMeter
    from fewjump.results import Row
    from fewjump.sampler import Sampler

Making: TypeAlias = "Callable[[int], tuple[Denoiser, dict[str, Any]]]"


@dataclass(frozen=True)
class Entry:
    """One thing that is judged.

    Attributes:
        sampler: that steps it; None for the model's default.
        make: its denoiser by seed, and what that took.
    """

    name: str
    sampler: Sampler | None
    grid: Any
    steps: list[int]
    make: Making


def held_by(data: Dataset) -> list[list[int]]:
    """What the data hold, told by a checksum: a file of the same name may be another one by now."""
    from fewjump.train.data import TokenData

    parts = (data.train, data.test)
    return [TokenData(part, data.vocab_size, 0).fingerprint() for part in parts]


@dataclass(frozen=True)
class Judging:
    """How every model of a comparison is judged.

    Attributes:
        folder: of the comparison.
        plan: how many samples.
        meter: the judge.
        target: the variety at which quality is matched; None leaves that out.
        progress: say what is measured.
    """

    folder: Path
    plan: Plan
    meter: DataMeter
    target: float | None
    progress: bool = False

    @cached_property
    def _judge(self) -> list[Any]:
        """What the judge is; the same place may hold another one by now."""
        from fewjump.denoiser.wrappers import weights_checksum

        found: list[Any] = [*judge_facts(self.meter).values()]
        if self.meter.causal is not None:
            found += [self.plan.judge_tokenizer, weights_checksum(self.meter.causal.model)]
        return found

    @cached_property
    def _data(self) -> list[list[int]]:
        return held_by(self.meter.dataset)

    def rows(self, entry: Entry, denoiser: Denoiser, seed: int) -> list[dict[str, Any]]:
        """The rows of one model and seed, measured once for its weights, the judge and the data.

        Args:
            entry: what is judged, at which numbers of steps.
            denoiser: of this seed.
            seed: of the samples.
        """
        from fewjump.denoiser.wrappers import weights_checksum
        from fewjump.evaluate import quality
        from fewjump.progress import tell

        plan, meter = self.plan, self.meter
        way = denoiser.samplers if entry.sampler is None else entry.sampler.label
        about = [way, entry.grid, entry.steps, plan.samples, plan.matched_entropy, *self._judge]
        if next(denoiser.parameters(), None) is None:
            # An exact posterior is known by what it is of.
            about += [plan.teacher]
        text = json.dumps([*about, weights_checksum(denoiser), self._data], default=str)
        key = hashlib.sha256(text.encode()).hexdigest()[:12]
        place = self.folder / MEASURED / entry.name / f"{seed}-{key}.json"
        if not place.is_file():
            rows = quality(
                denoiser,
                meter,
                entry.steps,
                entry.sampler,
                plan.samples,
                (seed,),
                model=entry.name,
                grid=entry.grid,
                progress=tell if self.progress else None,
            )
            if self.target is not None:
                rows += _matched(entry, denoiser, meter, plan.samples, seed, self.target, rows)
            write_text(place, json.dumps([asdict(row) for row in rows], indent=1) + "\n")
        found = json.loads(place.read_text(encoding="utf-8"))
        return [{"seed": seed, **row} for row in found]


def _matched(
    entry: Entry,
    denoiser: Denoiser,
    meter: DataMeter,
    samples: int | None,
    seed: int,
    target: float,
    rows: list[Row],
) -> list[Row]:
    """A row for each number of steps: quality where variety is ``target``."""
    from fewjump.evaluate.meter import as_result, classes_in_turn
    from fewjump.evaluate.text import enclosing, matched
    from fewjump.sampler import run as draw

    assert meter.matched is not None
    metric, variety = meter.matched
    count = samples or meter.num_samples
    out = []
    for steps in entry.steps:

        def measure(temperature: float, steps: int = steps) -> Mapping[str, Interval]:
            result = draw(
                denoiser,
                count,
                steps,
                entry.sampler,
                entry.grid,
                seed,
                temperature=temperature,
                **meter.given(denoiser, count),
                **classes_in_turn(denoiser, count, None),
            )
            return meter.measure(result.samples.cpu(), seed)

        found = matched(enclosing(measure, target, variety=variety), target, metric, variety)
        same = next(row for row in rows if row.steps == steps)
        if found is not None:
            name = f"{metric}_at_matched_{variety}"
            about = (entry.name, same.sampler, steps, same.nfe, same.seconds)
            out.append(as_result(found, name, *about))
    return out


def over_seeds_of(tidy: list[dict[str, Any]]) -> list[Row]:
    """Means over seeds with their intervals: one row for each model, number of steps and metric.

    A metric that one of the seeds lacks, such as an infinite divergence, has no mean.
    """
    from fewjump.evaluate.meter import mean_over_seeds
    from fewjump.results import as_row

    groups: dict[tuple[Any, ...], list[Row]] = {}
    seeds: dict[tuple[Any, ...], set[int]] = {}
    for row in tidy:
        one = as_row(row)
        # A sampler that was learned is another one for each seed.
        groups.setdefault((one.model, one.steps, one.metric), []).append(one)
        seeds.setdefault((one.model, one.steps), set()).add(row["seed"])
    return [
        mean_over_seeds(rows)
        for (model, steps, _), rows in groups.items()
        if len(rows) == len(seeds[model, steps])
    ]
