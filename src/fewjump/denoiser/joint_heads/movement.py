"""How far a joint student has moved from the product law it started at."""

from __future__ import annotations

import torch
from torch import Tensor

from fewjump.law.base import Law
from fewjump.random import Generator


@torch.no_grad()
def moved(law: Law, reference: Law, draws: int = 1, generator: Generator = None) -> Tensor:
    """KL(law ‖ reference) in nats per sequence, estimated from draws of ``law``: (B,).

    With the teacher's product law as reference it is 0 at a warm start, draw by draw. For a
    student that kept the teacher's marginals it is the total correlation the student has found.

    Args:
        law: the student's law.
        reference: the law it is compared with, for the same x_t.
        draws: sequences drawn for each row; the estimate is unbiased for any number.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    total = torch.zeros((), device=law.device)
    for _ in range(draws):
        x0 = law.sample(generator)
        total = total + law.log_prob(x0) - reference.log_prob(x0)
    return total / draws
