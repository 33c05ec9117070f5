"""Denoisers: (x_t, t) → a law over clean sequences."""

from fewjump.denoiser.base import Denoiser, LogitDenoiser

__all__ = ["Denoiser", "LogitDenoiser"]
