"""Models as files: config.json, model.safetensors and README.md in a folder; and the originals."""

from fewjump.checkpoint.folder import FORMAT_VERSION, read_config, save
from fewjump.checkpoint.opening import load
from fewjump.reading import CheckpointError

__all__ = ["FORMAT_VERSION", "CheckpointError", "load", "read_config", "save"]
