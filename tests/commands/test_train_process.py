"""Which process ``fewjump train`` makes of its options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
import torch

from fewjump import cli
from fewjump.commands.train import ProcessName, build_process, read_process
from fewjump.process import (
    GIDDPriors,
    LowRankDiagonalRate,
    SummedRates,
    TimeVaryingPrior,
    TimeVaryingRate,
    birth_death_rate,
)
from fewjump.schedule import Linear, LogLinear


@pytest.mark.parametrize("name", get_args(ProcessName))
def test_every_name_is_a_process_over_the_tokens(name: ProcessName) -> None:
    process = build_process(name, "cosine", 5, uniform_share=0.3)
    has_mask = name != "uniform"
    assert process.vocab_size == 5 + has_mask
    assert process.mask == (5 if has_mask else None)
    # A tokenizer that has a mask already needs no state more; what it keeps is left alone.
    own = build_process(name, "cosine", 6, kept=[0] if has_mask else [0, 2], mask=2)
    assert own.vocab_size == 6
    assert own.kept == ((0,) if has_mask else (0, 2))
    if name == "gidd":
        assert isinstance(process, TimeVaryingPrior)
        assert isinstance(process.path, GIDDPriors)
        assert process.path.peak == 0.3


def test_any_process_from_a_file(tmp_path: Path) -> None:
    path = SummedRates([birth_death_rate(4), 2 * birth_death_rate(4)], [0, 1], [[1, 0], [0, 1]])
    process = TimeVaryingRate(path, Linear(8.0), tolerance=1e-6)
    file = tmp_path / "process.json"
    file.write_text(json.dumps(process.config()))
    again = read_process(file, 4)
    assert torch.equal(again.kernel(0.1, 0.7).dense(), process.kernel(0.1, 0.7).dense())
    with pytest.raises(ValueError, match="4 states for 4 clean tokens, the data 5"):
        read_process(file, 5)
    for content, message in (("[1]", "must hold one process"), ("{", "is not JSON")):
        file.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_process(file, 4)


def test_a_schedule_beside_a_file_that_has_one_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--process-file", str(tmp_path / "p.json"), "--schedule", "cosine"]
    assert cli.main(["train", *words, "--out", str(tmp_path / "run")]) == cli.USAGE
    assert "takes the place of --process and --schedule" in capsys.readouterr().err


def test_low_rank_rates_with_a_mask_from_a_file(tmp_path: Path) -> None:
    rates = torch.tensor([[0.5], [1.0], [2.0], [0.0]])
    process = LowRankDiagonalRate(rates, torch.tensor([[0.0, 0, 0, 1]]), LogLinear(), mask=3)
    file = tmp_path / "process.json"
    file.write_text(json.dumps(process.config()))
    again = read_process(file, 3)
    assert again.mask == 3
    assert torch.equal(again.kernel(0.1, 0.7).dense(), process.kernel(0.1, 0.7).dense())
