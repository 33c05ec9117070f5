"""fewjump: few-step samplers for discrete diffusion models, checked against exact ground truth."""

__version__ = "0.1.0"
