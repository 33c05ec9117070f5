"""Masked language models of ``transformers``, read from a folder or a hub repository.

The weights are read here, without running code of theirs, and handed to ``transformers`` under the
network's own names. A model is the network's whole weights or it is refused: ``transformers`` would
fill what is missing with random numbers.
"""

from __future__ import annotations

import json
import logging
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fewjump.config import optional
from fewjump.denoiser.meta_device import check_labels, without_memory
from fewjump.denoiser.wrappers import matched_names
from fewjump.reading import listed, reason
from fewjump.tokenizing import HUB, hub_name

_LOG = logging.getLogger("fewjump")

WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_SUFFIX = ".index.json"
# Damaged bytes reach every part of torch's reader of pickles.
_DAMAGED = (
    pickle.UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
)
# Configurations of these are checkpoints of the originals, whatever transformers may know.
_ORIGINALS = ("mdlm", "udlm", "duo")


@dataclass(frozen=True)
class Pretrained:
    """A model that was read.

    Attributes:
        model: of ``transformers``, in eval mode.
        source: the folder it was read from, or its name on the hub (``hf:owner/name``).
        notes: what had to be assumed, in words.
        aside: names of weights in the file that the network has no place for.
    """

    model: Any
    source: str | None = None
    notes: list[str] = field(default_factory=list)
    aside: list[str] = field(default_factory=list)

    def tell(self) -> None:
        """Log in one line what was assumed and left aside."""
        told = [*self.notes]
        if self.aside:
            told.append(f"weights left aside: {listed(self.aside)}")
        if told:
            _LOG.warning("%s: %s", self.source, "; ".join(told))


def folder_config(folder: Path) -> dict[str, Any]:
    """A folder's config.json; empty where it is not there or no dictionary."""
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def is_masked_lm(folder: Path) -> bool:
    """Whether a folder's config.json is that of a masked language model of ``transformers``.

    Its ``architectures`` may be a class that nobody else has: the ``model_type`` tells then.
    """
    config = folder_config(folder)
    kind, names = config.get("model_type"), config.get("architectures")
    if config.get("format") == "fewjump" or kind in _ORIGINALS:
        return False
    if names and "auto_map" not in config and str(names[0]).endswith("ForMaskedLM"):
        return True
    return isinstance(kind, str) and masked_lm_name(kind) is not None


def masked_lm_name(model_type: str) -> str | None:
    """The class of masked language models of this type; None without one, or the extra."""
    try:
        from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
    except ImportError:
        return None
    names: Any = MODEL_FOR_MASKED_LM_MAPPING_NAMES
    name = names.get(model_type)
    return name[0] if isinstance(name, tuple) else name


def read_pretrained(place: str | Path, trust_remote_code: bool = False) -> Pretrained:
    """A masked language model from a folder, or from a hub repository ``owner/name[@revision]``.

    Args:
        place: the path or the name.
        trust_remote_code: run the code that comes with a model, if it needs some.

    Raises:
        ModuleNotFoundError: without the ``hub`` extra.
        ValueError: for a model that needs code it may not run, for sizes that its weights cannot
            have, for weights that are damaged, and for a network that they do not fill.
    """
    source = str(place).removeprefix(HUB)
    transformers = optional("transformers", f"reading {source}")
    name, revision = (source, None) if Path(source).exists() else hub_name(source)
    stated = folder_config(Path(source))
    check_labels(stated)
    try:
        config = transformers.AutoConfig.from_pretrained(
            name, revision=revision, trust_remote_code=trust_remote_code
        )
        kinds = (getattr(config, "auto_map", None) or {}) if trust_remote_code else {}
        names = ("AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModel")
        foreign = next((name for name in names if name in kinds), None)
        with _quiet(transformers):
            if foreign is not None:
                model, report = getattr(transformers, foreign).from_pretrained(
                    name, revision=revision, trust_remote_code=True, output_loading_info=True
                )
            else:
                model, report = _filled(transformers, name, config, revision)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # What a damaged configuration makes of it has no class of its own.
        text = str(error)
        if "trust_remote_code" in text and not trust_remote_code:
            raise ValueError(
                f"the model in {source} comes with code of its own, which is not run by default; "
                "read it, then pass trust_remote_code=True"
            ) from error
        raise ValueError(f"no masked language model could be read from {source}: {text}") from error
    _check_whole(source, model, report)
    return Pretrained(
        model.eval(),
        source if Path(source).exists() else HUB + source,
        [] if foreign else _assumed(stated, type(model).__name__),
        sorted(report["unexpected_keys"]),
    )


def _filled(
    transformers: Any, source: str, config: Any, revision: str | None
) -> tuple[Any, dict[str, Any]]:
    """The model with the weights of its files, and what transformers says of the filling."""
    tensors: dict[str, Tensor] = {}
    for file in weights_files(source, revision):
        tensors |= read_tensors(file)
    blocks = [tensor.untyped_storage() for tensor in tensors.values()]
    size = sum({block.data_ptr(): block.nbytes() for block in blocks}.values())
    try:
        with without_memory(size, len(tensors)):
            empty = transformers.AutoModelForMaskedLM.from_config(config)
    except (RuntimeError, OverflowError, TypeError, AssertionError) as error:
        # Sizes that are no sizes at all.
        raise ValueError(f"the configuration makes no network: {str(error)[:200]}") from None
    expected = empty.state_dict()
    names = matched_names(tensors, expected.keys())
    named = {names[name]: tensor for name, tensor in tensors.items()}
    wrong = [
        f"{name} has shape {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
        for name, tensor in named.items()
        if name in expected and expected[name].shape != tensor.shape
    ]
    if wrong:
        raise ValueError(
            f"the weights do not fit config.json: {listed(sorted(wrong))}; take both from the "
            "same save"
        )
    floats = {name for name, value in expected.items() if value.is_floating_point()}
    whole = [n for n, t in named.items() if n in floats and not t.is_floating_point()]
    if whole:
        raise ValueError(
            f"{whole[0]} holds {named[whole[0]].dtype}, not floating-point weights, as a quantised "
            "file does; give the unquantised model"
        )
    try:
        return type(empty).from_pretrained(
            None, config=config, state_dict=named, output_loading_info=True
        )
    except RuntimeError as error:
        raise ValueError(str(error).partition("\n")[0]) from None


def weights_files(source: str, revision: str | None = None) -> list[Path]:
    """The files of a model's weights: one, or the parts that an index lists.

    Raises:
        ValueError: if there are none, a part is missing, or the index is damaged.
    """
    folder = Path(source)
    for whole in WEIGHTS_FILES:
        found = _file_of(source, whole, revision)
        if found is not None:
            return [found]
        index = _file_of(source, f"{whole}{INDEX_SUFFIX}", revision)
        if index is not None:
            try:
                parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            except (TypeError, KeyError, AttributeError, ValueError) as error:
                raise ValueError(f"{index} is damaged: {error}; download it again") from None
            files = {part: _file_of(source, str(part), revision) for part in sorted(parts, key=str)}
            missing = [str(part) for part, file in files.items() if file is None]
            if missing:
                raise ValueError(
                    f"{index} lists {listed(missing)}, which is not there; copy or download it"
                )
            return [file for file in files.values() if file is not None]
    raise ValueError(
        f"{folder} has no weights: neither {' nor '.join(WEIGHTS_FILES)}; copy or download the "
        "whole folder"
    )


def _file_of(source: str, name: str, revision: str | None = None) -> Path | None:
    """A file of a folder, or of a hub repository, downloaded; None where there is none."""
    folder = Path(source)
    if folder.is_dir():
        inside = folder / name
        # An index may name a file elsewhere.
        here = inside.is_file() and inside.parent == folder
        return inside if here else None
    from transformers.utils.hub import cached_file

    found = cached_file(
        source, name, revision=revision, _raise_exceptions_for_missing_entries=False
    )
    return None if found is None else Path(found)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .bin file; a pickle may build tensors and nothing else.

    Raises:
        ValueError: for a file that is damaged, or that asks for code to be run.
    """
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} is damaged: {error}; copy or save it again") from None
    try:
        value = torch.load(file, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        text = str(error)
        if isinstance(error, pickle.UnpicklingError) and (
            "Unsupported" in text or "GLOBAL" in text
        ):
            raise ValueError(
                f"{file} asks for more than tensors and plain values, which was not executed; do "
                "not trust it, and get the weights again from their authors"
            ) from None
        raise ValueError(f"{file} is damaged: {reason(error)}; copy it again") from None
    if isinstance(value, Mapping) and isinstance(value.get("state_dict"), Mapping):
        value = value["state_dict"]
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"{file} holds no dictionary of tensors")
    wrong = [name for name, entry in value.items() if not isinstance(entry, Tensor)]
    if wrong:
        raise ValueError(f"{file} holds {listed(wrong)}, which is no tensor")
    return {str(name): entry for name, entry in value.items()}


def _check_whole(source: str, model: nn.Module, report: Mapping[str, Any]) -> None:
    """Raise ValueError unless files and network have the same weights.

    Tied ones may be missing, and parts beside the network aside; layers may not.
    """
    missing, aside = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing:
        raise ValueError(
            f"the weights in {source} lack {listed(missing)} of a {type(model).__name__}, which "
            "would be random; give a model that was trained as a masked language model, its head "
            "included"
        )
    numbered = re.compile(r"\.\d+\.")
    layers = {numbered.sub(".0.", name) for name in model.state_dict() if numbered.search(name)}
    more = [
        name
        for name in aside
        if numbered.search(name) and (not layers or numbered.sub(".0.", name) in layers)
    ]
    if more:
        raise ValueError(
            f"the weights in {source} have more layers than its config.json says: "
            f"{listed(more)}; take both from the same save"
        )


def _assumed(stated: Mapping[str, Any], name: str) -> list[str]:
    names = stated.get("architectures")
    said = str(names[0]) if isinstance(names, list) and names else None
    if not stated or said == name:
        return []
    return [
        f"read as {name}, by its model_type {stated.get('model_type')!r} "
        f"(its architectures name {said or 'nothing'})"
    ]


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without transformers' bars and its table of weights: what it reports is told here."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def outputs(model: Any) -> int:
    """Number of outputs of a model."""
    layer = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if isinstance(layer, nn.Linear):
        return layer.out_features
    return int(model.config.vocab_size)
