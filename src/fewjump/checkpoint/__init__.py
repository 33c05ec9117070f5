"""Saved models, as folders of config.json, model.safetensors and README.md; and originals."""

from fewjump.checkpoint.errors import CheckpointError
from fewjump.checkpoint.folder import FORMAT_VERSION, load, read_config, save
from fewjump.checkpoint.teacher import load_teacher

__all__ = ["FORMAT_VERSION", "CheckpointError", "load", "load_teacher", "read_config", "save"]
