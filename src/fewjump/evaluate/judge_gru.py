"""A small recurrent network as a judge: it sees the whole past, which an n-gram model does not."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor, nn

from fewjump.evaluate.judge import Judge
from fewjump.random import generator_for, integers, uniform

_CHUNK_ROWS = 512


class GRUJudge(Judge):
    """An autoregressive GRU, trained by :meth:`fit`; a begin token stands before the first.

    Args:
        vocab_size: V.
        hidden: width of the recurrent state.
        embedding: width of a token's embedding.
        seed: of the initial weights and of the batches.
    """

    def __init__(
        self, vocab_size: int, hidden: int = 192, embedding: int = 64, seed: int = 0
    ) -> None:
        self.vocab_size, self.seed = vocab_size, seed
        # PyTorch's own initial weights, drawn from the global generator, are not used.
        with torch.random.fork_rng(devices=[]):
            self.network = nn.ModuleDict(
                {
                    "embed": nn.Embedding(vocab_size + 1, embedding),
                    "gru": nn.GRU(embedding, hidden, batch_first=True),
                    "out": nn.Linear(hidden, vocab_size),
                }
            )
        generator = generator_for(seed, 0)
        bound = hidden**-0.5
        with torch.no_grad():
            for weight in self.network.parameters():
                weight.copy_((2 * uniform(weight.shape, generator) - 1) * bound)

    def fit(
        self,
        tokens: Tensor,
        steps: int = 800,
        seconds: float | None = None,
        batch_size: int = 64,
        learning_rate: float = 4e-3,
    ) -> GRUJudge:
        """Train on (N, L) sequences with AdamW, linear warm-up and decay; returns the judge.

        The result is a function of the seed and of ``steps``. With ``seconds`` it stops there at
        the latest, and then depends on the machine.

        Raises:
            ValueError: for steps below 1, or tokens out of range.
        """
        if steps < 1 or batch_size < 1:
            raise ValueError(f"steps and batch_size must be at least 1, got {steps}, {batch_size}")
        if not 0 < learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive, got {learning_rate}")
        if seconds is not None and not 0 < seconds < math.inf:
            raise ValueError(f"seconds must be positive (or None), got {seconds}")
        self.check(tokens)
        tokens = tokens.cpu().long()
        optimiser = torch.optim.AdamW(self.network.parameters(), lr=learning_rate)
        warm_up = max(1, steps // 20)
        generator = generator_for(self.seed, 1)
        started = time.perf_counter()
        self.network.train()
        for step in range(steps):
            spent = 0.0 if seconds is None else (time.perf_counter() - started) / seconds
            if spent >= 1:
                break
            left = 1 - max(step / steps, spent)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * min(1.0, (step + 1) / warm_up) * left
            rows = integers(tokens.shape[0], (batch_size,), generator)
            loss = -self._token_log_prob(tokens[rows]).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            optimiser.step()
        self.network.eval()
        return self

    @torch.no_grad()
    def log_prob(self, tokens: Tensor) -> Tensor:
        self.check(tokens)
        tokens = tokens.cpu().long()
        parts = [self._token_log_prob(part) for part in tokens.split(_CHUNK_ROWS)]
        return torch.cat(parts).double()

    def _token_log_prob(self, tokens: Tensor) -> Tensor:
        begin = torch.full_like(tokens[:, :1], self.vocab_size)
        past = torch.cat([begin, tokens[:, :-1]], 1)
        states, _ = self.network["gru"](self.network["embed"](past))
        log_probs = self.network["out"](states).log_softmax(-1)
        return log_probs.gather(-1, tokens[..., None])[..., 0]
