"""Refine a student by a rule of yours: brackets that close, from samples and their rewards alone.

Run: python examples/reward.py   (under a minute on one core)
"""

import itertools

import torch

import fewjump
from fewjump.problem import FiniteSupport
from fewjump.process import Absorbing
from fewjump.sampler import exact_output_law

OPEN, CLOSE = 0, 1
# Eight brackets, four of each kind. Whether they close is not in the data: 14 of 70 do.
strings = [s for s in itertools.product((OPEN, CLOSE), repeat=8) if sum(s) == 4]
problem = FiniteSupport(torch.tensor(strings))
process = Absorbing(problem.vocab_size + 1, fewjump.LogLinear())


def closes(x0: torch.Tensor) -> torch.Tensor:
    """1 where no bracket closes before it opens, and all are closed: (N, 8) → (N,)."""
    depth = (1 - 2 * x0).cumsum(-1)
    return ((depth >= 0).all(-1) & (depth[:, -1] == 0)).float()


student = fewjump.distill(
    problem.denoiser(process, joint=True),
    problem.sample(10_000, torch.Generator().manual_seed(0)),
    student="autoregressive",
    head={"width": 32},
    network={"hidden": 32, "blocks": 1, "time_conditioned": False},
    steps=200,
    batch_size=64,
    lr=1e-2,
    ema=0.98,
)
refined = fewjump.refine(
    student, reward=closes, anchor=0.3, draws=8, steps=200, batch_size=64, lr=3e-3, guard=False
)

every = torch.tensor(list(itertools.product((OPEN, CLOSE), repeat=8)))
for name, model in (("distilled", student), ("refined by the rule", refined)):
    law = exact_output_law(model, 1).detach().reshape(-1)  # of one evaluation, exact
    right = law[closes(every) > 0]
    spread = float(right.sum().square() / right.square().sum())
    print(f"{name:20s} {float(right.sum()):.1%} close; as many as {spread:.1f} of the 14 that do")
