"""What a tokenizer says of its tokens, whatever it looks like."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewjump import cli
from fewjump.checkpoint import load
from fewjump.data import TokenizerVocabulary, Vocabulary, load_data
from fewjump.data.cache import narrowed
from fewjump.publish.conditions import read_conditions
from fewjump.tokenizing import describe_tokenizer

tokenizers = pytest.importorskip("tokenizers", reason="needs the hub extra")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "dog",
    "ran",
    "under",
    "big",
    "red",
    "tree",
    "while",
    "birds",
    "sang",
]


def words(first: int = 5, special: list[str] | None = None) -> Any:
    """A tokenizer of whole words; special tokens come first, the words from ``first`` on."""
    special = SPECIAL if special is None else special
    vocab = {symbol: number for number, symbol in enumerate(special)}
    vocab |= {word: first + number for number, word in enumerate(WORDS)}
    out = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="[UNK]"))
    out.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    out.add_special_tokens(special)
    return out


def lines(folder: Path, texts: list[str]) -> Path:
    path = folder / "d.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


# -- numbers with holes -------------------------------------------------------------------------


@pytest.mark.parametrize("first", [250, 256, 65536])
def test_tokens_beyond_the_count_keep_their_numbers(first: int, tmp_path: Path) -> None:
    vocabulary = TokenizerVocabulary.from_tokenizer(words(first))
    assert vocabulary.size == first + len(WORDS)
    assert vocabulary.unused == tuple(range(5, first))
    assert Vocabulary.from_config(json.loads(json.dumps(vocabulary.config()))) == vocabulary
    path = lines(tmp_path, [" ".join(WORDS)] * 40)
    row = load_data(path, len(WORDS) + 1, vocabulary=words(first)).train[0]
    assert row.tolist() == [*range(first, first + len(WORDS)), 3]


def test_a_hole_within_the_words_is_unused() -> None:
    vocab = {"[UNK]": 0, "a": 2, "b": 5}
    described = describe_tokenizer(
        tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="[UNK]"))
    )
    assert (described["size"], described["unused"]) == (6, [1, 3, 4])
    assert TokenizerVocabulary.from_tokenizer(words()).unused == ()


def test_a_teacher_keeps_the_numbers_that_no_token_has(tmp_path: Path) -> None:
    words(300).save(str(tmp_path / "holes.json"))
    path = lines(tmp_path, [" ".join(WORDS)] * 40)
    given = ["train", "--data", str(path), "--tokenizer", str(tmp_path / "holes.json")]
    given += ["--length", "8", "--hidden", "8", "--blocks", "1", "--heads", "2", "--steps", "2"]
    given += ["--batch-size", "2", "--no-progress", "--device", "cpu"]
    for process in ("masked", "uniform"):
        out = tmp_path / process
        assert cli.main([*given, "--process", process, "--out", str(out)]) == cli.OK
        model = load(out / "model")
        assert model.process.vocab_size == 300 + len(WORDS)
        kept = set(range(300)) - ({4} if process == "masked" else set())
        assert set(model.process.kept) == kept
        sampled = ["sample", str(out), "--steps", "3", "--num-samples", "8"]
        assert cli.main([*sampled, "--out", str(tmp_path / "s.jsonl")]) == cli.OK
        rows = [json.loads(line)["tokens"] for line in (tmp_path / "s.jsonl").open()]
        assert np.array(rows).min() >= 300


def test_numbers_that_leave_out_millions_are_refused() -> None:
    class Sparse:
        """Writing such a tokenizer down takes 16 GB, so it is refused before."""

        def get_vocab(self, with_added_tokens: bool) -> dict[str, int]:
            return {"[UNK]": 0, "a": 4_000_000_000}

    with pytest.raises(ValueError, match="numbers its 2 tokens up to 4000000000"):
        describe_tokenizer(Sparse())
    with pytest.raises(ValueError, match="no tokens"):
        describe_tokenizer(tokenizers.Tokenizer(tokenizers.models.BPE()))


def test_a_narrow_type_refuses_what_it_cannot_hold() -> None:
    assert narrowed(np.array([0, 255]), np.dtype(np.uint8)).tolist() == [0, 255]
    for wrong in (256, -1):
        with pytest.raises(ValueError, match=f"{wrong}.* do not fit uint8"):
            narrowed(np.array([3, wrong]), np.dtype(np.uint8))


# -- the frame ----------------------------------------------------------------------------------


def framed(closing: str = "[SEP]") -> Any:
    out = words()
    out.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"[CLS] $A {closing}".strip(), special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return out


def test_special_words_of_a_prompt_are_text_and_warned_of() -> None:
    """As in documents; the mask is refused or a hole, and what frames a text comes unasked."""
    vocabulary = TokenizerVocabulary.from_tokenizer(framed())
    options: dict[str, Any] = {"mask": vocabulary.mask}
    with pytest.warns(UserWarning, match=r"the prompt holds \[CLS\], \[SEP\], which"):
        given = read_conditions(vocabulary, 1, 12, prompt="[CLS] the cat [SEP]", **options)
    plain = vocabulary.encode("[CLS] the cat [SEP]").tolist()
    assert given.prompt is not None
    assert given.prompt[0, 1 : 1 + len(plain)].tolist() == plain
    assert not {2, 3} & set(plain)
    with pytest.warns(UserWarning, match=r"the infilling holds \[PAD\]"):
        read_conditions(vocabulary, 1, 12, infill="the [MASK] [PAD]", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_conditions(vocabulary, 1, 12, infill="the [MASK] sat", **options)


@pytest.mark.parametrize("direction", ["left", "right"])
def test_padding_and_truncation_of_a_call_do_not_hide_the_frame(direction: str) -> None:
    out = framed()
    out.enable_truncation(3)
    out.enable_padding(direction=direction, length=50, pad_id=0, pad_token="[PAD]")
    vocabulary = TokenizerVocabulary.from_tokenizer(out)
    assert vocabulary.frame == ((2,), (3,))
    assert len(vocabulary.encode(" ".join(WORDS))) == len(WORDS)
    assert out.padding is not None, "the tokenizer that was given is left as it was"


@pytest.mark.parametrize(
    ("closing", "frame"),
    [("", ((2,), ())), ("[SEP] [SEP]", ((2,), (3, 3))), ("[CLS]", ((2,), (2,)))],
)
def test_frames_of_other_templates(closing: str, frame: Any) -> None:
    assert TokenizerVocabulary.from_tokenizer(framed(closing)).frame == frame


@pytest.mark.parametrize("unknown", [None, "[CLS]"])
def test_a_frame_is_found_without_a_letter_a(unknown: str | None) -> None:
    """No probe is a word, or every probe is unknown and looks like the frame."""
    vocab = {"[CLS]": 0, "[SEP]": 1, "xyzzy": 2}
    model = tokenizers.models.WordLevel(vocab, unk_token=unknown or "[NONE]")
    out = tokenizers.Tokenizer(model)
    out.add_special_tokens(["[CLS]", "[SEP]"])
    out.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))
    assert TokenizerVocabulary.from_tokenizer(out).frame == ((0,), (1,))


def byte_level() -> Any:
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    out = tokenizers.Tokenizer(models.BPE())
    out.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    out.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>", "<mask>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    out.train_from_iterator([" ".join(WORDS)] * 9, trainer)
    template = processors.TemplateProcessing(
        single="<s> $A </s> </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    out.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), template])
    return out


def test_the_frame_of_a_byte_level_tokenizer() -> None:
    vocabulary = TokenizerVocabulary.from_tokenizer(byte_level())
    assert vocabulary.frame == ((0,), (1, 1))


# -- documents are text -------------------------------------------------------------------------

QUOTE = "the [MASK] cat [PAD] sat [CLS][SEP] on"


@pytest.mark.parametrize("splitter", ["Whitespace", "WhitespaceSplit"])
def test_special_tokens_in_a_document_are_text(splitter: str, tmp_path: Path) -> None:
    """Also where a tokenizer takes the whole word for a token of its vocabulary."""
    out = framed()
    out.pre_tokenizer = getattr(tokenizers.pre_tokenizers, splitter)()
    vocabulary = TokenizerVocabulary.from_tokenizer(out)
    row = vocabulary.encode(QUOTE).tolist()
    assert set(row) & set(vocabulary.special) == {1}
    assert [token for token in row if token > 4] == [5, 6, 7, 8]
    assert [each.tolist() for each in vocabulary.encode_batch([QUOTE, "", "cat"])] == [row, [], [6]]
    data = load_data(lines(tmp_path, [QUOTE] * 9), 40, vocabulary=out, packing="documents")
    assert data.train[0].tolist() == [2, *row, 3, *[0] * (38 - len(row))]


def test_special_tokens_that_bytes_can_spell_come_back() -> None:
    vocabulary = TokenizerVocabulary.from_tokenizer(byte_level())
    text = "the <mask> cat <|endoftext|></s> sat"
    assert vocabulary.decode(vocabulary.encode(text))[0].strip() == text


def test_an_added_token_that_is_not_marked_special_is_text_too() -> None:
    out = words(special=["[UNK]", "[PAD]"])
    out.add_tokens([tokenizers.AddedToken("[MASK]", lstrip=True)])
    vocabulary = TokenizerVocabulary.from_tokenizer(out)
    assert vocabulary.mask == out.token_to_id("[MASK]")
    assert vocabulary.encode("the [MASK] cat")[[0, -1]].tolist() == [5, 6]
    assert vocabulary.mask not in vocabulary.encode("the [MASK] cat")


def test_a_special_token_of_one_letter_in_a_document_is_refused() -> None:
    out = words(special=["[UNK]", "[MASK]", "#"])
    from transformers import PreTrainedTokenizerFast

    whole = PreTrainedTokenizerFast(tokenizer_object=out, unk_token="[UNK]", pad_token="#")
    vocabulary = TokenizerVocabulary.from_tokenizer(whole)
    with pytest.raises(ValueError, match=r"a text holds '#'.*special token '#'; replace it"):
        vocabulary.encode("the # cat")


def test_a_word_that_a_tokenizer_without_unknown_cannot_read_is_refused() -> None:
    model = tokenizers.models.WordLevel({"the": 0}, unk_token="[UNK]")
    vocabulary = TokenizerVocabulary.from_tokenizer(tokenizers.Tokenizer(model))
    with pytest.raises(ValueError, match="the tokenizer cannot read this text"):
        vocabulary.encode("cat")


# -- padding that is another token too ----------------------------------------------------------


def gpt2() -> Any:
    """As GPT-2's: one token ends a text and fills it up."""
    return words(special=["[UNK]", "[MASK]", "<|endoftext|>"])


def test_a_separator_is_never_hidden_as_padding(tmp_path: Path) -> None:
    vocabulary = TokenizerVocabulary.from_tokenizer(gpt2())
    assert (vocabulary.separator, vocabulary.padding_token) == (2, None)
    gpt2().save(str(tmp_path / "tok.json"))
    path = lines(tmp_path, ["the cat", "sat on a mat", "dog"] * 9)
    words = ["train", "--data", str(path), "--tokenizer", str(tmp_path / "tok.json")]
    words += ["--length", "6", "--hidden", "8", "--blocks", "1", "--heads", "2", "--steps", "2"]
    words += ["--batch-size", "2", "--no-progress", "--device", "cpu"]
    for packing in ("stream", "documents", "fit"):
        out = tmp_path / packing
        assert cli.main([*words, "--packing", packing, "--out", str(out)]) == cli.OK
        model = load(out / "model")
        assert model.padding is None
        assert 2 in model.process.kept
        generator = torch.Generator().manual_seed(0)
        for weight in model.parameters():
            weight.data += 0.3 * torch.randn(weight.shape, generator=generator)
        tokens = torch.tensor([[5, 6, 2, 1, 8, 9], [5, 6, 5, 1, 8, 9]])
        law = model(tokens, torch.full((2,), 0.5))
        assert not torch.equal(*law.marginals()[:, 3]), "the network sees the separator"


def test_rows_without_padding_are_filled_with_the_separator(tmp_path: Path) -> None:
    path = lines(tmp_path, ["the cat", "sat on a mat", "dog"] * 9)
    whole = load_data(path, 6, vocabulary=gpt2(), packing="documents")
    assert whole.train[0].tolist() == [5, 6, 2, 2, 2, 2]
    fitted = load_data(path, 6, vocabulary=gpt2(), packing="fit")
    assert (fitted.all() != 0).all()


@pytest.mark.parametrize("same", ["[UNK]", "[MASK]", "[SEP]"])
def test_padding_that_must_be_seen_is_no_padding(same: str) -> None:
    from transformers import PreTrainedTokenizerFast

    out = PreTrainedTokenizerFast(
        tokenizer_object=framed(), unk_token="[UNK]", mask_token="[MASK]", pad_token=same
    )
    assert TokenizerVocabulary.from_tokenizer(out).padding_token is None
