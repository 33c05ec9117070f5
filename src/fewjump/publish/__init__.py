"""A model with its vocabulary, words in and samples out; and what the hub's methods do."""

from fewjump.publish.pipeline import Pipeline, PipelineOutput

__all__ = ["Pipeline", "PipelineOutput"]
