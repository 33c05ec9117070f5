"""A Hugging Face tokenizer as plain data: what a saved model says of its tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from fewjump.config import optional

#: Begins the name of something of the Hugging Face hub, where a path could be meant.
HUB = "hf:"
MASK_SYMBOLS = ("[MASK]", "<mask>", "<|mask|>", "<|mdm_mask|>")
PADDING_SYMBOLS = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>")
SEPARATOR_SYMBOLS = ("[SEP]", "</s>", "<|endoftext|>", "<|end_of_text|>")
# Not every tokenizer has a letter a; without an unknown token it makes nothing of one.
_PROBES = ("a", "A", "0", "the", ".", "\u3042")
_MAX_PROBES = 1024
# A row of the embedding is learned for every number, whether or not a token has it.
_MAX_UNUSED = 1 << 20


BERT_WORDS = "vocab.txt"
# Beside vocab.txt, these say more of the tokenizer than that it is BERT's.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
# How the names of a tokenizer's files begin, over all kinds; without any, transformers makes an
# empty one.
_TOKENIZER_STEMS = (
    "tokenizer",
    "vocab",
    "spiece",
    "sentencepiece",
    "spm",
    "merges",
    "bpe",
    "source",
)


def is_hub(source: Any) -> bool:
    """Whether a name is one of the hub."""
    return str(source).startswith(HUB)


def hub_name(source: Any) -> tuple[str, str | None]:
    """Name and revision of ``hf:owner/name@revision``, which pins a branch, tag or commit."""
    name, _, revision = str(source).removeprefix(HUB).partition("@")
    return name, revision or None


def open_tokenizer(source: Any, trust_remote_code: bool = False) -> Any:
    """A tokenizer from a folder, the hub, a ``tokenizer.json`` or BERT's ``vocab.txt``.

    Args:
        source: ``transformers`` or ``tokenizers`` object, which is left as it is, a path, or
            ``hf:owner/name`` (``@revision``).
        trust_remote_code: let a hub tokenizer run code of its own.

    Raises:
        FileNotFoundError: if there is no such path; a name is not looked for on the hub unasked.
        ModuleNotFoundError: without the ``hub`` extra.
        ValueError: for a tokenizer without a fast form, whose contents cannot be saved.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_file() and path.suffix == ".json":
            backend = tokenizers().Tokenizer
            try:
                return backend.from_str(path.read_text(encoding="utf-8-sig"))
            except Exception as error:  # The package raises no class of its own.
                raise ValueError(f"{path} is no tokenizer.json: {error}") from error
        words = path if path.is_file() else path / BERT_WORDS
        alone = not any((path / name).is_file() for name in TOKENIZER_FILES)
        if words.name == BERT_WORDS and words.is_file() and alone:
            return _bert_tokenizer(words)
        if not path.exists() and not is_hub(source):
            raise FileNotFoundError(
                f"there is no tokenizer at {path}; for one of the hub say {HUB}{source}"
            )
        if path.is_dir() and not any(
            file.name.startswith(_TOKENIZER_STEMS) for file in path.iterdir()
        ):
            raise ValueError(
                f"{path} holds no tokenizer (no {', '.join((*TOKENIZER_FILES, BERT_WORDS))}); say "
                "where it is: --tokenizer (tokenizer=)"
            )
        transformers = optional("transformers", "reading a tokenizer")
        name, revision = hub_name(source) if is_hub(source) else (str(source), None)
        try:
            source = transformers.AutoTokenizer.from_pretrained(
                name, revision=revision, trust_remote_code=trust_remote_code
            )
        except Exception as error:  # What a damaged file makes of it has no class of its own.
            raise ValueError(f"no tokenizer could be read from {path}: {error}") from error
    backend = getattr(source, "backend_tokenizer", source)
    if not hasattr(backend, "to_str"):
        raise ValueError(
            f"a {type(source).__name__} has no fast form, so it cannot be saved with a model; load "
            "it with use_fast=True, or give a tokenizer.json"
        )
    return source


def describe_tokenizer(source: Any) -> dict[str, Any]:
    """What a tokenizer says, as JSON holds it.

    Args:
        source: what :func:`open_tokenizer` returns.

    Returns:
        ``tokenizer`` (the content of its tokenizer.json), ``size`` (the largest token number + 1),
        ``mask``, ``padding`` (token numbers or None), ``separator`` (what stands between documents,
        or None), ``special`` (numbers of all special tokens), ``opening`` and ``closing`` (those
        that it puts around a text), ``unused`` (the numbers below ``size`` that no token has).

    Raises:
        ValueError: for a tokenizer without tokens, or whose numbers leave out millions.
    """
    own = getattr(source, "backend_tokenizer", source)
    # First: writing one down costs memory for every number up to the largest, used or not.
    size, unused = _numbers(own)
    content = json.loads(own.to_str())
    # How a text is cut and filled up belongs to one call, not to the vocabulary.
    content["truncation"] = content["padding"] = None
    backend = backend_of(content)
    special = {
        int(token["id"]) for token in content.get("added_tokens", []) if token.get("special")
    }
    special |= {int(token) for token in getattr(source, "all_special_ids", None) or ()}
    mask = _number(source, backend, "mask_token_id", MASK_SYMBOLS)
    padding = _number(source, backend, "pad_token_id", PADDING_SYMBOLS)
    separator = _number(source, backend, "eos_token_id", SEPARATOR_SYMBOLS)
    if separator is None:
        separator = _number(source, backend, "sep_token_id", SEPARATOR_SYMBOLS)
    special |= {token for token in (mask, padding, separator) if token is not None}
    opening, closing = _frame(backend)
    if padding in {mask, separator, unknown_token(content), *opening, *closing}:
        # What is padding is hidden from the network, and these are to be seen.
        padding = None
    return {
        "tokenizer": content,
        "size": size,
        "mask": mask,
        "padding": padding,
        "separator": separator,
        "special": sorted(special),
        "opening": opening,
        "closing": closing,
        "unused": unused,
    }


def unused_tokens(described: Mapping[str, Any], states: int) -> set[int]:
    """The numbers below ``states`` that no token of a described tokenizer has."""
    return {*described.get("unused", ()), *range(described["size"], states)}


def _bert_tokenizer(words: Path) -> Any:
    """BERT's tokenizer of a list of words, one a line; in lower case if all of them are.

    Raises:
        ValueError: for a list without BERT's special tokens, or with a word twice.
    """
    lines = words.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    vocab = {word.strip(): number for number, word in enumerate(lines)}
    missing = [word for word in ("[UNK]", "[CLS]", "[SEP]") if word not in vocab]
    if missing or len(vocab) < len(lines):
        raise ValueError(
            f"{words} is no list of BERT's words: "
            + (f"it lacks {', '.join(missing)}" if missing else "a word stands there twice")
            + "; give a tokenizer.json"
        )
    ordinary = [word for word in vocab if not (word.startswith("[") and word.endswith("]"))]
    lowercase = all(word == word.lower() for word in ordinary)
    return tokenizers().BertWordPieceTokenizer(vocab, lowercase=lowercase, strip_accents=lowercase)


def backend_of(content: Mapping[str, Any]) -> Any:
    """A ``tokenizers.Tokenizer`` of a tokenizer.json's content, to which every text is text.

    A document that quotes ``[MASK]`` does not hold a mask: special tokens in a text are cut as
    other words are. Those of the frame are added all the same.
    """
    backend = tokenizers().Tokenizer.from_str(json.dumps(content))
    backend.encode_special_tokens = True
    return backend


def unknown_token(content: Mapping[str, Any]) -> int | None:
    """The number of the token that stands for what a tokenizer does not know, or None."""
    model = content["model"]
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    symbol = model.get("unk_token")
    added = {token["content"]: int(token["id"]) for token in content.get("added_tokens", [])}
    known = model["vocab"] if isinstance(model["vocab"], Mapping) else {}
    return added.get(symbol, known.get(symbol))


def tokenizers() -> Any:
    """The ``tokenizers`` module."""
    return optional("tokenizers", "a tokenizer")


def _number(source: Any, backend: Any, name: str, symbols: Sequence[str]) -> int | None:
    if hasattr(source, name):
        number = getattr(source, name)
        return None if number is None else int(number)
    found = (backend.token_to_id(symbol) for symbol in symbols)
    return next((number for number in found if number is not None), None)


def _numbers(backend: Any) -> tuple[int, list[int]]:
    """The largest token number + 1, and the numbers below it that no token has."""
    used = set(backend.get_vocab(with_added_tokens=True).values())
    if not used:
        raise ValueError("the tokenizer has no tokens; train it first")
    size = max(used) + 1
    if size - len(used) > _MAX_UNUSED:
        raise ValueError(
            f"the tokenizer numbers its {len(used)} tokens up to {size - 1}; number them from 0 "
            "without leaving so many out"
        )
    return size, sorted(set(range(size)) - used)


def _frame(backend: Any) -> tuple[list[int], list[int]]:
    """Tokens before and after a text: those that the post-processor says it added to one."""
    probes = chain(_PROBES, (backend.decode([number]) for number in range(_MAX_PROBES)))
    for probe in probes:
        try:
            found = backend.encode(probe, add_special_tokens=True)
        except Exception:  # A word that it does not know; the package raises no class of its own.
            continue
        added = found.special_tokens_mask
        if 0 in added:
            start = added.index(0)
            end = len(added) - added[::-1].index(0)
            return found.ids[:start], found.ids[end:]
    return [], []
