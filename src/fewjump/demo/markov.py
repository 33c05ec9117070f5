"""``fewjump demo markov``: an exact teacher, no training, and the floor in plain sight."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from fewjump.demo.parts import evaluations, value_of
from fewjump.evaluate.meter import ChainMeter, quality
from fewjump.problem import reference_markov_chain
from fewjump.process import Absorbing, Process, Uniform
from fewjump.random import generator_for
from fewjump.report import (
    KeyNumber,
    SampleGroup,
    TextSamples,
    explanation,
    from_results,
    short,
    write,
)
from fewjump.results import Row, machine_facts, write_results
from fewjump.sampler import sample
from fewjump.schedule import LogLinear

LETTERS = "abcdefgh"
PRODUCT, JOINT = "exact teacher (per position)", "exact joint law"


def run_demo(out: Path, seed: int = 0, quick: bool = False) -> Path:
    """Sample the exact denoisers at 1 to 64 steps and write the report; returns its path.

    Args:
        out: folder for results.json, samples.txt and report.html.
        seed: of every draw.
        quick: fewer samples and steps.
    """
    out.mkdir(parents=True, exist_ok=True)
    chain = reference_markov_chain(32)
    count = 1024 if quick else 8192
    steps = (1, 4, 16) if quick else (1, 2, 4, 8, 16, 32, 64)
    last, meter = steps[-1], ChainMeter(chain, count)
    rows: list[Row] = []
    texts: dict[tuple[str, int], list[str]] = {}
    processes: dict[str, Process] = {
        "uniform": Uniform(chain.vocab_size, LogLinear()),
        "masked": Absorbing(chain.vocab_size + 1, LogLinear()),
    }
    for noise, process in processes.items():
        for joint in (False, True):
            name = f"{JOINT if joint else PRODUCT}, {noise}"
            denoiser = chain.denoiser(process, joint=joint)
            # The joint law is exact at any number of steps; two show that.
            asked = (1, last) if joint else steps
            rows += quality(
                denoiser,
                meter,
                asked,
                seeds=(seed,),
                model=name,
                batch_size=1024,
                progress=lambda text: print(text, flush=True),
            )
            for k in asked:
                texts[name, k] = _spelled(sample(denoiser, 6, k, generator=seed))
    floor = chain.bigram_tv_floor(count, generator=generator_for(seed, 9))
    rows.append(Row("fresh data", "", None, None, "bigram_tv", float(floor.value)))
    rows.append(Row("entropy rate of the data", "", None, None, "nll", chain.entropy_rate()))
    facts = {
        "seed": seed,
        "problem": f"Markov chain, {chain.vocab_size} tokens, {chain.length} positions",
        "samples": count,
        "one-step floor": f"{short(chain.one_step_floor())} nats",
        "entropy rate": f"{short(chain.entropy_rate())} nats per token",
        **machine_facts(),
    }
    write_results(out, rows, facts)
    lines = [f"# {name}, {k} steps\n" + "\n".join(t) for (name, k), t in texts.items()]
    (out / "samples.txt").write_text("\n\n".join(lines) + "\n", encoding="utf-8")

    product, whole = f"{PRODUCT}, uniform", f"{JOINT}, uniform"
    real = TextSamples("the chain itself", _spelled(chain.sample(6, generator_for(0, 5))), "data")
    in_one = value_of(rows, product, 1, "bigram_tv")
    in_last = value_of(rows, product, last, "bigram_tv")
    of_joint = value_of(rows, whole, 1, "bigram_tv")
    report = from_results(
        rows,
        title="How far a perfect teacher gets in a few steps",
        subtitle="A Markov chain whose posterior is known exactly: nothing here was trained.",
        summary=(
            "Drawing every position on its own from the exact posterior, one step misses "
            f"{100 * in_one:.0f}% of the law of neighbouring tokens (total variation), and {last} "
            f"steps {100 * in_last:.1f}%: no per-position student can do better.",
            f"Drawn from the **joint** law, one step misses {100 * of_joint:.1f}%, as fresh data "
            "of the same size do. Joint students learn to give such a law.",
        ),
        key_numbers=(
            KeyNumber(short(in_one), "bigram error of the exact teacher in one step"),
            KeyNumber(short(of_joint), "of the exact joint law in one step"),
        ),
        samples=[
            SampleGroup(
                evaluations(k),
                [
                    TextSamples("per position", texts[product, k], "teacher"),
                    TextSamples("joint law", texts[whole, k], "student"),
                    real,
                ],
            )
            for k in (1, last)
        ],
        notes=[explanation("floor")],
        facts=facts,
        headline="bigram_tv",
    )
    return write(report, out / "report.html")


def _spelled(samples: Tensor) -> list[str]:
    """Sequences of tokens as letters."""
    return ["".join(LETTERS[token] for token in row) for row in samples.tolist()]
