"""Fill a hole in one evaluation: a student distilled for it, published as a folder, read back.

Run: python examples/infilling.py   (about a quarter of a minute on one core)
"""

import tempfile

import torch

import fewjump
from fewjump.data import Tokens
from fewjump.objective import JointConditionalMatching
from fewjump.problem import reference_markov_chain
from fewjump.process import Absorbing
from fewjump.publish import Pipeline

chain = reference_markov_chain(length=12)
process = Absorbing(chain.vocab_size + 1, fewjump.LogLinear())
teacher = chain.denoiser(process)  # exact; a trained network works the same way
data = chain.sample(10_000, torch.Generator().manual_seed(0))
student = fewjump.distill(
    teacher,
    data,
    student="chain",
    head={"states": 24},
    network={"hidden": 32, "blocks": 1, "heads": 2},
    # Everything but one stretch is shown clean and left out of the loss.
    objective=JointConditionalMatching(near="zero", steps=1, known="infill", known_share=0.7),
    steps=200,
    batch_size=128,
    lr=1e-2,
    ema=0.98,
)
with tempfile.TemporaryDirectory() as folder:
    student.save_pretrained(f"{folder}/student", vocabulary=Tokens(chain.vocab_size))
    pipe = Pipeline(fewjump.load(f"{folder}/student"))
out = pipe(2, 1, generator=0, infill="1 [MASK] [MASK] [MASK] 3")
print("one evaluation:", " | ".join(out.texts))

fresh = chain.sample(2000, torch.Generator().manual_seed(1))
hole = torch.zeros(12, dtype=torch.bool)
hole[3:9] = True
for name, denoiser in (("teacher, per position", teacher), ("chain student", pipe.denoiser)):
    samples = fewjump.sample(
        denoiser, num_samples=2000, steps=1, generator=1, prompt=fresh, fixed=~hole
    )
    assert torch.equal(samples[:, ~hole], fresh[:, ~hole])
    print(f"{name:22s} bigram error {chain.bigram_tv(samples):.3f}")
print(f"{'fresh data':22s} bigram error {chain.bigram_tv_floor(2000).value:.3f}")
