"""Peak memory and time of the loss on a large vocabulary: in chunks, and in plain PyTorch.

Value and gradients (features, weight, bias) of the mean cross-entropy of a teacher's logits, or of
hard labels, against a student's; both heads are linear layers, and one token is impossible (the
mask). ``plain`` is the formula as one writes it, with autograd; ``logits`` is what this library
does with logits that exist: sums in chunks and one gradient of their size; ``chunked`` is what it
does with a deferred head. Peak memory is the process's highest resident size while loss and
backward run, less its size before; each vocabulary has a process of its own. Linux only.

Usage: python benchmarks/loss_memory.py [--threads 1] [--vocab 50258 ...] [--positions 4096]
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fewjump.law import LinearLaw, ProductLaw
from fewjump.objective.cross_entropy import law_cross_entropy, law_token_cross_entropy
from fewjump.verify.results import machine_facts

RESULT = Path(__file__).parent / "results" / "scale" / "loss_memory.json"
VOCABULARIES = (8_192, 32_000, 50_258)
HIDDEN, POSITIONS = 768, 4096


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

    def _law(self, parts: list[Tensor]) -> LinearLaw:
        features, weight, bias = parts
        return LinearLaw(features, weight, bias + self.never)

    def _logits(self, parts: list[Tensor]) -> Tensor:
        features, weight, bias = parts
        return functional.linear(features, weight, bias + self.never)

    def soft_chunked(self) -> Tensor:
        laws = self._law(self.student), self._law(self.teacher)
        return law_cross_entropy(*laws, self.rows, self.weight).total

    def soft_logits(self) -> Tensor:
        laws = ProductLaw(self._logits(self.student)), ProductLaw(self._logits(self.teacher))
        return law_cross_entropy(*laws, self.rows, self.weight).total

    def soft_plain(self) -> Tensor:
        target = self._logits(self.teacher).softmax(-1)
        log_probs = self._logits(self.student).log_softmax(-1)
        return -(target * log_probs.masked_fill(target == 0, 0.0)).sum(-1).mean()

    def hard_chunked(self) -> Tensor:
        return law_token_cross_entropy(self._law(self.student), self.tokens, self.rows).mean()

    def hard_logits(self) -> Tensor:
        law = ProductLaw(self._logits(self.student))
        return law_token_cross_entropy(law, self.tokens, self.rows).mean()

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


def measure_vocabulary(vocab: int, positions: int) -> list[dict[str, Any]]:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--vocab", type=int, nargs="+", default=list(VOCABULARIES))
    parser.add_argument("--positions", type=int, default=POSITIONS)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--one", type=int, help="one vocabulary in this process, to stdout")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        print(json.dumps(measure_vocabulary(options.one, options.positions)))
        return
    rows = []
    for vocab in options.vocab:
        words = ["--one", vocab, "--threads", options.threads, "--positions", options.positions]
        command = [sys.executable, __file__, *map(str, words)]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows += json.loads(found)
        for row in rows[-6:]:
            print(
                f"V {row['vocab']:6} {row['labels']} {row['how']:8} "
                f"{row['peak_bytes'] / 2**20:7.0f} MiB ({row['memory_ratio']:.3f})  "
                f"{row['cpu_seconds']:6.1f} s ({row['time_ratio']:.2f})  "
                f"Δ value {row['value_error']:.1e}, gradient {row['gradient_error']:.1e}",
                flush=True,
            )
    payload = {
        "experiment": "loss_memory",
        "seed": 0,
        "machine": machine_facts(),
        "hidden": HIDDEN,
        "positions": options.positions,
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(payload, indent=1) + "\n")


if __name__ == "__main__":
    main()
