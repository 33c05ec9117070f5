"""Numbers that are no longer finite: found, and explained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fewjump.train.state import STATE_FILE


class DivergenceError(RuntimeError):
    """Loss, gradient or weights are no longer finite; the last checkpoint is untouched."""


def not_finite(parameters: Sequence[Tensor]) -> bool:
    """Whether some entry (of this process's part) is NaN or infinite."""
    parts = (getattr(p, "to_local", lambda p=p: p)() for p in parameters)
    return not all(bool(torch.isfinite(part).all()) for part in parts)


def diagnosis(
    step: int, loss: float, norm: float, parameters: Sequence[Tensor], folder: Path | None
) -> str:
    """What is not finite after a step, why that is likely, and where the last good state lies."""
    if not_finite(parameters):
        what, cause = "the weights are", "the last update overflowed; lower lr or set clip"
    elif loss == float("inf"):
        what = "the loss is +inf, it is"
        cause = (
            "the student gives probability 0 to a token that the target holds; check that "
            "data and process share their tokens, or lower lr"
        )
    elif loss - loss != 0:
        what = f"the loss is {loss}, it is"
        cause = "the network's output overflowed; lower lr, or use precision='float32'"
    else:
        what = f"the gradient norm is {norm}, it is"
        cause = "the loss is too steep here; lower lr, or raise the objective's min_time"
    kept = "" if folder is None else f" The last good checkpoint is {folder / STATE_FILE}."
    return f"step {step}: {what} not finite. Likely cause: {cause}.{kept}"
