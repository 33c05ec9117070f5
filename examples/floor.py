"""The floor, exactly: what a perfect per-position network loses in a few steps.

Run: python examples/floor.py   (a few seconds; no training)
"""

import torch

import fewjump
from fewjump.problem import EnumeratedJoint
from fewjump.process import Absorbing

truth = EnumeratedJoint.random(4, 3, generator=torch.Generator().manual_seed(0))
process = Absorbing(5, fewjump.LogLinear())  # four tokens and a mask
product = truth.denoiser(process)
joint = truth.denoiser(process, joint=True)


def divergence(output: torch.Tensor) -> float:
    """KL(data ‖ output law) in nats; no Monte Carlo anywhere."""
    return float((truth.probs * (truth.probs / output).log()).sum())


print(f"total correlation of the data: {truth.one_step_floor():.4f} nats")
print("steps   per position        joint")
for steps in (1, 2, 4, 8, 16, 32):
    errors = [divergence(fewjump.exact_output_law(d, steps)) for d in (product, joint)]
    print(f"{steps:5d}   {errors[0]:12.6f} {errors[1]:12.2e}")
