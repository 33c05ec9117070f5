"""What is measured of the models of a comparison, each once for its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from fewjump.commands.compare_plan import Plan
from fewjump.commands.evaluate import judge_facts
from fewjump.files import write_text

if TYPE_CHECKING:
    from fewjump.data import Dataset
    from fewjump.denoiser import Denoiser
    from fewjump.evaluate.bootstrap import Interval
    from fewjump.evaluate.meter import DataMeter
    from fewjump.report import Row
    from fewjump.sampler import Sampler

Making: TypeAlias = "Callable[[int], tuple[Denoiser, dict[str, Any]]]"


@dataclass(frozen=True)
class Entry:
    """One thing that is judged.

    Attributes:
        name: of it.
        sampler: that steps it; None for the model's default.
        steps: numbers of steps.
        grid: spacing of the steps.
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


def measured(
    folder: Path,
    plan: Plan,
    entry: Entry,
    denoiser: Denoiser,
    meter: DataMeter,
    seed: int,
    target: float | None,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """The rows of one model and seed, measured once for its weights and these data.

    Args:
        folder: of the comparison.
        plan: how many samples.
        entry: what is judged, at which numbers of steps.
        denoiser: of this seed.
        meter: the judge.
        seed: of the samples.
        target: the variety at which quality is matched; None leaves that out.
        progress: say what is measured.
    """
    from fewjump.evaluate import quality
    from fewjump.progress import tell
    from fewjump.train.setup import weights_checksum

    parts = held_by(meter.dataset)
    way = denoiser.samplers if entry.sampler is None else entry.sampler.label
    about = [way, entry.grid, entry.steps, plan.samples, plan.matched_entropy]
    about += judge_facts(meter).values()
    if plan.judge is not None:
        about += [plan.judge_tokenizer]
    if next(denoiser.parameters(), None) is None:
        # An exact posterior is known by what it is of.
        about += [plan.teacher]
    text = json.dumps([*about, weights_checksum(denoiser), parts], default=str)
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    place = folder / "measured" / entry.name / f"{seed}-{key}.json"
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
            progress=tell if progress else None,
        )
        if target is not None:
            rows += _matched(entry, denoiser, meter, plan.samples, seed, target, rows)
        place.parent.mkdir(parents=True, exist_ok=True)
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
    """Means over seeds with their intervals: one row for each model, number of steps and metric."""
    from fewjump.evaluate.meter import mean_over_seeds
    from fewjump.report.content import as_row

    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in map(as_row, tidy):
        # A sampler that was learned is another one for each seed.
        groups.setdefault((row.model, row.steps, row.metric), []).append(row)
    return [mean_over_seeds(rows) for rows in groups.values()]
