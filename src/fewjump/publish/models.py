"""Saved models and data sets as the verbs and the checks open them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from fewjump.data import Dataset, Vocabulary
    from fewjump.denoiser import Denoiser
    from fewjump.reading import DataKind


class Model(NamedTuple):
    """A saved denoiser, what its tokens mean, and the folder they came from."""

    denoiser: Denoiser
    vocabulary: Vocabulary
    folder: Path


def open_model(
    path: Path,
    device: str = "cpu",
    reading: Mapping[str, Any] | None = None,
) -> Model:
    """Open what :func:`fewjump.load` does, with its vocabulary; token numbers where it says none.

    Args:
        path: of the model, or ``hf:owner/name``.
        device: where to put the parameters.
        reading: what the model does not say itself (:func:`fewjump.reading.reading_values`). Of
            it, ``tokenizer`` is for every kind of model; numbers that none of its tokens has are
            never generated (:mod:`fewjump.checkpoint.vocabulary`).

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for a tokenizer that is not the model's, or for ``reading`` of a model that is
            no original.
    """
    from fewjump.checkpoint.opening import place_of

    return _open_at(place_of(path), device, reading)


def _open_at(place: Path, device: str, reading: Mapping[str, Any] | None) -> Model:
    from fewjump.checkpoint import opening
    from fewjump.checkpoint.originals import Reading

    denoiser, _ = opening.open_model(place, Reading(**(reading or {})), device)
    return Model(denoiser, said_vocabulary(denoiser, place), place)


def said_vocabulary(denoiser: Denoiser, place: Path | str = "the model") -> Vocabulary:
    """What a model says of its tokens; their numbers where it says nothing.

    Raises:
        CheckpointError: for a vocabulary that is none, or has another number of tokens than the
            model. Of a tokenizer there may be fewer: its model keeps the rest.
    """
    from fewjump.data import Tokens, Vocabulary
    from fewjump.reading import CheckpointError

    described, states = denoiser.vocabulary_config, denoiser.clean_vocab_size
    if not described:
        return Tokens(states)
    try:
        found = Vocabulary.from_config(described)
    except ValueError as error:
        raise CheckpointError(f"{place} describes no known vocabulary: {error}") from error
    if described.get("name") != "tokenizer" and found.size != states:
        raise CheckpointError(
            f"{place} has a vocabulary of {found.size} tokens and a model of {states}; take "
            "config.json and the weights from the same save"
        )
    return found


def open_models(
    paths: Sequence[Path], device: str = "cpu", reading: Mapping[str, Any] | None = None
) -> list[Model]:
    """Several models; ``reading`` is for checkpoints of the originals.

    Its tokenizer is for every model that does not say what its tokens are.

    Raises:
        ValueError: if ``reading`` says something and none of them is.
    """
    from fewjump.checkpoint.opening import is_original, place_of, refuse_reading
    from fewjump.checkpoint.originals import Reading

    reading = reading or {}
    places = [place_of(path) for path in paths]
    originals = [is_original(place) for place in places]
    if not any(originals):
        refuse_reading(
            Reading(**reading),
            f"none of {', '.join(map(str, paths))} is a checkpoint of an original",
        )
    speak = [has_vocabulary(place) for place in places]
    out = []
    for place, original, speaks in zip(places, originals, speak):
        # Where every model says what its tokens are, the first refuses to be told.
        told = None if speaks and not all(speak) else reading.get("tokenizer")
        out.append(_open_at(place, device, reading if original else {"tokenizer": told}))
    return out


def has_vocabulary(place: Path) -> bool:
    """Whether a place is a saved model of this library that says what its tokens are."""
    from fewjump.checkpoint import read_config

    try:
        return bool(read_config(place).get("data"))
    except (ValueError, FileNotFoundError):
        return False


def check_alike(models: Sequence[Model], data: Dataset) -> None:
    """Raise ValueError unless all models make sequences of the data's length and vocabulary."""
    for model in models[1:]:
        model.denoiser.check_length(data.length)
        if model.vocabulary != data.vocabulary:
            raise ValueError(f"{model.folder} and {models[0].folder} speak different vocabularies")


def open_data_like(
    model: Model,
    source: str,
    kind: DataKind = "auto",
    length: int | None = None,
    **documents: Any,
) -> Dataset:
    """Load a data set in the vocabulary and the length of a saved model.

    Args:
        model: whose data are to be read.
        source, kind: see :func:`fewjump.data.load_data`.
        length: tokens of a row, for a model that takes any; 64 by default.
        **documents: its options for documents.

    Raises:
        ValueError: if the data are of another kind, or the length is not the model's.
    """
    from fewjump.data import Characters, Pieces, TokenizerVocabulary, load_data
    from fewjump.data.load import BUILTIN, DEFAULT_LENGTH, kind_of

    own = model.denoiser.length
    if own is not None and length not in (None, own):
        raise ValueError(f"the model in {model.folder} has sequences of {own} tokens, not {length}")
    length = own if length is None else length
    vocabulary = model.vocabulary
    alphabet = None
    built_in = source in BUILTIN and not Path(source).is_file()
    if not built_in:
        in_words = isinstance(vocabulary, TokenizerVocabulary)
        found = kind_of(source, kind, in_words)
        if found == "documents" and vocabulary.name == "tokens":
            raise ValueError(
                f"{source} holds documents, and the model in {model.folder} does not say what its "
                "tokens are; give --tokenizer"
            )
        if length is not None or found != "tokens":
            # Before documents are read, whose tokens are kept beside them.
            model.denoiser.check_length(length or DEFAULT_LENGTH)
        if found in ("tokens", "documents") or in_words:
            data = load_data(source, length, kind=found, vocabulary=vocabulary, **documents)
            model.denoiser.check_length(data.length)
            return data
        if isinstance(vocabulary, Pieces):
            kind = "smiles" if kind == "auto" else kind
            alphabet = [s for s in vocabulary.symbols if s != vocabulary.padding]
        elif isinstance(vocabulary, Characters):
            alphabet = None if found == "bytes" else vocabulary.symbols
            if vocabulary.padding and kind == "auto":
                kind = "lines"
            if vocabulary.padding and alphabet is not None:
                alphabet = alphabet.replace(vocabulary.padding, "")
        elif vocabulary.name == "bytes" and kind == "auto":
            kind = "bytes"
    data = load_data(source, length, kind=kind, alphabet=alphabet, **documents)
    if data.vocabulary != vocabulary:
        raise ValueError(
            f"the model in {model.folder} speaks {vocabulary.name} of {vocabulary.size} symbols, "
            f"but {source} has {data.vocabulary.name} of {data.vocabulary.size}; give the data it "
            "was trained on"
        )
    return data
