"""What a chain law costs as the vocabulary grows: it should be linear, never r·L·V.

One training step (teacher, student, joint conditional matching, backward pass, AdamW) and one
sampling step of a small network with a chain head of r = 32 states, at V = 256, 4,096 and 50,257.
Two records are kept: what every operation returns (its largest tensor, and the sum of all that is
created), and the allocator's own account (the peak above what was there before). The dense form,
which does hold r·L·V numbers, is run at the two smaller sizes to show that the records can see it.
Run: python -m benchmarks.cost_in_vocabulary; about 20 seconds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from experiments.harness import Content, Options, Rows, main
from experiments.vocabulary import peak_bytes, quickest, slope
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.objective import JointConditionalMatching, freeze
from fewjump.process import Absorbing
from fewjump.random import generator_for
from fewjump.sampler import run
from fewjump.schedule import LogLinear

VOCABULARIES = (256, 4096, 50_257)
LIMIT = 1.1
#: Entries of the largest temporary that the factored emissions build at a time.
CHUNK = 1 << 20


@dataclass(frozen=True)
class Size:
    """The network: small, so that the head's cost is what is seen."""

    batch: int = 1
    length: int = 16
    states: int = 32
    rank: int = 16
    hidden: int = 32

    def bound(self, vocab: int) -> int:
        """Entries that a tensor may have: one r×V factor, embeddings, one chunk, or three times the
        logits, the working memory of a loss that takes all rows in one chunk."""
        rows = max(3 * self.batch * self.length, self.states, self.hidden, self.rank)
        return max(rows * (vocab + 1), CHUNK)

    def forbidden(self, vocab: int) -> int:
        """r·L·V."""
        return self.states * self.length * (vocab + 1)


class Created(TorchDispatchMode):
    """Largest tensor (entries of its storage) that an operation returns; bytes of all new ones."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.total = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        known = {_pointer(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for t in tree_leaves(out):
            if isinstance(t, Tensor) and _pointer(t) not in known:
                size = t.untyped_storage().nbytes()
                self.largest = max(self.largest, size // t.element_size())
                self.total += size
        return out


def _pointer(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()


def make(vocab: int, emission: str, size: Size) -> tuple[NetworkDenoiser, NetworkDenoiser]:
    """A product teacher and a chain student, both away from the uniform law."""
    torch.manual_seed(0)
    process = Absorbing(vocab + 1, LogLinear())
    config = {
        "process": process.config(),
        "trunk": {"hidden": size.hidden, "blocks": 1, "heads": 2},
        "length": size.length,
    }
    head = {"kind": "chain", "states": size.states, "rank": size.rank, "emission": emission}
    teacher = NetworkDenoiser.from_config(config)
    student = NetworkDenoiser.from_config({**config, "head": head})
    for model in (teacher, student):
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return teacher, student


def calls(vocab: int, emission: str, size: Size) -> dict[str, Callable[[], object]]:
    """A training step and a sampling step, each a function that can be called again."""
    teacher, student = make(vocab, emission, size)
    freeze(teacher)
    frozen = copy.deepcopy(student)
    objective = JointConditionalMatching(near=0.1, steps=4)
    optimiser = torch.optim.AdamW(student.parameters(), lr=1e-3)
    batch = torch.randint(vocab, (size.batch, size.length), generator=generator_for(1))

    def train() -> None:
        loss, _ = objective(student, teacher, batch, generator_for(2))
        loss.backward()
        optimiser.step()
        # Every step starts without gradients, so that its peak counts them.
        optimiser.zero_grad(set_to_none=True)

    def draw() -> Tensor:
        return run(frozen, size.batch, 1, generator=3, batch_size=size.batch).samples

    return {"training step": train, "sampling step": draw}


def steps_of(vocab: int, emission: str, size: Size, repeats: int) -> Rows:
    """One row for each kind of step; the time is the least of the repeats."""
    rows = []
    for name, call in calls(vocab, emission, size).items():
        call()  # allocates the optimiser's moments, fills caches
        seconds = quickest(call, repeats)
        with Created() as created:
            call()
        rows.append(
            {
                "emission": emission,
                "step": name,
                "vocab": vocab,
                "cpu_seconds": seconds,
                "peak_bytes": peak_bytes(call),
                "created_bytes": created.total,
                "largest_entries": created.largest,
                "bound_entries": size.bound(vocab),
                "states_length_vocab": size.forbidden(vocab),
            }
        )
    return rows


def fits(rows: Sequence[dict[str, Any]]) -> Rows:
    """Exponents in V over all sizes, and between the two largest, where V outweighs the rest."""
    out = []
    for emission in dict.fromkeys(r["emission"] for r in rows):
        for step in dict.fromkeys(r["step"] for r in rows):
            mine = [r for r in rows if (r["emission"], r["step"]) == (emission, step)]
            vocab = [r["vocab"] for r in mine]
            line: dict[str, Any] = {"emission": emission, "step": step}
            for key in ("cpu_seconds", "peak_bytes", "created_bytes"):
                values = [r[key] for r in mine]
                line[f"slope_{key}"] = slope(vocab, values)
                line[f"slope_{key}_last_two"] = slope(vocab[-2:], values[-2:])
            out.append(line)
    return out


def check(rows: Sequence[dict[str, Any]], slopes: Sequence[dict[str, Any]]) -> list[str]:
    """What is wrong, in words; empty when the factored forms are linear in V and the dense is seen.

    At V where r·L·V exceeds the bound, a tensor within the bound is not of that size.
    """
    wrong = []
    for r in rows:
        where = f"{r['emission']}, {r['step']}, V = {r['vocab']}"
        if r["emission"] == "dense":
            if r["largest_entries"] < r["states_length_vocab"]:
                wrong.append(f"{where}: the record does not see the dense emissions")
        elif r["largest_entries"] > r["bound_entries"]:
            wrong.append(f"{where}: a tensor of {r['largest_entries']} entries")
    for line in slopes:
        for key, value in line.items():
            if key.startswith("slope") and line["emission"] != "dense" and value > LIMIT:
                wrong.append(f"{line['emission']}, {line['step']}: {key} = {value:.2f} > {LIMIT}")
    return wrong


@dataclass
class Config(Options):
    """What a chain law costs as the vocabulary grows."""

    repeats: int = 3
    """Times each step is timed; the quickest counts."""


def measure(config: Config) -> Content:
    """Every form at every vocabulary (the dense one at the smaller two), and exponents in V."""
    size, rows = Size(), []
    for emission in ("shared", "low-rank", "dense"):
        for vocab in VOCABULARIES if emission != "dense" else VOCABULARIES[:2]:
            rows += steps_of(vocab, emission, size, config.repeats)
    slopes = fits(rows)
    wrong = check(rows, slopes)
    print("\n".join(wrong) if wrong else f"linear in V: every exponent is at most {LIMIT}")
    return {
        "what": "chain head: cost of one step against V; CPU seconds, bytes",
        "size": asdict(size),
        "limit": LIMIT,
        "wrong": wrong,
        "slopes": slopes,
        "rows": rows,
    }


if __name__ == "__main__":
    main("cost_in_vocabulary", Config, measure)
