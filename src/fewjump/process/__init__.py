"""Forward processes: how data is noised, and how to step back."""

from fewjump.process.base import Process
from fewjump.process.recovery import Recovery, RecoveryMethod
from fewjump.process.reset import Absorbing, ResetToPrior, Uniform

__all__ = ["Absorbing", "Process", "Recovery", "RecoveryMethod", "ResetToPrior", "Uniform"]
