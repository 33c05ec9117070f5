"""Where to compute: a device that is there, or a sentence that says which are."""

from __future__ import annotations

import torch


def usable_device(name: str | torch.device) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: for a name that torch does not know, or a device that this machine or this
            build of torch has not; the message names those that can be used.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {str(name)!r} is unknown; {_choices()}") from None
    if device.type == "mps":
        raise ValueError(
            f"device {str(name)!r} is of no use: it lacks float64, which draws need; {_choices()}"
        )
    if not _is_there(device):
        raise ValueError(f"device {str(name)!r} is not on this machine; {_choices()}")
    return device


def _is_there(device: torch.device) -> bool:
    if device.type == "cuda":
        # Asking does not take memory on the card, as making a tensor would.
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    if device.type == "meta":
        return False
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError, AttributeError):
        return False
    return True


def _choices() -> str:
    """What to give instead."""
    found = ["cpu"]
    if torch.cuda.is_available():
        found += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    return f"give {' or '.join(found)}" if len(found) < 3 else f"give one of {', '.join(found)}"
