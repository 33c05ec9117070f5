"""Saved models: a folder of config.json, model.safetensors and README.md."""

from fewjump.checkpoint.folder import FORMAT_VERSION, load, read_config, save

__all__ = ["FORMAT_VERSION", "load", "read_config", "save"]
