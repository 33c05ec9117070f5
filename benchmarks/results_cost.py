"""Sections of docs/results.md on what a step costs."""

from __future__ import annotations

from page_parts import Content, table


def sampling_overhead(content: Content) -> str:
    rows = [
        (
            r["size"],
            r["process"].lower(),
            f"`{r['sampler']}`",
            r["steps"],
            f"{100 * r['overhead']:.1f}%",
        )
        for r in content["rows"]
    ]
    return f"""Share of the time that is spent outside the network's forward, both sides in one run. *demo*: batch
64, L = 64, V = 18, hidden 96; *large*: batch 8, L = 256, V = 32,000, hidden 256, 6 blocks.

{table(("size", "process", "sampler", "steps", "overhead"), rows)}"""


def cost_in_vocabulary(content: Content) -> str:
    size = content["size"]
    rows = [
        (
            r["emission"],
            r["step"],
            f"{r['vocab']:,}",
            f"{1000 * r['cpu_seconds']:.1f}",
            f"{r['peak_bytes'] / 2**20:.1f}",
            f"{r['largest_entries']:,}",
            f"{r['states_length_vocab']:,}",
        )
        for r in content["rows"]
    ]
    slopes = [
        (
            r["emission"],
            r["step"],
            f"{r['slope_cpu_seconds_last_two']:.2f}",
            f"{r['slope_peak_bytes_last_two']:.2f}",
        )
        for r in content["slopes"]
    ]
    return f"""One step of the chain head ({size["states"]} states, rank {size["rank"]}, batch {size["batch"]}, L = {size["length"]}). The shared and
the low-rank form make no tensor of states × positions × vocabulary; the dense form does.

{table(("emission", "step", "V", "CPU ms", "peak MiB", "largest tensor", "r·L·V would be"), rows)}

Slope between the two largest vocabularies, log against log (1 is linear):

{table(("emission", "step", "time", "memory"), slopes)}"""
