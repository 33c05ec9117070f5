"""Saved models as others use them: folders and hub repositories, a pipeline, ``generate``."""

from fewjump.publish.generation import generate
from fewjump.publish.hub import from_pretrained, push_to_hub, save_pretrained
from fewjump.publish.pipeline import Pipeline, PipelineOutput, pipeline

__all__ = [
    "Pipeline",
    "PipelineOutput",
    "from_pretrained",
    "generate",
    "pipeline",
    "push_to_hub",
    "save_pretrained",
]
