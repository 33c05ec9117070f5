"""What a result says of the machine that made it."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

import fewjump


def machine_facts() -> dict[str, Any]:
    """What a reader needs to judge a timing: processor, threads, versions."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fewjump": fewjump.__version__,
    }
