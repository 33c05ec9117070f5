"""fewjump: few-step samplers for discrete diffusion models, checked against exact ground truth.

Names are imported when first used, so ``import fewjump`` is quick and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fewjump.citations import citation

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fewjump import (
        checkpoint,
        data,
        denoiser,
        evaluate,
        law,
        objective,
        problem,
        process,
        publish,
        report,
        sampler,
        schedule,
        train,
    )
    from fewjump.api import distill, train_teacher
    from fewjump.checkpoint import CheckpointError, load, load_teacher, save
    from fewjump.publish import (
        Pipeline,
        from_pretrained,
        generate,
        pipeline,
        push_to_hub,
        save_pretrained,
    )
    from fewjump.refinement import refine
    from fewjump.sampler import exact_output_law, sample
    from fewjump.schedule import Cosine, Geometric, Linear, LogLinear

__all__ = [
    "CheckpointError",
    "Cosine",
    "Geometric",
    "Linear",
    "LogLinear",
    "Pipeline",
    "__version__",
    "checkpoint",
    "citation",
    "data",
    "denoiser",
    "distill",
    "evaluate",
    "exact_output_law",
    "from_pretrained",
    "generate",
    "law",
    "load",
    "load_teacher",
    "objective",
    "pipeline",
    "problem",
    "process",
    "publish",
    "push_to_hub",
    "refine",
    "report",
    "sample",
    "sampler",
    "save",
    "save_pretrained",
    "schedule",
    "train",
    "train_teacher",
]

_HOME = {
    "Cosine": "fewjump.schedule",
    "Geometric": "fewjump.schedule",
    "Linear": "fewjump.schedule",
    "LogLinear": "fewjump.schedule",
    "distill": "fewjump.api",
    "train_teacher": "fewjump.api",
    "refine": "fewjump.refinement",
    "exact_output_law": "fewjump.sampler",
    "sample": "fewjump.sampler",
    "CheckpointError": "fewjump.checkpoint",
    "load": "fewjump.checkpoint",
    "load_teacher": "fewjump.checkpoint",
    "save": "fewjump.checkpoint",
    **dict.fromkeys(
        (
            "Pipeline",
            "from_pretrained",
            "generate",
            "pipeline",
            "push_to_hub",
            "save_pretrained",
        ),
        "fewjump.publish",
    ),
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in __all__:
        value = importlib.import_module(f"fewjump.{name}")
    else:
        raise AttributeError(f"module 'fewjump' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
