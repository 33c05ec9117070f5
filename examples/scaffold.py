"""Complete a molecule: draw the symbols marked _ of a SMILES in one evaluation, many at once.

Run: python examples/scaffold.py MOLECULES SMILES

MOLECULES is a file with one SMILES a line; a name may follow it. The first run trains a masked
teacher on them and distils a student from it: hours on a core for molecules as large as drugs, and
it may be stopped and run again. What it makes is kept in runs/scaffold, and from then on completing
takes seconds. For example, a benzamide with two places to decorate:

    python examples/scaffold.py molecules.smi '______c1ccc(C(=O)N______)cc1'

With rdkit (pip install rdkit) only valid molecules are shown, each once.
"""

import sys
from pathlib import Path

import fewjump
from fewjump.data import load_data
from fewjump.objective import JointConditionalMatching
from fewjump.process import Absorbing
from fewjump.publish import Pipeline
from fewjump.schedule import LogLinear

file, smiles = sys.argv[1:]
kept = Path("runs/scaffold")
if not (kept / "student" / "model").is_dir():
    training = {"batch_size": 64, "lr": 2e-3, "precision": "bfloat16", "save_every": 100}
    data = load_data(file, kind="smiles")
    teacher = fewjump.train_teacher(
        data,
        Absorbing(data.vocab_size + 1, LogLinear()),
        network={"hidden": 192, "blocks": 6, "time_conditioned": False},
        steps=10_000,
        ema=0.9995,
        out=kept / "teacher",
        **training,
    )
    fewjump.distill(
        teacher,
        data,
        student="any-order",  # whatever is given, it is read first
        head={"width": 192, "blocks": 2},
        objective=JointConditionalMatching(near=0.05, steps=4),
        steps=2000,
        ema=0.99,
        out=kept / "student",
        **training,
    )
pipe = Pipeline(fewjump.load(kept / "student" / "model"))
# What is not said behind the last symbol is drawn too, so the end of the molecule is left open.
out = pipe(200, 1, generator=0, infill=smiles.replace("_", "[MASK]"))
print(f"{out.seconds:.2f} s, {out.nfe} evaluation of the network")
found = dict.fromkeys(out.texts)
try:
    from rdkit import Chem, RDLogger  # type: ignore[import-not-found]
except ModuleNotFoundError:
    print("rdkit is not installed (pip install rdkit): what follows may be no molecules")
else:
    RDLogger.DisableLog("rdApp.*")
    molecules = (Chem.MolFromSmiles(text) for text in found if text)
    found = dict.fromkeys(Chem.MolToSmiles(m) for m in molecules if m is not None)
print(f"{len(found)} different of {len(out.texts)}")
print("\n".join(found))
