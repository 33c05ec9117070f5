"""Loaded originals are the originals: every tensor that their own code computed.

The oracles are large and are not part of the repository; ``tests/golden/originals`` holds a small
part of each, which is compared in any case.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from experiments.originals import CASES, compare
from experiments.originals_ledger import ATOL, Ledger
from fewjump.checkpoint import load
from fewjump.denoiser import NetworkDenoiser, ScoreDenoiser
from fewjump.schedule import LogLinear

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "originals"
ORACLES = Path(os.environ.get("FEWJUMP_ORACLES", ROOT.parent / "shared" / "oracles"))
needs_oracles = pytest.mark.skipif(
    not ORACLES.is_dir(),
    reason="the full oracles are not here; set FEWJUMP_ORACLES to their folder",
)


@needs_oracles
@pytest.mark.parametrize("case", list(CASES))
def test_every_tensor_of_the_oracle(case: str) -> None:
    rows, unchecked = compare(ORACLES / case)
    assert unchecked == [], "an oracle tensor was left out"
    worst = {row.tensor: row.excess for row in rows if not row.excess <= 1}
    assert not worst, worst
    # Where the originals' float32 formula cancels, the exact one is as near as that allows.
    assert all(row.exact <= 5e-5 for row in rows if row.exact is not None)
    assert {row.delta for row in rows if row.what in ("draw", "input")} <= {0.0}


@needs_oracles
@pytest.mark.parametrize("case", list(CASES))
def test_every_fact_of_the_oracle(case: str) -> None:
    facts = json.loads((ORACLES / case / "oracle.json").read_text("utf-8"))
    denoiser = load(ORACLES / case / "hf")
    if "cfg" in facts:
        config = facts["cfg"]
        assert denoiser.length == config["model"]["length"]
        assert denoiser.process.vocab_size == config["tokens"] + 1
        return
    assert denoiser.length == facts["length"]
    assert denoiser.process.vocab_size == facts["vocab_size"]
    if "mask_index" in facts:
        assert getattr(denoiser.process, "mask", None) == facts["mask_index"]
    if "time_conditioning" in facts:
        assert denoiser.time_conditioned is facts["time_conditioning"]


@needs_oracles
def test_a_run_without_its_configuration_is_read_with_a_warning(tmp_path: Path) -> None:
    weights = tmp_path / "checkpoints-meta" / "checkpoint.pth"
    weights.parent.mkdir()
    source = ORACLES / "sedd_absorb" / "run" / "checkpoints-meta" / "checkpoint.pth"
    weights.write_bytes(source.read_bytes())
    with pytest.warns(UserWarning, match="defaults of sedd-absorb"):
        denoiser = load(tmp_path)
    with pytest.warns(UserWarning, match="defaults of sedd-absorb") as told:
        load(tmp_path, schedule=LogLinear(1e-3))
    assert not any("schedule" in str(one.message) for one in told)
    oracle = Ledger(ORACLES / "sedd_absorb")
    with torch.no_grad():
        found = denoiser.log_score(oracle["x"], oracle["sigma"])
    torch.testing.assert_close(found, oracle["log_score_run_ema"], rtol=0, atol=ATOL)
    # A user who knows better says so; nothing needs to be guessed then.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        uniform = load(tmp_path, family="sedd-uniform")
    assert type(uniform.process).__name__ == "Uniform"


@pytest.mark.parametrize("case", list(CASES))
def test_a_small_part_of_the_oracle(case: str) -> None:
    golden = load_file(GOLDEN / case / "oracle.safetensors")
    denoiser = load(GOLDEN / case / "hf")
    x, sigma, t = golden["x"], golden["sigma"], golden["t"]
    with torch.no_grad():
        if isinstance(denoiser, ScoreDenoiser):
            found, name = denoiser.log_score(x, sigma), "log_score_hf"
            law = denoiser.raw_logits(x, sigma)
            law[..., -1] = -torch.inf
            marginals = denoiser(x, t).marginals()
            masked = x == 50
            torch.testing.assert_close(
                marginals[masked], law.softmax(-1)[masked], rtol=0, atol=ATOL
            )
        else:
            assert isinstance(denoiser, NetworkDenoiser)
            found, name = denoiser.raw_logits(x, sigma), "logits_ema"
    torch.testing.assert_close(found, golden[name], rtol=0, atol=ATOL)
