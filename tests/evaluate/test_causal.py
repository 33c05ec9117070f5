"""Texts under a causal language model: known laws, known documents, known histograms."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from causal_judges import END, LETTERS, gpt2_folder, letter_tokenizer
from fewjump.cli import main
from fewjump.data import Characters, load_data
from fewjump.evaluate import CausalJudge, TextMeter, mauve, perplexities
from fewjump.evaluate.causal import Readings, divergence_area
from fewjump.evaluate.ngrams import sequence_entropy

pytest.importorskip("tokenizers")


class Bigrams(nn.Module):
    """A judge whose law is a table: log p(x^i | x^{i-1})."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.config = SimpleNamespace(max_position_embeddings=64, eos_token_id=END)
        self.head = nn.Linear(1, len(table), bias=False)
        self.table = nn.Parameter(table)

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> Any:
        # What padding is read as must not matter.
        noise = 100.0 * (1 - attention_mask)[..., None]
        return SimpleNamespace(
            logits=self.table[input_ids] + 3.0 + noise,
            hidden_states=[nn.functional.one_hot(input_ids, len(self.table)).double()],
        )


def bigram_judge(**options: Any) -> tuple[CausalJudge, Tensor]:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(END + 1, END + 1, generator=generator).log_softmax(-1)
    return CausalJudge(Bigrams(table), letter_tokenizer(), **options), table


def by_hand(table: Tensor, ids: list[int]) -> float:
    return -sum(float(table[a, b]) for a, b in pairwise(ids))


def test_a_text_is_scored_after_its_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    judge, table = bigram_judge(ends="keep", length=6)
    documents = [["abca"], ["d"], ["ab", "cd"], ["abcdabcdabcd"], [""]]
    rows = [[0, 1, 2, 0], [3], [0, 1, END, 2, 3], [0, 1, 2, 3, 0, 1], [END]]
    # Two texts of equal length a batch at most: sizes do not matter.
    monkeypatch.setattr("fewjump.evaluate.causal._LOGITS", 2 * 6 * (END + 1))
    found = judge.read(documents)
    torch.testing.assert_close(
        found.nll, torch.tensor([by_hand(table, row) for row in rows]).double(), atol=1e-5, rtol=0
    )
    assert found.counts.tolist() == [3, 0, 4, 5, 0]
    assert found.features.argmax(-1).tolist() == [row[-1] for row in rows]


def test_perplexity_by_either_average() -> None:
    readings = Readings(
        torch.tensor([math.log(8), 2 * math.log(2), 0.0]).double(),
        torch.tensor([1.0, 2.0, 0.0]).double(),
        torch.zeros(3, 1),
    )
    found = perplexities(readings, torch.Generator().manual_seed(0), 50)
    assert found["gen_ppl"].value == pytest.approx(32 ** (1 / 3))
    # Means over the two texts that have something to score.
    assert found["gen_ppl_mean"].value == pytest.approx((8 + 2) / 2)
    with pytest.raises(ValueError, match="two tokens"):
        perplexities(Readings(torch.zeros(2), torch.zeros(2), torch.zeros(2, 1)))


def test_a_uniform_judge_has_the_perplexity_of_its_vocabulary() -> None:
    table = torch.zeros(END + 1, END + 1)
    judge = CausalJudge(Bigrams(table), letter_tokenizer())
    found = perplexities(judge.read([["abca"], ["dd"], ["b"]]))
    assert found["gen_ppl"].value == pytest.approx(END + 1, rel=1e-5)
    assert found["gen_ppl_mean"].value == pytest.approx(END + 1, rel=1e-5)


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ("first", [["ab"], ["a"], ["dd"], [""]]),
        ("keep", [["ab", "c"], ["a"], ["dd"], [""]]),
        ("drop", [["ab|c"], ["a|||"], ["|dd|"], ["||||"]]),
    ],
)
def test_documents_of_a_sample(ends: Any, expected: list[list[str]]) -> None:
    judge, _ = bigram_judge(ends=ends)
    vocabulary = Characters("abcd|")
    vocabulary.separator = 4
    samples = torch.stack([vocabulary.encode(row) for row in ("ab|c", "a|||", "|dd|", "||||")])
    assert judge.documents(samples, vocabulary) == expected
    vocabulary.separator = None
    assert judge.documents(samples[:1], vocabulary) == [["ab|c"]]
    assert judge.documents(samples[:1], vocabulary, ["decoded"]) == [["decoded"]]


def test_divergence_area_of_known_histograms() -> None:
    p = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.0], dtype=torch.float64)
    q = torch.tensor([[0.4, 0.1, 0.1, 0.2, 0.2], [0.1, 0.2, 0.3, 0.4, 0.0]], dtype=torch.float64)
    # Computed by the authors' package (mauve-text 0.4.0), with 25 mixtures and a scale of 5.
    assert divergence_area(p, q).tolist() == pytest.approx([0.4136047819731235, 1.0], abs=1e-12)
    apart = divergence_area(torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 1.0]]))
    assert float(apart) == pytest.approx(0.0040720962619612555, abs=1e-12)
    # The integral that the trapezoids approach: ∫ (1 − λ)^c d(λ^c) = c·B(c, c + 1).
    exact = 5 * math.gamma(5) * math.gamma(6) / math.gamma(11)
    assert float(apart) == pytest.approx(exact, rel=0.03)


def test_mauve_falls_as_laws_part() -> None:
    pytest.importorskip("sklearn")
    generator = torch.Generator().manual_seed(0)

    def texts(shift: float) -> Tensor:
        return torch.randn(400, 3, generator=generator) + torch.tensor([4.0 + shift, shift, -shift])

    real = texts(0.0)
    values = [mauve(real, texts(s), torch.Generator().manual_seed(1), 20) for s in (0, 1, 4)]
    assert values[0].value > 0.9 > 0.7 > values[1].value > values[2].value
    assert values[2].value < 0.1
    assert values[1].low < values[1].value < values[1].high
    again = mauve(real, real, torch.Generator().manual_seed(1), 20)
    assert again.value == pytest.approx(1.0, abs=1e-12)


def test_entropy_within_a_sequence() -> None:
    tokens = torch.tensor([[0, 1, 0, 1, 3, 3], [2, 2, 2, 2, 2, 2], [0, 1, 2, 0, 1, 2]])
    found = sequence_entropy(tokens, 4, padding=3).value
    assert found == pytest.approx((math.log(2) + 0 + math.log(3)) / 3)
    assert sequence_entropy(tokens, 4).value == pytest.approx(2 * math.log(3) / 3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ends": "last"}, "first, keep, drop"),
        ({"length": 0}, "at least 2"),
        ({"length": 1}, "at least 2"),
        ({"length": 65}, "at most 64"),
    ],
)
def test_a_judge_that_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        bigram_judge(**options)


def test_a_judge_of_a_folder_reads_as_its_network_does(tmp_path: Path) -> None:
    judge = CausalJudge.from_pretrained(
        str(gpt2_folder(tmp_path)), tokenizer=str(tmp_path / "tokenizer.json"), length=16
    )
    found = judge.read([["abcd"], ["ab"]])
    for i, ids in enumerate(([0, 1, 2, 3], [0, 1])):
        row = torch.tensor([ids])
        with torch.no_grad():
            said = judge.model(row, output_hidden_states=True)
        expected = nn.functional.cross_entropy(said.logits[0, :-1], row[0, 1:], reduction="sum")
        assert float(found.nll[i]) == pytest.approx(float(expected), abs=1e-4)
        torch.testing.assert_close(found.features[i], said.hidden_states[-1][0, -1])
    with pytest.raises(ValueError, match="no texts to read"):
        judge.read([])


def test_a_folder_without_a_whole_judge_is_refused(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    folder = gpt2_folder(tmp_path / "judge")
    weights = safetensors.load_file(folder / "model.safetensors")
    del weights["transformer.h.0.attn.c_attn.weight"]
    safetensors.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lack transformer\.h\.0\.attn"):
        CausalJudge.from_pretrained(str(folder))
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="in safetensors"):
        CausalJudge.from_pretrained(str(folder))


def test_evaluate_with_a_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    generator = torch.Generator().manual_seed(0)
    letters = torch.randint(0, 4, (400, 8), generator=generator)
    file = tmp_path / "lines.txt"
    file.write_text("\n".join("".join(LETTERS[i] for i in row) for row in letters))
    run, judge = str(tmp_path / "run"), gpt2_folder(tmp_path / "judge")
    training = ["--steps", "2", "--hidden", "8", "--blocks", "1", "--heads", "2", "--no-progress"]
    assert main(["train", "--data", str(file), "--kind", "lines", "--out", run, *training]) == 0
    asked = ["evaluate", run, "--data", str(file), "--kind", "lines", "--steps", "1", "2"]
    words = ["--judge", str(judge), "--judge-length", "16", "--judge-tokenizer"]
    assert main([*asked, *words, str(judge / "tokenizer.json"), "--no-progress"]) == 0
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert "16 tokens" in json.dumps(found)
    data = load_data(str(file), kind="lines")
    causal = CausalJudge.from_pretrained(
        str(judge), tokenizer=str(judge / "tokenizer.json"), length=16
    )
    real = TextMeter(data, causal=causal).measure(data.all("test"))
    rows = {row["metric"]: row for row in found["rows"] if row["model"] == "test data"}
    for name in ("gen_ppl", "gen_ppl_mean", "mauve", "entropy_within"):
        assert rows[name]["value"] == pytest.approx(real[name].value)
    capsys.readouterr()
    assert main([*asked, "--judge-length", "16"]) != 0
    assert "--judge-length is of a --judge" in capsys.readouterr().err
    assert main([*asked, "--judge", str(tmp_path / "nothing")]) != 0
    assert "no judge at" in capsys.readouterr().err
