"""A tiny network and a training command that tests start in processes of their own."""

from __future__ import annotations

import argparse
import copy

import torch
from torch import Tensor, nn

from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.logits import LogitDenoiser
from fewjump.objective import ConditionalMatching, CrossEntropyELBO, freeze
from fewjump.process import Uniform
from fewjump.schedule import LogLinear
from fewjump.train import TrainConfig, train

V, L = 5, 6


class TinyNetwork(nn.Module):
    """Embedding, one hidden layer over the whole sequence, dropout; logits (B, L, V)."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.embed = nn.Embedding(V, 8)
        self.hidden = nn.Linear(L * 8 + 1, 32)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(32, L * V)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        flat = self.embed(x_t).flatten(1)
        h = torch.tanh(self.hidden(torch.cat([flat, t[:, None].to(flat.dtype)], -1)))
        return self.out(self.drop(h)).reshape(-1, L, V)


def make_student(seed: int = 0, dropout: float = 0.1) -> Denoiser:
    torch.manual_seed(seed)
    return LogitDenoiser(TinyNetwork(dropout), Uniform(V, LogLinear()), L)


def make_data(rows: int = 100) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    start = torch.randint(V, (rows, 1), generator=generator)
    return (start + torch.arange(L)) % V


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=3)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--objective", default="elbo")
    options = parser.parse_args()
    torch.set_num_threads(1)
    student = make_student(dropout=options.dropout)
    teacher, objective = None, CrossEntropyELBO()
    if options.objective == "distill":
        teacher = freeze(copy.deepcopy(make_student(seed=9, dropout=options.dropout)))
        objective = ConditionalMatching("student-euler")
    config = TrainConfig(
        steps=options.steps,
        batch_size=options.batch,
        accumulate=options.accumulate,
        lr=1e-2,
        warmup=5,
        ema=0.9,
        log_every=4,
        save_every=options.save_every,
        device="cpu",
        seed=3,
        progress=False,
    )
    print("ready", flush=True)
    train(student, objective, make_data(), config, teacher=teacher, out=options.out)


if __name__ == "__main__":
    main()
