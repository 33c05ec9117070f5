"""A vocabulary of 50,000 tokens: a training step and a draw that never hold its logits.

Run: python examples/large_vocabulary.py   (a few seconds)
"""

from __future__ import annotations

import torch

import fewjump
from fewjump.denoiser import NetworkDenoiser
from fewjump.process import Absorbing

VOCAB, LENGTH = 50_000, 32
process = Absorbing(VOCAB, fewjump.LogLinear())
trunk = {"hidden": 16, "blocks": 1, "heads": 2, "condition_dim": 16}
torch.manual_seed(0)
teacher = NetworkDenoiser.from_config(
    {"process": process.config(), "trunk": trunk, "length": LENGTH}
)
torch.nn.init.normal_(teacher.head.get_submodule("linear").get_parameter("weight"))

data = torch.randint(VOCAB - 1, (64, LENGTH))
law = teacher(process.corrupt(data[:4], 0.0, 0.5), 0.5)
print(f"4 × {LENGTH} positions have {type(law.source).__name__}: {VOCAB:,} logits each, unwritten")

student = fewjump.distill(teacher, data, steps=3, batch_size=4, warmup=1, progress=False)
print("three steps of distillation; then two samples in 4 evaluations:")
print(fewjump.sample(student, 2, 4, generator=0)[:, :8].tolist())
