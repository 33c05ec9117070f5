"""What molecules are worth, for the interpreter of an environment that holds the MOSES benchmark.

    python experiments/molecule_judge.py < REQUEST.json > VERDICT.json

A request holds ``smiles``, and the verdict is the canonical SMILES of each, null where it is no
molecule. With ``drawing`` it is a picture of them, as SVG. With ``translation``, ``selfies`` or
``smiles``, it is each of them in that notation, null where that cannot be. With ``statistics``, a
file, it is the benchmark's own metrics against its two test sets. With ``longest`` those are
reduced to molecules of so many tokens, which the regular expression ``pattern`` cuts; their
statistics take minutes, and are kept in the file.

It imports nothing of this project: the benchmark's package is a tool of the experiment and not a
dependency. That package is of 2020 and imports names that are gone since; they are put back, and
its code is not touched.
"""

import contextlib
import json
import pickle
import re
import sys
import types
from pathlib import Path

import rdkit  # type: ignore[import-not-found]
from rdkit import Chem, RDLogger  # type: ignore[import-not-found]


def canonical(smiles: str) -> str | None:
    """How the benchmark writes a molecule; None for what is none."""
    molecule = Chem.MolFromSmiles(smiles) if smiles else None
    return None if molecule is None else Chem.MolToSmiles(molecule)


def translated(texts: list[str], notation: str) -> list[str | None]:
    """SELFIES of SMILES, or SMILES of SELFIES; None for what has none."""
    import selfies  # type: ignore[import-not-found]

    translate = {"selfies": selfies.encoder, "smiles": selfies.decoder}[notation]

    def one(text: str) -> str | None:
        try:
            return translate(text) or None
        except (selfies.EncoderError, selfies.DecoderError):
            return None

    return [one(text) for text in texts]


def picture(smiles: list[str], columns: int = 4, side: int = 180) -> str:
    """Molecules side by side, in rows of ``columns``: an SVG file's text."""
    from rdkit.Chem.Draw import rdMolDraw2D  # type: ignore[import-not-found]

    rows = -(-len(smiles) // columns)
    canvas = rdMolDraw2D.MolDraw2DSVG(columns * side, rows * side, side, side)
    canvas.DrawMolecules([Chem.MolFromSmiles(text) for text in smiles])
    canvas.FinishDrawing()
    return canvas.GetDrawingText()


def metrics(
    smiles: list[str], statistics: str, longest: int | None = None, pattern: str = "."
) -> dict[str, float]:
    """The benchmark's metrics; with ``longest``, against its shorter molecules."""
    import numpy

    six = types.ModuleType("rdkit.six")
    setattr(six, "iteritems", lambda mapping: iter(mapping.items()))  # noqa: B010
    sys.modules["rdkit.six"] = rdkit.six = six
    for name, kind in (("int", int), ("float", float), ("bool", bool)):
        if name not in numpy.__dict__:
            setattr(numpy, name, kind)
    from moses.dataset import get_dataset  # type: ignore[import-not-found]
    from moses.metrics.metrics import (  # type: ignore[import-not-found]
        compute_intermediate_statistics,
        get_all_metrics,
    )

    k = [n for n in (1_000, 10_000) if n <= len(smiles)] or [len(smiles)]
    options = {"n_jobs": 1, "device": "cpu", "batch_size": 256}
    if longest is None:
        return get_all_metrics(smiles, k=k, **options)
    train, *tests = (
        [text for text in get_dataset(name) if len(re.findall(pattern, text)) <= longest]
        for name in ("train", "test", "test_scaffolds")
    )
    file = Path(statistics)
    if not file.is_file():
        found = [compute_intermediate_statistics(test, **options) for test in tests]
        file.with_suffix(".tmp").write_bytes(pickle.dumps(found))
        file.with_suffix(".tmp").replace(file)
    ptest, ptest_scaffolds = pickle.loads(file.read_bytes())
    return get_all_metrics(
        smiles,
        k=k,
        test=tests[0],
        test_scaffolds=tests[1],
        ptest=ptest,
        ptest_scaffolds=ptest_scaffolds,
        train=train,
        **options,
    )


if __name__ == "__main__":
    request = json.load(sys.stdin)
    RDLogger.DisableLog("rdApp.*")
    # What the package prints is no part of the verdict.
    with contextlib.redirect_stdout(sys.stderr):
        if "statistics" in request:
            verdict = metrics(**request)
        elif "translation" in request:
            verdict = translated(request["smiles"], request["translation"])
        elif "drawing" in request:
            verdict = picture(request["smiles"])
        else:
            verdict = [canonical(text) for text in request["smiles"]]
    json.dump(verdict, sys.stdout, default=float)
