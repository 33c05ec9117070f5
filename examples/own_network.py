"""Bring your own network: wrap it, train it, distil it, save nothing but what you want.

Run: python examples/own_network.py   (under a minute on one core)
"""

import torch
from torch import nn

import fewjump
from fewjump.denoiser import LogitDenoiser
from fewjump.objective import ConditionalMatching
from fewjump.problem import reference_markov_chain
from fewjump.process import Uniform


class Convolutions(nn.Module):
    """Any module from (tokens (B, L), times (B,)) to logits (B, L, V)."""

    def __init__(self, vocab_size: int, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.time = nn.Linear(1, width)
        self.layers = nn.Sequential(
            *(
                layer
                for _ in range(3)
                for layer in (nn.Conv1d(width, width, 5, padding=2), nn.GELU())
            ),
            nn.Conv1d(width, vocab_size, 1),
        )

    def forward(self, tokens: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(tokens) + self.time(times[:, None].float())[:, None]
        return self.layers(hidden.transpose(1, 2)).transpose(1, 2)


chain = reference_markov_chain(length=16)
process = Uniform(chain.vocab_size, fewjump.LogLinear())
data = chain.sample(20_000, torch.Generator().manual_seed(0))

torch.manual_seed(0)
mine = LogitDenoiser(Convolutions(chain.vocab_size), process, length=chain.length)
teacher = fewjump.train_teacher(data, process, network=mine, steps=300, lr=3e-3, ema=0.98)
student = fewjump.distill(
    teacher, data, objective=ConditionalMatching("forward", steps=4), steps=100, ema=0.98
)
for name, denoiser in (
    ("exact", chain.denoiser(process)),
    ("teacher", teacher),
    ("student", student),
):
    for steps in (1, 4, 16):
        samples = fewjump.sample(denoiser, num_samples=2000, steps=steps, generator=1)
        print(f"{name:8s} {steps:3d} steps: bigram error {chain.bigram_tv(samples):.3f}")
