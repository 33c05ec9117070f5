"""Digits by class: a teacher that is told the class, and what guidance does to its samples.

Run: python examples/guidance.py   (under a minute on one core; needs scikit-learn)
"""

import torch

import fewjump
from fewjump.data import digits
from fewjump.evaluate.image import classifier_for
from fewjump.process import Absorbing

data = digits()
image = {"positions": "2d", "grid": (8, 8), "conv_kernel": 3, "time_conditioned": False}
teacher = fewjump.train_teacher(
    data,
    Absorbing(data.vocab_size + 1, fewjump.LogLinear()),
    network={"hidden": 32, "blocks": 2, "heads": 4, **image},
    classes=10,  # one picture in ten is shown without its class: what guidance compares with
    steps=300,
    batch_size=64,
    lr=4e-3,
    ema=0.98,
    progress=False,
)
judge = classifier_for(data)
labels = torch.arange(200) % 10
for scale in (0.0, 1.0, 3.0):
    samples = fewjump.sample(teacher, 200, 16, generator=0, label=labels, guidance=scale)
    right = (judge.classes_of(samples) == labels).double().mean()
    print(f"guidance {scale:g}: {right:.0%} of the digits are as asked")
nine = fewjump.sample(teacher, 1, 16, generator=1, label=9, guidance=3.0)
print(data.vocabulary.decode(nine)[0])
