"""Tables of memory and time."""

from __future__ import annotations

from experiments.pages.markdown import code, form, pivot, select
from experiments.pages.road import load

MIB, GIB = 2**-20, 2**-30


def vocabulary() -> str:
    """One step of joint heads at each vocabulary."""
    return select(
        load("cost_in_vocabulary")["rows"],
        {
            "head": "head",
            "step": "step",
            "V": form("vocab", ","),
            "CPU ms": form("cpu_seconds", ".1f", 1000),
            "peak MiB": form("peak_bytes", ".1f", MIB),
            "largest tensor": form("largest_entries", ","),
            "avoided": form("avoided_entries", ","),
        },
    )


def vocabulary_slopes() -> str:
    """Exponents in V between the two largest."""
    return select(
        load("cost_in_vocabulary")["slopes"],
        {
            "head": "head",
            "step": "step",
            "time": form("slope_cpu_seconds_last_two", ".2f"),
            "memory": form("slope_peak_bytes_last_two", ".2f"),
        },
    )


def sampling() -> str:
    """Share of the time outside the network's forward."""
    return select(
        load("sampling_overhead")["rows"],
        {
            "size": "size",
            "process": lambda r: r["process"].lower(),
            "sampler": code("sampler"),
            "steps": "steps",
            "overhead": form("overhead", ".1%"),
        },
    )


def beside_network() -> str:
    """Sampling over the network alone."""
    rows = [
        row | {"what": f"{row['family']}, `{row['sampler']}`"}
        for row in load("beside_network")["summary"]
    ]
    return pivot(
        rows,
        {"network and sampler": "what", "by": "how"},
        "steps",
        lambda found: _with_range(**found[0]),
        "{} steps".format,
    )


def _with_range(ratio: float, least: float, most: float, turns: int, **_: object) -> str:
    return f"{ratio:.2f} ({least:.2f}–{most:.2f})" if turns > 1 else f"{ratio:.2f}"


def loss() -> str:
    """Loss and backward of a large vocabulary."""
    columns = {
        "V": form("vocab", ","),
        "labels": "labels",
        "how": "how",
        "peak MiB": form("peak_bytes", ",.0f", MIB),
        "memory of plain": form("memory_ratio", ".3f"),
        "CPU s": form("cpu_seconds", ".1f"),
        "time of plain": form("time_ratio", ".2f"),
        "Δ value": form("value_error", ".0e"),
        "Δ gradient": form("gradient_error", ".0e"),
    }
    return select(load("scale/loss_memory")["rows"], columns)


def small_step() -> str:
    """Distillation steps of the originals' small shape."""
    return select(
        load("scale/small_step")["rows"],
        {
            "way": "way",
            "peak GiB": form("peak_bytes", ".2f", GIB),
            "over student and teacher, GiB": lambda r: (
                f"{(r['peak_bytes'] - r['before_bytes']) * GIB:.2f}"
            ),
            "CPU s per step": form("cpu_seconds_per_step", ".0f"),
        },
    )


def small_parameters(scale: str) -> str:
    """Of that network, in millions; or GiB of two networks, gradients, moments and the average."""
    count = load("scale/small_step")["rows"][0]["parameters"]
    return f"{count * 4 * 6 * GIB:.1f}" if scale == "GiB" else f"{count / 1e6:.0f}"


def two_ranks() -> str:
    """One process against two."""
    return select(
        load("scale/two_ranks")["rows"],
        {
            "two processes": "way",
            "largest Δ of the loss, any step": form("largest_loss_difference", ".1g"),
            "largest Δ of a final weight": form("largest_weight_difference", ".1g"),
        },
    )
