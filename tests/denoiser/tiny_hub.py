"""Tiny random models and a word tokenizer, made here: there is no hub behind the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WORDS = ["the", "cat", "dog", "sat", "ran", "on", "under", "mat", "tree", "a", "big", "small"]
# The mask in the middle, as in BERT's own vocabulary.
SYMBOLS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
PAD, UNK, CLS, SEP, MASK = range(5)

SIZES: dict[str, dict[str, Any]] = {
    "bert": {"max_position_embeddings": 32},
    "roberta": {"max_position_embeddings": 34, "pad_token_id": 0},
    "modernbert": {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
    "albert": {"embedding_size": 8, "max_position_embeddings": 32},
    # As published: a row of nothing but masks is NaN, one with its frame is not.
    "esm": {"mask_token_id": 4, "position_embedding_type": "rotary", "token_dropout": True},
}


def tokenizer() -> Any:
    """A ``PreTrainedTokenizerFast`` of whole words."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {symbol: number for number, symbol in enumerate(SYMBOLS)}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def masked_lm(kind: str = "bert", vocab_size: int = len(SYMBOLS), **sizes: Any) -> Any:
    """A random ``AutoModelForMaskedLM`` of 2 layers and width 16, in eval mode."""
    from transformers import AutoConfig, AutoModelForMaskedLM

    options = {
        "vocab_size": vocab_size,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "pad_token_id": PAD,
        "initializer_range": 0.3,
        **SIZES[kind],
        **sizes,
    }
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(kind, **options)).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return model


def save(folder: Path, kind: str = "bert") -> Path:
    """A model and its tokenizer as a folder of ``transformers``."""
    masked_lm(kind).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
