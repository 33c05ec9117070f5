"""What joint laws cost as the vocabulary grows: it should be linear, and no tensor r·L·V or B·L·V.

One training step and one sampling step of small networks at V = 256, 4,096 and 50,257. Two records
are kept: what every operation returns (its largest tensor, and the sum of all that is created), and
the allocator's own account. The chain's dense form, which does hold r·L·V numbers, is run at the
two smaller sizes to show that the records can see it.
Run: python -m benchmarks.cost_in_vocabulary; about a minute.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from experiments.harness import Content, Options, Rows, main
from experiments.vocabulary import peak_bytes, quickest, slope
from fewjump.denoiser.constrain import DEFER_FROM
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.law import cross_entropy, logit_pass, logits
from fewjump.objective import JointConditionalMatching, freeze
from fewjump.process import Absorbing
from fewjump.random import generator_for
from fewjump.sampler import run
from fewjump.schedule import LogLinear

VOCABULARIES = (256, 4096, 50_257)
LIMIT = 1.1
#: Entries of the largest temporary that the factored emissions build at a time; here those of
#: deferred logits too, whose own number is for larger batches.
CHUNK = 1 << 20


@dataclass(frozen=True)
class Form:
    """A head and the size of its batch and network: small, so that the head's cost is what is seen.

    Attributes:
        head: its options.
        rows: of V entries, that a tensor may have at a large vocabulary.
        avoided: of V entries, of the tensor that must not exist.
        dense: whether the head does hold that tensor, to show that it is seen.
    """

    head: dict[str, Any]
    batch: int
    length: int
    rows: int
    avoided: int
    hidden: int = 32
    dense: bool = False

    def bound(self, vocab: int) -> int:
        """Entries that a tensor may have: its rows, one chunk, the logits of a small V, or what a
        loss in chunks of deferred logits holds."""
        logits = self.batch * self.length * (vocab + 1)
        loss = logits if vocab < DEFER_FROM else 3 * CHUNK
        return max(self.rows * (vocab + 1), loss, CHUNK)


def chain(
    emission: str, batch: int = 1, length: int = 16, states: int = 32, rank: int = 16
) -> Form:
    """May hold one r×V factor, embeddings, or three times the logits, the working memory of a loss
    that takes all rows in one chunk; not r·L·V."""
    head = {"kind": "chain", "states": states, "rank": rank, "emission": emission}
    rows = max(3 * batch * length, states, 32, rank)
    return Form(head, batch, length, rows, states * length, dense=emission == "dense")


def in_blocks(batch: int = 1, length: int = 16, states: int = 64, blocks: int = 8) -> Form:
    """May hold the tables that say which states stand for a token; not r·L·V."""
    head = {"kind": "shared-chain", "states": states, "blocks": blocks}
    return Form(head, batch, length, max(3 * batch * length, states), states * length)


def tensor_train(batch: int = 1, length: int = 48, bond: int = 6) -> Form:
    """May hold a matrix for every token, or the logits; not a vector for both at once."""
    rows = max(batch * length, bond**2)
    return Form({"kind": "tensor-train", "bond": bond}, batch, length, rows, bond * batch * length)


def along_an_order(kind: str, batch: int = 2, length: int = 128, width: int = 16) -> Form:
    """May hold the product's weight beside its own factor; not the logits of the batch."""
    head = {"kind": kind, "width": width, "heads": 2, "neighbours": [1]}
    return Form(head, batch, length, 32 + width, batch * length)


FORMS = {
    "chain, shared emission": chain("shared"),
    "chain, low-rank emission": chain("low-rank"),
    "chain, dense emission": chain("dense"),
    "shared chain in blocks": in_blocks(),
    "tensor train": tensor_train(),
    "autoregressive": along_an_order("autoregressive"),
    "any-order": along_an_order("any-order"),
}


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


def make(vocab: int, form: Form) -> tuple[NetworkDenoiser, NetworkDenoiser]:
    """A product teacher and a joint student, both away from the uniform law."""
    torch.manual_seed(0)
    process = Absorbing(vocab + 1, LogLinear())
    config = {
        "process": process.config(),
        "trunk": {"hidden": form.hidden, "blocks": 1, "heads": 2},
        "length": form.length,
    }
    teacher = NetworkDenoiser.from_config(config)
    student = NetworkDenoiser.from_config({**config, "head": form.head})
    for model in (teacher, student):
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return teacher, student


def calls(vocab: int, form: Form) -> dict[str, Callable[[], object]]:
    """A training step and a sampling step, each a function that can be called again."""
    teacher, student = make(vocab, form)
    freeze(teacher)
    frozen = copy.deepcopy(student)
    objective = JointConditionalMatching(near=0.1, steps=4)
    optimiser = torch.optim.AdamW(student.parameters(), lr=1e-3)
    batch = torch.randint(vocab, (form.batch, form.length), generator=generator_for(1))

    def train() -> None:
        loss, _ = objective(student, teacher, batch, generator_for(2))
        loss.backward()
        optimiser.step()
        # Every step starts without gradients, so that its peak counts them.
        optimiser.zero_grad(set_to_none=True)

    def draw() -> Tensor:
        return run(frozen, form.batch, 1, generator=3, batch_size=form.batch).samples

    return {"training step": train, "sampling step": draw}


def steps_of(vocab: int, head: str, form: Form, repeats: int) -> Rows:
    """One row for each kind of step; the time is the least of the repeats."""
    rows = []
    for name, call in calls(vocab, form).items():
        call()  # allocates the optimiser's moments, fills caches
        seconds = quickest(call, repeats)
        with Created() as created:
            call()
        rows.append(
            {
                "head": head,
                "step": name,
                "vocab": vocab,
                "cpu_seconds": seconds,
                "peak_bytes": peak_bytes(call),
                "created_bytes": created.total,
                "largest_entries": created.largest,
                "bound_entries": form.bound(vocab),
                "avoided_entries": form.avoided * (vocab + 1),
                "dense": form.dense,
            }
        )
    return rows


def fits(rows: Sequence[dict[str, Any]]) -> Rows:
    """Exponents in V over all sizes, and between the two largest, where V outweighs the rest."""
    out = []
    for head in dict.fromkeys(r["head"] for r in rows):
        for step in dict.fromkeys(r["step"] for r in rows):
            mine = [r for r in rows if (r["head"], r["step"]) == (head, step)]
            vocab = [r["vocab"] for r in mine]
            line: dict[str, Any] = {"head": head, "step": step, "dense": mine[0]["dense"]}
            for key in ("cpu_seconds", "peak_bytes", "created_bytes"):
                values = [r[key] for r in mine]
                line[f"slope_{key}"] = slope(vocab, values)
                line[f"slope_{key}_last_two"] = slope(vocab[-2:], values[-2:])
            out.append(line)
    return out


def check(rows: Sequence[dict[str, Any]], slopes: Sequence[dict[str, Any]]) -> list[str]:
    """What is wrong, in words; empty when the factored forms are linear in V and the dense is seen.

    At V where the tensor to avoid exceeds the bound, one within the bound is not of that size.
    """
    wrong = []
    for r in rows:
        where = f"{r['head']}, {r['step']}, V = {r['vocab']}"
        if r["dense"]:
            if r["largest_entries"] < r["avoided_entries"]:
                wrong.append(f"{where}: the record does not see the dense emissions")
        elif r["largest_entries"] > r["bound_entries"]:
            wrong.append(f"{where}: a tensor of {r['largest_entries']} entries")
    for line in slopes:
        for key, value in line.items():
            if key.startswith("slope") and not line["dense"] and value > LIMIT:
                wrong.append(f"{line['head']}, {line['step']}: {key} = {value:.2f} > {LIMIT}")
    return wrong


@dataclass
class Config(Options):
    """What joint laws cost as the vocabulary grows."""

    repeats: int = 3
    """Times each step is timed; the quickest counts."""


def measure(config: Config) -> Content:
    """Every form at every vocabulary (the dense one at the smaller two), and exponents in V."""
    rows: Rows = []
    with ExitStack() as small:
        for module in (logit_pass, logits, cross_entropy):
            small.enter_context(patch.object(module, "CHUNK_ELEMENTS", CHUNK))
        for head, form in FORMS.items():
            for vocab in VOCABULARIES[:2] if form.dense else VOCABULARIES:
                rows += steps_of(vocab, head, form, config.repeats)
    slopes = fits(rows)
    wrong = check(rows, slopes)
    print("\n".join(wrong) if wrong else f"linear in V: every exponent is at most {LIMIT}")
    return {
        "what": "joint heads: cost of one step against V; CPU seconds, bytes",
        "forms": {head: asdict(form) for head, form in FORMS.items()},
        "limit": LIMIT,
        "wrong": wrong,
        "slopes": slopes,
        "rows": rows,
    }


if __name__ == "__main__":
    main("cost_in_vocabulary", Config, measure)
