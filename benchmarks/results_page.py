"""Write docs/results.md from the committed result files: no number there is typed by hand.

Run: python benchmarks/results_page.py   (a test fails when the page is out of date)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from page_parts import RESULTS, ROOT, Content, provenance
from results_chain import hybrid_noise, hybrid_steps, joint_markov, markov_curve
from results_cost import cost_in_vocabulary, sampling_overhead
from results_digits import demo_digits, digits
from results_exact import error_terms, joint_exact, sampler_order

PAGE = ROOT / "docs" / "results.md"


SECTIONS: dict[str, tuple[str, str, Callable[[Content], str]]] = {
    "sampler_order": ("Order of the samplers", "experiments.sampler_order", sampler_order),
    "error_terms": ("Three errors, three numbers", "experiments.error_terms", error_terms),
    "markov_curve": ("The product floor", "experiments.markov_curve", markov_curve),
    "digits": ("Digits", "experiments.digits", digits),
    "demo_digits": ("The digits demo", "make demo", demo_digits),
    "joint_markov": (
        "Past the floor on chains",
        "experiments.joint_markov",
        joint_markov,
    ),
    "joint_exact": (
        "Past the floor on enumerated problems",
        "experiments.joint_exact",
        joint_exact,
    ),
    "hybrid_noise": (
        "Noise that moves",
        "experiments.hybrid_noise",
        hybrid_noise,
    ),
    "hybrid_steps": (
        "Why more steps do not help those students",
        "experiments.hybrid_steps",
        hybrid_steps,
    ),
    "cost_in_vocabulary": (
        "Cost against the vocabulary",
        "benchmarks/cost_in_vocabulary.py",
        cost_in_vocabulary,
    ),
    "sampling_overhead": (
        "Cost of sampling",
        "benchmarks/sampling_overhead.py",
        sampling_overhead,
    ),
}


def render() -> str:
    """The whole page."""
    parts = [
        "# Results",
        "Written by `python benchmarks/results_page.py` from the files in `benchmarks/results/`; each "
        "section names the script that made its file (`python -m …`). Times are of a shared machine: "
        "trust ratios, not seconds.",
    ]
    for name, (title, module, section) in SECTIONS.items():
        path = RESULTS / f"{name}.json"
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            parts += [f"## {title}", provenance(content, module), section(content)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(PAGE)
