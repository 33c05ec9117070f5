"""Past the floor: a chain student of an exact teacher, one evaluation.

Run: python examples/joint_student.py   (about a minute on one core)
"""

import torch

import fewjump
from fewjump.objective import JointConditionalMatching
from fewjump.problem import reference_markov_chain
from fewjump.process import Absorbing

chain = reference_markov_chain(length=16)
process = Absorbing(chain.vocab_size + 1, fewjump.LogLinear())
teacher = chain.denoiser(process)  # exact; a trained network works the same way
data = chain.sample(20_000, torch.Generator().manual_seed(0))
student = fewjump.distill(
    teacher,
    data,
    student="chain",
    head={"states": 24},
    network={"hidden": 32, "blocks": 1, "heads": 2},
    # One-step form: t = 1 only. x_s lies next to the data, where the teacher's answer is a product.
    objective=JointConditionalMatching(near="zero", steps=1),
    steps=400,
    batch_size=128,
    lr=1e-2,
    ema=0.98,
)
for name, denoiser in (("teacher, per position", teacher), ("chain student", student)):
    samples = fewjump.sample(denoiser, num_samples=2000, steps=1, generator=1)
    nll = -float(chain.log_prob(samples).clamp(min=-1e3).mean()) / chain.length
    print(f"{name:22s} bigram error {chain.bigram_tv(samples):.3f}  nats per token {nll:.3f}")
print(f"{'fresh data':22s} bigram error {chain.bigram_tv_floor(2000).value:.3f}", end="  ")
print(f"nats per token {chain.entropy() / chain.length:.3f}")
