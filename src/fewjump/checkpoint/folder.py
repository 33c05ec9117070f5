"""Save a denoiser as a folder, and read it back as it was.

    config.json          everything but the parameters: process, network, head, data, versions
    model.safetensors    the parameters, under the names of ``state_dict``
    README.md            a model card

A reader finds a whole model or none (:mod:`fewjump.files`).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import fewjump
from fewjump.checkpoint.card import model_card
from fewjump.denoiser import Denoiser, NetworkDenoiser, ScoreDenoiser, head_from_config
from fewjump.denoiser.meta_device import contents, without_memory
from fewjump.denoiser.network import network_from_config, trunk_config
from fewjump.denoiser.wrappers import matched_names, unwrapped, weights_checksum
from fewjump.files import (
    check_replaceable,
    resolve,
    whole_file,
    whole_folder,
    write_text,
)
from fewjump.process import Process, process_from_config
from fewjump.reading import CheckpointError, reason
from fewjump.results import read_results
from fewjump.sampler.carried import current_grids, read_grids, read_samplers

FORMAT_VERSION = 1
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
MODEL_FILES = (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE)
# In the configuration and in the weights' metadata: the two belong together where it is the same.
WEIGHTS_KEY = "weights"
DENOISERS: dict[str, type[NetworkDenoiser] | type[ScoreDenoiser]] = {
    "network": NetworkDenoiser,
    "score": ScoreDenoiser,
}
# What building from a configuration that is none raises, in this library, torch and transformers.
_NO_DENOISER = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
    OverflowError,
    RuntimeError,
)


def save(
    denoiser: Denoiser,
    path: str | Path,
    *,
    vocabulary: Any = None,
    metrics: Any = None,
    training: Any = None,
) -> Path:
    """Write a denoiser's folder, replacing a model that is already there.

    Args:
        denoiser: a :class:`~fewjump.denoiser.NetworkDenoiser`, or a
            :class:`~fewjump.denoiser.ScoreDenoiser` of a ``ScoreNetwork``; compiled or wrapped for
            several processes, as a whole or in part, it is saved as the same without.
        path: the folder. Its parents are created.
        vocabulary: how tokens become text or images again: an object with a ``config()`` method,
            or plain data; by default what the model was loaded with. Comes back as the model's
            ``vocabulary_config``.
        metrics: measured numbers for the config and the card: result rows (the card shows them by
            number of network evaluations), the path of a ``results.json``, or other plain data.
        training: how the model was trained, plain data.

    Returns:
        The folder.

    Raises:
        ValueError: if the denoiser has no configuration, if the given data is not plain, if
            ``path`` is something other than a saved model, or as
            :func:`fewjump.results.read_results` does.
        OSError: naming the file, where the disk is full or the folder cannot be written.
    """
    path = Path(path)
    denoiser = unwrapped(denoiser)
    if isinstance(metrics, str | Path):
        metrics = read_results(metrics)[0]
    if vocabulary is None:
        vocabulary = denoiser.vocabulary_config
    config = _describe(denoiser, vocabulary, metrics, training)
    text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    card = model_card(path.name, denoiser, config)
    tensors = _tensors(denoiser)
    # One entry: safetensors writes several in any order, and equal models are equal files.
    metadata = {WEIGHTS_KEY: config[WEIGHTS_KEY]}
    check_replaceable(path, MODEL_FILES)
    with whole_folder(path) as folder:
        with whole_file(folder / WEIGHTS_FILE) as weights:
            save_file(tensors, weights, metadata=metadata)
        write_text(folder / CONFIG_FILE, text)
        write_text(folder / CARD_FILE, card)
    return path


def read_config(path: str | Path) -> dict[str, Any]:
    """The configuration of a saved model, without its parameters.

    Keys: ``denoiser``, ``data`` (the vocabulary's configuration, or None), ``metrics``,
    ``training``, ``fewjump_version``, ``torch_version``, ``format_version``; ``grids`` and
    ``samplers`` where the model carries some.

    Raises:
        FileNotFoundError: if ``path`` is not a saved model's folder.
        CheckpointError: if its configuration cannot be read by this version.
    """
    folder = resolve(Path(path))
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG_FILE}; give the folder of a saved model")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}; save the model again") from None
    if not isinstance(config, dict) or config.get("format") != "fewjump":
        raise CheckpointError(f"{file} was not written by fewjump.save")
    version = config.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{file} has format version {version!r}, this fewjump ({fewjump.__version__}) reads "
            f"{FORMAT_VERSION}; use fewjump {config.get('fewjump_version', 'of another version')}"
        )
    return config


def process_in(file: Path) -> Process:
    """The process that a JSON file describes, alone or in a saved model's configuration.

    Raises:
        ValueError: if the file holds none.
        FileNotFoundError: if there is no such file.
    """
    try:
        config = json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    for part in ("denoiser", "process"):
        config = config.get(part, config) if isinstance(config, dict) else None
    if not isinstance(config, dict):
        raise ValueError(f"{file} must hold one process, as Process.config() gives it")
    return process_from_config(config)


def load_folder(folder: Path) -> NetworkDenoiser | ScoreDenoiser:
    """The denoiser of a folder of :func:`save`: same outputs as the one that was saved, on the CPU.

    Torch's random state is left as it was.

    Raises:
        FileNotFoundError: if there is no such folder.
        PermissionError: if a file may not be read.
        ValueError: for missing weights, an unknown format version or configuration, a damaged file,
            files of different models, and for tensors that are missing, not expected, or of the
            wrong shape, once the marks of wrappers are taken off their names.
    """
    folder = resolve(folder)
    config = read_config(folder)
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise CheckpointError(f"{folder} has no {WEIGHTS_FILE}; copy or save the whole folder")
    size, count = contents([weights])
    try:
        description = config["denoiser"]
        _check_affordable(description, weights, size, count)
        build = DENOISERS[description["kind"]]
        with torch.random.fork_rng(devices=[]):
            denoiser = build.from_config(description)
    except _NO_DENOISER as error:
        raise CheckpointError(
            f"{folder / CONFIG_FILE} describes no known denoiser: {reason(error)}"
        ) from error
    try:
        tensors = load_file(weights)
        with safe_open(weights, framework="pt") as reader:
            belongs = (reader.metadata() or {}).get(WEIGHTS_KEY)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{weights} is damaged: {error}; copy or save it again") from None
    if belongs is not None and belongs != config.get(WEIGHTS_KEY, belongs):
        raise CheckpointError(
            f"{weights} and {folder / CONFIG_FILE} are of different models; take both files from "
            "the same save"
        )
    try:
        names = matched_names(tensors, denoiser.state_dict().keys())
    except ValueError as error:
        raise CheckpointError(f"{weights}: {error}") from None
    tensors = {names[name]: tensor for name, tensor in tensors.items()}
    _check_tensors(weights, tensors, denoiser.state_dict())
    tensors = _of_one_dtype(weights, tensors, denoiser.state_dict())
    # A file's tensors lie where its header ends. Arithmetic on memory that is not aligned as torch
    # aligns its own may differ in the last bit.
    aligned = {name: tensor.clone() for name, tensor in tensors.items()}
    denoiser.load_state_dict(aligned, strict=True, assign=True)
    denoiser.grids = read_grids(config.get("grids"))
    denoiser.samplers = read_samplers(config.get("samplers"))
    return denoiser


def _describe(denoiser: Denoiser, vocabulary: Any, metrics: Any, training: Any) -> dict[str, Any]:
    if not isinstance(denoiser, NetworkDenoiser | ScoreDenoiser):
        raise ValueError(
            f"a {type(denoiser).__name__} cannot be saved; a NetworkDenoiser, or a ScoreDenoiser "
            "of a ScoreNetwork, can"
        )
    if vocabulary is not None and not isinstance(vocabulary, Mapping):
        vocabulary = vocabulary.config()
    grids = current_grids(denoiser)
    return {
        "format": "fewjump",
        "format_version": FORMAT_VERSION,
        "fewjump_version": fewjump.__version__,
        "torch_version": str(torch.__version__),
        WEIGHTS_KEY: weights_checksum(denoiser),
        "denoiser": plain(denoiser.config(), "denoiser"),
        "data": plain(vocabulary, "vocabulary"),
        "metrics": plain(metrics, "metrics"),
        "training": plain(training, "training"),
        **({} if grids is None else {"grids": grids}),
        **({} if denoiser.samplers is None else {"samplers": denoiser.samplers}),
    }


def _tensors(denoiser: Denoiser) -> dict[str, Tensor]:
    """The state as contiguous tensors on the CPU that share no memory (safetensors wants that)."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in denoiser.state_dict().items():
        value = value.detach().cpu().contiguous()
        memory = value.untyped_storage().data_ptr()
        tensors[name] = value.clone() if memory in seen else value
        seen.add(memory)
    return tensors


def _check_affordable(description: Any, weights: Path, size: int, tensors: int) -> None:
    """Raise ValueError for sizes that these weights cannot have, before anything is allocated.

    No size is larger than the number of bytes, and network and head, built without memory, have no
    more tensors and numbers than the file (:mod:`fewjump.denoiser.meta_device`).
    """
    for name, value in _whole_numbers({k: v for k, v in description.items() if k != "trunk"}, ""):
        _check_number(name, value, tensors if name.endswith("blocks") else size, weights)
    trunk = {"vocab_size": description["process"].get("vocab_size", 2), **description["trunk"]}
    if trunk["vocab_size"] != description["process"].get("vocab_size", trunk["vocab_size"]):
        raise ValueError("the network and the process have different vocabularies")
    sizes = {"hidden": trunk.get("hidden", 128), "vocab_size": trunk["vocab_size"]}
    with without_memory(size, tensors):
        # The head first: it is what a vocabulary of any size would have to fit.
        head_from_config({"kind": "product", **sizes, **description.get("head", {})})
        network_from_config(trunk_config(trunk))


def _check_number(name: str, value: int, limit: int, weights: Path) -> None:
    if value > limit and name != "length":
        raise ValueError(
            f"{name} is {value}, which {weights.name} of {weights.stat().st_size} bytes cannot hold"
        )


def _whole_numbers(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, int]]:
    """Every whole number inside a configuration, with the name it goes by."""
    if isinstance(value, int) and not isinstance(value, bool):
        yield name, value
    elif isinstance(value, dict) and depth < 32:
        for key, entry in value.items():
            yield from _whole_numbers(entry, str(key), depth + 1)
    elif isinstance(value, list) and depth < 32:
        for entry in value:
            yield from _whole_numbers(entry, name, depth + 1)


def _of_one_dtype(
    file: Path, found: dict[str, Tensor], expected: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors with all that are floating in the widest dtype that one of them has.

    Raises:
        CheckpointError: for quantised weights.
    """
    real = {name for name, value in expected.items() if value.is_floating_point()}
    dtypes = {name: found[name].dtype for name in sorted(real)}
    for name, dtype in dtypes.items():
        if not dtype.is_floating_point or dtype.itemsize < 2:
            raise CheckpointError(
                f"{file}: {name} holds {dtype}; floating point of 16 to 64 bits was expected "
                "(quantised weights are not read)"
            )
    wide = reduce(torch.promote_types, dtypes.values())
    return {name: value.to(wide) if name in real else value for name, value in found.items()}


def _check_tensors(file: Path, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not expected" for name in found if name not in expected]
    problems += [
        f"{name} has shape {tuple(found[name].shape)}, expected {tuple(value.shape)}"
        for name, value in expected.items()
        if name in found and found[name].shape != value.shape
    ]
    if problems:
        more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(
            f"{file} does not fit its {CONFIG_FILE}: {'; '.join(problems[:5])}{more}. "
            "Take both files from the same save"
        )


# -- grids, written after the fact ---------------------------------------------------------------


def check_can_keep(folder: str | Path) -> None:
    """Raise ValueError unless ``folder`` is that of a model saved by :func:`fewjump.save`."""
    try:
        read_config(folder)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(
            f"grids are kept in the folder of a saved model, and {folder} is none ({error}); save "
            "the model with fewjump.save first, or leave --keep-grid out"
        ) from None


def write_grids(denoiser: Denoiser, folder: str | Path) -> None:
    """Write the grids that a denoiser carries into the folder it was loaded from.

    Only its config.json changes, at once or not at all.

    Raises:
        ValueError: if the folder is no saved model's, or the denoiser carries no grids.
    """
    check_can_keep(folder)
    grids = current_grids(denoiser)
    if grids is None:
        raise ValueError("this denoiser carries no grids; use fewjump.sampler.carry_grid first")
    config = {**read_config(folder), "grids": grids}
    text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(Path(folder) / CONFIG_FILE, text)


# -- plain data ---------------------------------------------------------------------------------


def plain(value: Any, name: str = "value") -> Any:
    """A copy of ``value`` made of dicts, lists, strings, numbers, booleans and None.

    Tensors and NumPy values become numbers or lists, dataclasses dicts, paths strings. A number
    that is not finite becomes None, which JSON has and NaN it has not.

    Raises:
        ValueError: naming the place of something else.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)}, name)
    if isinstance(value, Mapping):
        return {str(key): plain(entry, f"{name}.{key}") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry, f"{name}[{index}]") for index, entry in enumerate(value)]
    as_list = getattr(value, "tolist", None)
    if callable(as_list) and not isinstance(value, type):
        return plain(as_list(), name)
    raise ValueError(
        f"{name} is a {type(value).__name__}, which a configuration file cannot hold; "
        "give numbers, strings, lists or dictionaries"
    )
