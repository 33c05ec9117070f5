"""A tiny causal language model of letters, as ``transformers`` saves one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

LETTERS = "abcd "
END = len(LETTERS)


def letter_tokenizer() -> Any:
    """One token for each letter, and for the end of a text."""
    tokenizers = pytest.importorskip("tokenizers")
    words = {letter: i for i, letter in enumerate(LETTERS)} | {"<end>": END}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=" "))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    return made


def gpt2_folder(folder: Path) -> Path:
    """A tiny GPT-2 with random weights and the tokenizer above, as ``transformers`` saves it."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=END + 1, n_positions=32, n_embd=8, n_layer=1, n_head=2,
        bos_token_id=END, eos_token_id=END,
    )  # fmt: skip
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    letter_tokenizer().save(str(folder / "tokenizer.json"))
    return folder
