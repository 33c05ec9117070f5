"""AntPack's verdict on antibody sequences, for the interpreter of an environment that holds it.

    python experiments/antibody_numbering.py < SEQUENCES.json > VERDICTS.json

It imports nothing of this project: AntPack is a tool of the experiment and not a dependency.
"""

import json
import sys

from antpack import SingleChainAnnotator  # type: ignore[import-not-found]

if __name__ == "__main__":
    annotator = SingleChainAnnotator()
    verdicts = []
    for sequence in json.load(sys.stdin):
        numbering, identity, chain, complaint = annotator.analyze_seq(sequence)
        numbers = [
            0 if place == "-" else int(place.rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
            for place in numbering
        ]
        verdicts.append(
            {"valid": not complaint, "identity": identity, "chain": chain, "numbers": numbers}
        )
    json.dump(verdicts, sys.stdout)
