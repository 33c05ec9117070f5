"""Write docs/scale.md from the committed result files: no number there is typed by hand.

Run: python benchmarks/scale_page.py   (a test fails when the page is out of date)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from page_parts import Content, number, provenance, table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "scale"
PAGE = ROOT / "docs" / "scale.md"

HEAD = """# Large vocabularies and large networks

<!-- Written by benchmarks/scale_page.py; edit that. -->

## Logits that are never written down

At 50,000 tokens the logits of one batch are larger than the network. What a loss or a sampler wants
of them is a sum over the vocabulary, at some positions. So a product head onto 8,192 tokens or more
returns a [`LinearLaw`](../src/fewjump/law/linear.py): features, weight and bias, of which rows of
logits are computed when they are read. Nothing has to be switched on.

- **Losses** (conditional matching, the joint objective's draws from the teacher, cross-entropy on
  data) compute teacher and student in chunks of rows, for the positions that carry loss only. A
  position that the teacher sees unmasked costs no product with the teacher's weight. For soft
  labels, the gradients of features, weight and bias are summed up in float32 while a chunk's logits
  are there, so that no product is computed twice.
- **Hard labels** go through Liger's fused kernel on CUDA where `fewjump[liger]` is installed, else
  through `torch.nn.functional.linear_cross_entropy` where torch has it.
- **Samplers** first draw whether a position may move, then compute the rows of those that may.
- Temperature is part of the features. A nucleus (`top_p`) is cut from each row as it is read.
- **Joint heads** have the base logits of their network, and nothing per state or component and token
  beside them: from 8,192 tokens on `chain` and `mixture-of-chains` take `emission="low-rank"` and
  `mixture` a `LowRankEmission`, the same laws whose normalisers are computed in chunks.
- Anything else (`law.logits`, `law.marginals()`, a head of another kind on top) writes the logits
  down as before. So do layers that something is hooked into.
- **Concrete-score networks** under a mask (SEDD absorb) need no inversion: the closed form at clean
  tokens is the softmax of their output. Their laws are deferred too; SEDD's own sampling steps need
  besides what the scores of a position sum to, which is found in chunks. Under other noise recovery needs every score: it is done for
  a few positions at a time, and the student is a network that gives posteriors."""

USE = """## Splitting, recomputing, sharing

| option | what it does |
|---|---|
| `--accumulate 4` | each step's batch in four parts; the result is the same |
| `--precision bfloat16` | the networks' products in bfloat16, sums of the loss in float32 |
| `--checkpoint-blocks` | blocks are computed again in the backward pass; the same gradients, bit for bit |
| `--sharding full` | under torchrun, every process holds a part of each weight, gradient, moment and average, of student, teacher and auxiliary network (FSDP2) |
| `--lora 8` | the student is the frozen teacher plus a low-rank difference (needs `fewjump[lora]`); the weights are in memory once (with `--sharding full`, in parts, once for each of the two) |

They are options of `train`, `distill` and `refine` (`--lora` of `distill`), and fields of
`fewjump.TrainConfig`.

```bash
torchrun --nproc-per-node 8 -m fewjump distill --teacher runs/teacher --data corpus.txt \\
    --out runs/student --sharding full --precision bfloat16 --checkpoint-blocks
```

Without `--sharding full` the processes share the networks (DDP). The run's state is then one file;
a split run writes it in parts (`torch.distributed.checkpoint`, tensors only). Either is resumed
split or not, by any number of processes, with the same command. `model/` is one safetensors file in
every case: the moving average is put together at the end.

What is left to the operating system of a launch: all processes must see the run folder."""


def loss_memory(content: Content) -> str:
    rows = [
        (
            f"{r['vocab']:,}",
            r["labels"],
            r["how"],
            f"{r['peak_bytes'] / 2**20:,.0f}",
            f"{r['memory_ratio']:.3f}",
            f"{r['cpu_seconds']:.1f}",
            f"{r['time_ratio']:.2f}",
            f"{r['value_error']:.0e}",
            f"{r['gradient_error']:.0e}",
        )
        for r in content["rows"]
    ]
    header = (
        "V",
        "labels",
        "how",
        "peak MiB",
        "of plain",
        "CPU s",
        "of plain",
        "Δ value",
        "Δ gradient",
    )
    return f"""### Measured: the loss

Loss and backward at {content["positions"]:,} positions, hidden {content["hidden"]}, float32. `plain` is the formula in PyTorch, `logits` this
library with logits that exist, `chunked` with deferred ones. Soft labels are a teacher's logits, whose
product is part of the cost. The peak is of the process's resident memory, over its size before; it
includes the weight's gradient, which every way has to make. Δ value is in nats; Δ gradient is the
largest difference over the largest entry, of features, weight and bias.

{table(header, rows)}

{provenance(content, "benchmarks/loss_memory.py")}"""


def small_step(content: Content) -> str:
    first = content["rows"][0]
    rows = [
        (
            r["way"],
            f"{r['peak_bytes'] / 2**30:.2f}",
            f"{(r['peak_bytes'] - r['before_bytes']) / 2**30:.2f}",
            f"{r['cpu_seconds_per_step']:.0f}",
        )
        for r in content["rows"]
    ]
    header = ("way", "peak GiB", "over student and teacher, GiB", "CPU s per step")
    return f"""### Measured: a step of the small shape

Two whole distillation steps (teacher, student, loss, backward, AdamW, average) at batch {content["batch_size"]},
L = {content["length"]:,}, V = {content["vocab"]:,}: {first["parameters"] / 1e6:.0f}M parameters ({content["trunk"]["hidden"]} × {content["trunk"]["blocks"]} × {content["trunk"]["heads"]}), float32, random weights. Of that peak,
{first["parameters"] * 4 * 6 / 2**30:.1f} GiB are weights of student and teacher, gradients, two moments and the average, which every way
holds.

`deferred` is what the library does; `logits` writes the logits down. `score` is a concrete-score network
(SEDD) distilled into another, under a mask; with `score-logits` its scores are written down and recovery
runs in parts, with `score-uniform` the teacher's are, under uniform noise.

{table(header, rows)}

{provenance(content, "benchmarks/small_step.py")}"""


def two_ranks(content: Content) -> str:
    rows = [
        (
            r["way"],
            number(r["largest_loss_difference"], 1),
            number(r["largest_weight_difference"], 1),
        )
        for r in content["rows"]
    ]
    curve = content["one_process_curve"]
    header = ("two processes", "largest Δ of the loss, any step", "largest Δ of a final weight")
    return f"""### Measured: two processes against one

The same training by one process and by two (gloo, CPU): {content["steps"]} steps of batch {content["batch_size"]}, V = {content["vocab"]:,}, in which the
loss goes from {curve[0]:.4f} to {curve[-1]:.4f} nats per position.

{table(header, rows)}

{provenance(content, "benchmarks/two_ranks.py")}"""


def render() -> str:
    """The whole page."""

    def show(name: str, section: Callable[[Content], str]) -> list[str]:
        path = RESULTS / f"{name}.json"
        if not path.is_file():
            return []
        return [section(json.loads(path.read_text(encoding="utf-8")))]

    parts = [HEAD, *show("loss_memory", loss_memory), *show("small_step", small_step), USE]
    return "\n\n".join([*parts, *show("two_ranks", two_ranks)]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(PAGE)
