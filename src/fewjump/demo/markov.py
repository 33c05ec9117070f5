"""``fewjump demo markov``: an exact teacher, no training, and the floor in plain sight."""

from __future__ import annotations

from pathlib import Path

from fewjump.demo.markov_curve import bigram_interval
from fewjump.denoiser.base import Denoiser
from fewjump.problem import MarkovChain
from fewjump.problem.examples import reference_markov_chain
from fewjump.process import Absorbing, Uniform
from fewjump.random import generator_for
from fewjump.report import (
    ABOUT_FLOOR,
    KeyNumber,
    Note,
    Row,
    SampleGroup,
    TextSamples,
    from_results,
    short,
    write,
    write_results,
)
from fewjump.sampler import run as draw
from fewjump.schedule import LogLinear
from fewjump.verify.results import machine_facts

LETTERS = "abcdefgh"
PRODUCT, JOINT = "exact teacher (per position)", "exact joint law"

ABOUT_JOINT = Note(
    "What goes past the floor",
    (
        "The second line is the same teacher, asked for the **joint** law of all positions "
        "instead of one table per position. It is exact in one evaluation, because nothing "
        "that belongs together is drawn apart.",
        "For this chain the joint law is known. For a trained network it is what a joint student "
        "(mixture, chain, autoregressive head) learns to give.",
    ),
)


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
    rows: list[Row] = []
    texts: dict[tuple[str, int], list[str]] = {}
    uniform = Uniform(chain.vocab_size, LogLinear())
    masked = Absorbing(chain.vocab_size + 1, LogLinear())
    for process_name, process in (("uniform", uniform), ("masked", masked)):
        for joint in (False, True):
            name = f"{JOINT if joint else PRODUCT}, {process_name}"
            denoiser = chain.denoiser(process, joint=joint)
            # The joint law is exact at any number of steps; two show that.
            for k in (1, steps[-1]) if joint else steps:
                print(f"{name}: {k} step{'s' * (k > 1)}", flush=True)
                rows += _measure(chain, denoiser, name, k, count, seed, texts)
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
    return _report(out, chain, rows, texts, steps, facts)


def _measure(
    chain: MarkovChain,
    denoiser: Denoiser,
    name: str,
    steps: int,
    count: int,
    seed: int,
    texts: dict[tuple[str, int], list[str]],
) -> list[Row]:
    result = draw(denoiser, count, steps, generator=seed, batch_size=1024)
    value, low, high = bigram_interval(chain, result.samples, seed)
    texts[name, steps] = ["".join(LETTERS[i] for i in x) for x in result.samples[:6].tolist()]
    nll = -chain.log_prob(result.samples) / chain.length
    # A sample that the chain cannot produce has no likelihood; the share that has is averaged.
    nll = nll[nll.isfinite()]
    half = 1.96 * float(nll.std()) / nll.numel() ** 0.5
    mean = float(nll.mean())
    common = (name, "ancestral", steps, result.nfe)
    return [
        Row(*common, "bigram_tv", value, max(low, 0.0), high, result.seconds),
        Row(*common, "nll", mean, mean - half, mean + half, result.seconds),
    ]


def _report(
    out: Path,
    chain: MarkovChain,
    rows: list[Row],
    texts: dict[tuple[str, int], list[str]],
    steps: tuple[int, ...],
    facts: dict[str, object],
) -> Path:
    def value(name: str, k: int) -> float:
        found = [r for r in rows if (r.model, r.steps, r.metric) == (name, k, "bigram_tv")]
        return found[0].value

    last = steps[-1]
    product, joint = f"{PRODUCT}, uniform", f"{JOINT}, uniform"
    data = chain.sample(6, generator_for(0, 5)).tolist()
    data_texts = ["".join(LETTERS[i] for i in x) for x in data]
    groups = [
        SampleGroup(
            f"{k} evaluation{'s' * (k > 1)}",
            [
                TextSamples("per position", texts[product, k], "teacher"),
                TextSamples("joint law", texts[joint, k], "student"),
                TextSamples("the chain itself", data_texts, "data"),
            ],
        )
        for k in (1, last)
    ]
    report = from_results(
        rows,
        title="How far a perfect teacher gets in a few steps",
        subtitle="A Markov chain whose posterior is known exactly: nothing here was trained.",
        summary=(
            "The teacher below makes no mistake: its table for every position is the exact "
            f"posterior. Yet in one step its samples miss {100 * value(product, 1):.0f}% of the "
            "law of neighbouring tokens (total variation), because it draws every position on "
            f"its own. At {last} steps {100 * value(product, last):.1f}% is left. No "
            "per-position distillation can go below this line.",
            f"Drawn from the joint law, one step misses {100 * value(joint, 1):.1f}%, which is "
            "what fresh data of the same size miss.",
        ),
        key_numbers=(
            KeyNumber(short(value(product, 1)), "bigram error of the exact teacher in one step"),
            KeyNumber(short(value(joint, 1)), "of the exact joint law in one step"),
        ),
        samples=groups,
        notes=(ABOUT_FLOOR, ABOUT_JOINT),
        facts=facts,
        headline="bigram_tv",
    )
    return write(report, out / "report.html")
