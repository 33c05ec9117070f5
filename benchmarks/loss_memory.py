"""Peak memory and time of the loss on a large vocabulary: in chunks, and in plain PyTorch.

Value and gradients (features, weight, bias) of the mean cross-entropy of a teacher's logits, or of
hard labels, against a student's; both heads are linear layers, and one token is impossible (the
mask). ``plain`` is the formula as one writes it, with autograd; ``logits`` is what this library
does with logits that exist: sums in chunks and one gradient of their size; ``chunked`` is what it
does with a deferred head. Peak memory is the process's highest resident size while loss and
backward run, less its size before; each vocabulary has a process of its own. Linux only.

Run: python -m benchmarks.loss_memory
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from experiments.harness import Content, Options, Rows, in_own_process, main
from fewjump.law import LinearLogits, ProductLaw

HIDDEN = 768


def resident(field: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (highest) of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


class Case:
    """Two heads, their features, and the losses."""

    def __init__(self, vocab: int, positions: int, seed: int = 0) -> None:
        torch.manual_seed(seed)
        shapes = ((1, positions, HIDDEN), (vocab, HIDDEN), (vocab,))
        scales = (1.0, HIDDEN**-0.5, 1.0)
        self.student = [torch.randn(n).mul_(s).requires_grad_() for n, s in zip(shapes, scales)]
        self.teacher = [torch.randn(n).mul_(s) for n, s in zip(shapes, scales)]
        self.never = torch.zeros(vocab).index_fill_(0, torch.tensor([vocab - 1]), -torch.inf)
        self.tokens = torch.randint(vocab - 1, (1, positions))
        self.rows = torch.arange(positions)
        self.weight = torch.full((positions,), 1 / positions)

    def _law(self, parts: list[Tensor]) -> ProductLaw:
        features, weight, bias = parts
        return ProductLaw(LinearLogits(features, weight, bias + self.never))

    def _logits(self, parts: list[Tensor]) -> Tensor:
        features, weight, bias = parts
        return functional.linear(features, weight, bias + self.never)

    def soft_chunked(self) -> Tensor:
        law, target = self._law(self.student), self._law(self.teacher)
        return law.soft_cross_entropy(target, self.rows, self.weight).total

    def soft_logits(self) -> Tensor:
        law, target = (ProductLaw(self._logits(each)) for each in (self.student, self.teacher))
        return law.soft_cross_entropy(target, self.rows, self.weight).total

    def soft_plain(self) -> Tensor:
        target = self._logits(self.teacher).softmax(-1)
        log_probs = self._logits(self.student).log_softmax(-1)
        return -(target * log_probs.masked_fill(target == 0, 0.0)).sum(-1).mean()

    def hard_chunked(self) -> Tensor:
        return self._law(self.student).token_cross_entropy(self.tokens, self.rows).mean()

    def hard_logits(self) -> Tensor:
        law = ProductLaw(self._logits(self.student))
        return law.token_cross_entropy(self.tokens, self.rows).mean()

    def hard_plain(self) -> Tensor:
        return functional.cross_entropy(self._logits(self.student)[0], self.tokens[0])

    def measure(self, loss: Callable[[], Tensor]) -> dict[str, Any]:
        """Run loss and backward; the gradients are left in place."""
        for part in self.student:
            part.grad = None
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        # 5 sets the highest resident size back to the present one (man 5 proc).
        Path("/proc/self/clear_refs").write_text("5")
        before, started, cpu = resident("VmRSS"), time.perf_counter(), time.process_time()
        value = loss()
        value.backward()
        return {
            "value": float(value.detach()),
            "seconds": round(time.perf_counter() - started, 2),
            "cpu_seconds": round(time.process_time() - cpu, 2),
            "peak_bytes": resident("VmHWM") - before,
        }

    def gradients(self) -> list[Tensor]:
        return [part.grad.clone() for part in self.student if part.grad is not None]


def measure_vocabulary(vocab: int, positions: int) -> Rows:
    """Rows of one vocabulary, hard labels and soft ones."""
    small = Case(vocab, 8)
    case, rows = Case(vocab, positions), []
    for kind in ("soft", "hard"):
        reference: list[Tensor] = []
        for how in ("plain", "logits", "chunked"):
            getattr(small, f"{kind}_{how}")().backward()
            row = {"vocab": vocab, "labels": kind, "how": how}
            row |= case.measure(getattr(case, f"{kind}_{how}"))
            found = case.gradients()
            reference = reference or found
            row["gradient_error"] = max(
                float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, reference)
            )
            row["value_error"] = 0.0
            rows.append(row)
        plain = rows[-3]
        for row in rows[-3:]:
            row["value_error"] = abs(row["value"] - plain["value"])
            row["memory_ratio"] = round(row["peak_bytes"] / plain["peak_bytes"], 4)
            row["time_ratio"] = round(row["cpu_seconds"] / plain["cpu_seconds"], 3)
    return rows


@dataclass
class Config(Options):
    """Peak memory and time of the loss on a large vocabulary."""

    vocab: tuple[int, ...] = (8_192, 32_000, 50_258)
    """Tokens."""

    positions: int = 4096
    """Rows of logits."""


def measure(config: Config) -> Content:
    """Every vocabulary in a process of its own."""
    rows: Rows = []
    for vocab in config.vocab:
        rows += in_own_process(measure_vocabulary, vocab, config.positions)
    return {"hidden": HIDDEN, "positions": config.positions, "rows": rows}


if __name__ == "__main__":
    main("scale/loss_memory", Config, measure)
