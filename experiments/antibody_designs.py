"""Loops of known heavy chains, filled anew by each model."""

from __future__ import annotations

from functools import partial
from typing import Any

from experiments.antibody_judge import (
    LOOPS,
    frequency_row,
    letter_counts,
    numbered,
    verdict_row,
)
from experiments.antibody_models import Laboratory, vocabulary_of
from experiments.harness import Rows, digest, kept
from fewjump.demo.parts import TEACHER
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.publish.conditions import read_conditions
from fewjump.sampler import run

#: Heavy chains that people know, whose loops are designed anew.
FRAMEWORKS = {
    "trastuzumab": "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKN"
    "TAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDYWGQGTLVTVSS",
    "adalimumab": "EVQLVESGGGLVQPGRSLRLSCAASGFTFDDYAMHWVRQAPGKGLEWVSAITWNSGHIDYADSVEGRFTISRDNAKN"
    "SLYLQMNSLRAEDTAVYYCAKVSYLSTASSLDYWGQGTLVTVSS",
}
DESIGNS = {"CDR3": ("CDR3",), "three loops": tuple(LOOPS)}


def designs(
    laboratory: Laboratory, models: dict[str, NetworkDenoiser]
) -> tuple[Rows, dict[str, Any]]:
    """Loops of known heavy chains filled anew, and what stands where in them (for logos).

    The teacher fills by first hitting: one residue an evaluation, the limit of ever more steps.
    """
    config, rows = laboratory.config, []
    loops: dict[str, Any] = {}
    found = numbered(config.judge, list(FRAMEWORKS.values()))
    for label, names in DESIGNS.items():
        inside = {number for name in names for number in LOOPS[name]}
        holes = [[number in inside for number in verdict["numbers"]] for verdict in found]
        drawn: dict[str, list[list[str]]] = {}
        for name, model in models.items():
            sampler = "first-hitting" if name == TEACHER else "ancestral"
            count = config.teacher_designs if name == TEACHER else config.designs
            cells = [(name, 1, "ancestral", config.designs)]
            if name == TEACHER:
                cells.append((f"{name}, one by one", max(map(sum, holes)), sampler, count))
            for said, steps, how, number in cells:
                fill = partial(_filled, laboratory, model, holes, steps, how, number)
                file = laboratory.folder(name) / (
                    f"designs-{digest(label, said, steps, number, FRAMEWORKS, config.seed)}.json"
                )
                with laboratory.clock.part(f"{label} by {said}"):
                    drawn[said] = kept(file, fill)
        best = f"{TEACHER}, one by one"
        for said, each in drawn.items():
            whole = [sequence for part in each for sequence in part]
            of_loops = [_loop(s, hole) for part, hole in zip(each, holes) for s in part]
            reference = [_loop(s, hole) for part, hole in zip(drawn[best], holes) for s in part]
            rows.append(
                {
                    "loops": label,
                    "student": said,
                    **verdict_row(whole, numbered(config.judge, whole)),
                    **frequency_row(of_loops, reference),
                }
            )
            if label == "CDR3":
                loops[said] = [
                    {"framework": framework, "letters": _columns(part, hole)}
                    for framework, part, hole in zip(FRAMEWORKS, each, holes)
                ]
    return rows, loops


def _filled(
    laboratory: Laboratory,
    model: NetworkDenoiser,
    holes: list[list[bool]],
    steps: int,
    sampler: str,
    count: int,
) -> list[list[str]]:
    """``count`` fillings of each framework's holes."""
    out = []
    for sequence, hole in zip(FRAMEWORKS.values(), holes):
        words = " ".join("[MASK]" if h else letter for letter, h in zip(sequence, hole))
        given = read_conditions(
            vocabulary_of(model), count, None, infill=words, mask=model.process.mask
        )
        samples = run(
            model,
            count,
            steps,
            sampler,
            generator=laboratory.config.seed,
            length=given.length,
            batch_size=64,
            prompt=given.prompt,
            fixed=given.fixed,
        ).samples
        out.append(laboratory.words(samples))
    return out


def _loop(sequence: str, hole: list[bool]) -> str:
    return "".join(letter for letter, h in zip(sequence, hole) if h)


def _columns(sequences: list[str], hole: list[bool]) -> list[list[float]]:
    """Share of each amino acid at each place of a loop."""
    loops = [_loop(sequence, hole) for sequence in sequences]
    columns = [letter_counts(column).mean(0) for column in map(list, zip(*loops))]
    return [[round(float(share), 4) for share in column] for column in columns]
