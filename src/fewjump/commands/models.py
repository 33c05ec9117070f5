"""Saved models and data sets as the verbs open them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fewjump.commands.shared import DataKindName
from fewjump.tokenizing import HUB

if TYPE_CHECKING:
    from fewjump.data import Dataset, Vocabulary
    from fewjump.denoiser import Denoiser


class Model(NamedTuple):
    """A saved denoiser, what its tokens mean, and the folder they came from."""

    denoiser: Denoiser
    vocabulary: Vocabulary
    folder: Path


def model_folder(path: Path) -> Path:
    """The saved model that ``path`` means: the folder itself, or ``model`` in a run's folder.

    ``hf:owner/name`` is a repository of the Hugging Face hub, which is downloaded.

    Raises:
        FileNotFoundError: if there is none.
    """
    if path.as_posix().startswith(HUB):
        from fewjump.publish.hub import resolve

        return resolve(path.as_posix().removeprefix(HUB))
    from fewjump.checkpoint.opening import model_place

    return model_place(path)


def open_model(
    path: Path,
    device: str = "cpu",
    reading: Mapping[str, Any] | None = None,
) -> Model:
    """Load a saved model with its vocabulary; plain token numbers where none was saved.

    A folder or hub repository (``hf:owner/name``) of ``transformers`` that holds a masked language
    model is opened as :func:`fewjump.denoiser.from_masked_lm` does, without running its code. A
    checkpoint of SEDD, MDLM, UDLM or Duo is opened as :func:`fewjump.load_teacher` does.

    Args:
        path: as for :func:`model_folder`.
        device: where to put the parameters.
        reading: what the model does not say itself (:func:`fewjump.reading.reading_values`). Of
            it, ``tokenizer`` is for every kind of model; numbers that none of its tokens has are
            never generated (:mod:`fewjump.checkpoint.vocabulary`).

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for a tokenizer that is not the model's, or for ``reading`` of a model that is
            no original.
    """
    from fewjump.checkpoint.opening import open_place
    from fewjump.data import Tokens, Vocabulary

    folder = model_folder(path)
    name = path.as_posix().removeprefix(HUB)
    hub_name = None if Path(name).exists() else name
    denoiser, described = open_place(folder, device, reading, hub_name)
    if described:
        return Model(denoiser, Vocabulary.from_config(described), folder)
    return Model(denoiser, Tokens(denoiser.clean_vocab_size), folder)


def open_models(
    paths: Sequence[Path], device: str = "cpu", reading: Mapping[str, Any] | None = None
) -> list[Model]:
    """Several models; ``reading`` is for checkpoints of the originals.

    Its tokenizer is for every model that does not say what its tokens are.

    Raises:
        ValueError: if ``reading`` says something and none of them is.
    """
    from fewjump.checkpoint.opening import is_original, refuse_reading

    originals = [is_original(model_folder(path)) for path in paths]
    if not any(originals):
        refuse_reading(
            reading or {}, f"none of {', '.join(map(str, paths))} is a checkpoint of an original"
        )
    speak = [has_vocabulary(path) for path in paths]
    out = []
    for path, original, speaks in zip(paths, originals, speak):
        # Where every model says what its tokens are, the first refuses to be told.
        told = None if speaks and not all(speak) else (reading or {}).get("tokenizer")
        out.append(open_model(path, device, reading if original else {"tokenizer": told}))
    return out


def has_vocabulary(path: Path) -> bool:
    """Whether ``path`` is a saved model of this library that says what its tokens are."""
    from fewjump.checkpoint import read_config

    try:
        return bool(read_config(model_folder(path))["data"])
    except (ValueError, FileNotFoundError):
        return False


def open_data(
    source: str,
    length: int | None = None,
    kind: DataKindName = "auto",
    tokenizer: str | None = None,
    **documents: Any,
) -> Dataset:
    """Load a data set for training from scratch; ``tokenizer`` may be ``bytes``."""
    from fewjump.data import Bytes, load_data

    vocabulary = Bytes() if tokenizer == "bytes" else tokenizer
    return load_data(source, length, kind=kind, vocabulary=vocabulary, **documents)


def open_data_like(
    model: Model,
    source: str,
    kind: DataKindName = "auto",
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
    from fewjump.data import Characters, TokenizerVocabulary, load_data
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
        if isinstance(vocabulary, Characters):
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
