"""Design antibody loops: draw the residues marked _ of a chain in one evaluation, many at once.

Run: python examples/antibody_loops.py TEACHER SEQUENCE

TEACHER is the folder of a masked language model of amino acids, such as AntiBERTy, whose weights
experiments/antibodies.py says how to get. The first run draws the teacher's samples and distils a
student from them, without data: hours on a core, and it may be stopped and run again. What it makes
is kept in runs/antibody-loops, and from then on a design takes seconds. For example, with the third
loop of trastuzumab's heavy chain left open:

    python examples/antibody_loops.py antiberty EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLE\
WVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYC_____________WGQGTLVTVSS
"""

import sys
from pathlib import Path

import numpy as np
import torch

import fewjump
from fewjump.objective import JointConditionalMatching
from fewjump.publish import Pipeline
from fewjump.publish.conditions import read_conditions
from fewjump.rollouts import rollouts

LENGTH = 122  # of the samples that the student learns from: 120 residues and a frame of two tokens

folder, sequence = sys.argv[1:]
kept = Path("runs/antibody-loops")
if (kept / "student" / "model").is_dir():
    student = fewjump.load(kept / "student" / "model")
else:
    teacher = fewjump.load(folder)
    frame = read_conditions(Pipeline(teacher).vocabulary, 1, None, length=LENGTH)
    file = rollouts(
        teacher,
        kept / "samples.npy",
        num_samples=500,
        steps=64,
        length=LENGTH,
        batch_size=16,
        prompt=frame.prompt,
        fixed=frame.fixed,
        progress=True,
    )
    student = fewjump.distill(
        teacher,
        torch.from_numpy(np.load(file).astype(np.int64)),
        student="any-order",
        lora=8,  # a low-rank difference to the teacher's weights, which stay as they are
        # Everything but one stretch is shown clean and left out of the loss.
        objective=JointConditionalMatching(near=0.2, steps=1, known="infill", known_share=0.9),
        steps=300,
        batch_size=16,
        lr=1e-3,
        ema=0.98,
        save_every=25,
        out=kept / "student",
    )
pipe = Pipeline(student)
holes = " ".join("[MASK]" if letter == "_" else letter for letter in sequence)
opening, closing = pipe.vocabulary.frame
length = len(opening) + len(sequence) + len(closing)
out = pipe(16, 1, generator=0, infill=holes, length=length)
print(f"{out.seconds:.2f} s, {out.nfe} evaluation of the network")
for text in out.texts:
    residues = text.split()
    drawn = [r if letter == "_" else "-" for r, letter in zip(residues, sequence, strict=True)]
    print("".join(residues), "".join(drawn).strip("-"))
