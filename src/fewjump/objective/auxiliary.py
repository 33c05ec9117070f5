"""A student and the network that learns what the student's own samples look like, as one model."""

from __future__ import annotations

import math

from torch import Tensor, nn

from fewjump.denoiser.base import Denoiser
from fewjump.law.base import Law


class StudentWithAuxiliary(Denoiser):
    """A student denoiser that carries an auxiliary one; as a denoiser it *is* the student.

    Both are parts of one module, so that the training loop optimises, averages, saves and resumes
    them together. The auxiliary's parameters carry an ``lr_scale``, which the loop's optimiser
    multiplies their learning rate by.

    Args:
        student: the few-step sampler that is refined.
        auxiliary: returns a product law; of the student's process.
        lr_scale: learning rate of the auxiliary as a multiple of the student's, above 0.

    Raises:
        ValueError: for another process, shared parameters, or an ``lr_scale`` that is not positive.
    """

    def __init__(self, student: Denoiser, auxiliary: Denoiser, lr_scale: float = 1.0) -> None:
        super().__init__(student.process, student.length, student.clean_vocab_size)
        if auxiliary.process.config() != student.process.config():
            raise ValueError(
                f"the auxiliary denoiser has the process {auxiliary.process!r}, the student "
                f"{student.process!r}; build it with process=student.process"
            )
        mine = {id(p) for p in student.parameters()}
        if any(id(p) in mine for p in auxiliary.parameters()):
            raise ValueError("student and auxiliary share parameters; copy.deepcopy one of them")
        if not 0 < lr_scale < math.inf:
            raise ValueError(f"lr_scale must be positive, got {lr_scale}")
        self.student, self.auxiliary = student, auxiliary
        self.time_conditioned = student.time_conditioned
        for parameter in auxiliary.parameters():
            parameter.lr_scale = lr_scale  # pyright: ignore[reportAttributeAccessIssue]

    def law(self, x_t: Tensor, t: Tensor) -> Law:
        return self.student(x_t, t)

    @property
    def network(self) -> nn.Module:
        """The student's own network: what ``compile=True`` compiles."""
        for name in ("trunk", "network"):
            part = getattr(self.student, name, None)
            if isinstance(part, nn.Module):
                return part
        raise AttributeError("the student has no network of its own")
