"""What the recovery check compares: processes, methods, and where ratios come from. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fewjump.process import RecoveryMethod

STRUCTURED = ("uniform", "absorbing", "random prior")
DENSE = ("discretised Gaussian", "random rate")
METHODS: dict[RecoveryMethod, str] = {
    "exact": "closed form",
    "clip": "clipped",
    "project": "projected",
    "multiplicative": "non-negative iterations",
}
POSTERIOR_NETWORK = "posterior network"
#: The source of ratios that families and methods are compared by.
NOISY = "noise 1%"


class Source(NamedTuple):
    """Where ratios come from: exact ones in a precision, or with log-normal noise.

    Attributes:
        name: of the source.
        dtype: torch's name of the precision.
        noise: standard deviation of the ratios' logarithm.
        iterated: whether the (slow) non-negative iterations are tried on it.
    """

    name: str
    dtype: str = "float64"
    noise: float = 0.0
    iterated: bool = False


SOURCES = (
    Source("exact, float64", iterated=True),
    Source("exact, float32", "float32"),
    Source("exact, bfloat16", "bfloat16"),
    Source(NOISY, noise=0.01, iterated=True),
    Source("noise 10%", noise=0.1, iterated=True),
)
