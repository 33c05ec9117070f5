"""Saved models and data sets as the verbs open them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fewjump.commands.choices import DataKindName

if TYPE_CHECKING:
    from fewjump.data import Dataset, Vocabulary
    from fewjump.denoiser import Denoiser


#: Begins the name of something of the Hugging Face hub, where a folder could be meant.
HUB = "hf:"


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
    for folder in (path, path / "model"):
        if (folder / "config.json").is_file():
            return folder
    if (path / "training_state.pt").is_file():
        raise FileNotFoundError(
            f"the training in {path} has not finished; run the same command again to go on"
        )
    raise FileNotFoundError(
        f"there is no saved model in {path}: neither {path / 'config.json'} nor "
        f"{path / 'model' / 'config.json'} exists"
    )


def open_model(path: Path, device: str = "cpu") -> Model:
    """Load a saved model with its vocabulary; plain token numbers where none was saved."""
    from fewjump.checkpoint import load, read_config
    from fewjump.data import Tokens, Vocabulary

    folder = model_folder(path)
    described = read_config(folder)["data"]
    denoiser = load(folder, device)
    if described:
        return Model(denoiser, Vocabulary.from_config(described), folder)
    return Model(denoiser, Tokens(denoiser.clean_vocab_size), folder)


def open_data(source: str, length: int | None = None, kind: DataKindName = "auto") -> Dataset:
    """Load a data set for training from scratch."""
    from fewjump.data import load_data

    return load_data(source, length, kind=kind)


def open_data_like(model: Model, source: str, kind: DataKindName = "auto") -> Dataset:
    """Load a data set in the vocabulary and the length of a saved model.

    Raises:
        ValueError: if the data are of another kind.
    """
    from fewjump.data import Characters, load_data
    from fewjump.data.load import BUILTIN

    vocabulary = model.vocabulary
    alphabet = None
    if isinstance(vocabulary, Characters) and source not in BUILTIN and kind != "tokens":
        alphabet = vocabulary.symbols.replace(vocabulary.padding or "", "")
        kind = "lines" if vocabulary.padding and kind == "auto" else kind
    elif vocabulary.name == "bytes" and kind == "auto":
        kind = "bytes"
    data = load_data(source, model.denoiser.length, kind=kind, alphabet=alphabet)
    if data.vocabulary != vocabulary:
        raise ValueError(
            f"the model in {model.folder} speaks {vocabulary.name} of {vocabulary.size} symbols, "
            f"but {source} has {data.vocabulary.name} of {data.vocabulary.size}; give the data it "
            "was trained on"
        )
    return data
