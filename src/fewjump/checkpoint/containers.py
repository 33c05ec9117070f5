"""The files and folders that originals come in, opened without knowing what is inside.

| container | weights | configuration |
|---|---|---|
| SEDD hub folder | ``model.safetensors`` or ``pytorch_model.bin``, averaged | ``config.json`` |
| SEDD run folder | ``model`` and ``ema`` of a ``checkpoint.pth`` | ``.hydra/config.yaml`` |
| Lightning checkpoint | ``state_dict["backbone.…"]`` and ``ema`` | ``hyper_parameters`` |
| Hugging Face folder | ``backbone.…``, averaged | ``config.json`` |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fewjump.checkpoint.archive import Archive, StoredTensor
from fewjump.checkpoint.original_network import (
    BESIDE,
    BESIDE_EXACTLY,
    Shape,
    bare_names,
    in_parameter_order,
)
from fewjump.checkpoint.unpickle import Foreign
from fewjump.checkpoint.vocabulary import mask_of_folder, mask_of_pickled
from fewjump.denoiser.pretrained import WEIGHTS_FILES
from fewjump.denoiser.wrappers import split_name
from fewjump.reading import CheckpointError, WeightsName, listed

ContainerName = Literal[
    "SEDD hub folder", "SEDD run folder", "Lightning checkpoint", "Hugging Face folder"
]
MAX_CONFIG, MAX_YAML = 1 << 26, 1 << 18
RUN_WEIGHTS = Path("checkpoints-meta") / "checkpoint.pth"
#: Where a SEDD run or a Lightning run holds its weights.
RUNS_WEIGHTS = (RUN_WEIGHTS, Path("last.ckpt"), Path("checkpoints") / "last.ckpt")


@dataclass
class Weights:
    """One set of the network's tensors, by the originals' own names.

    Attributes:
        shapes: of every tensor, in the order of the file.
        read: name → the tensor.
    """

    shapes: dict[str, Shape]
    read: Callable[[str], Tensor]


@dataclass
class Opened:
    """A container whose contents can be asked for.

    Attributes:
        container: what it is.
        file: the file with the weights.
        config: the stored configuration as plain data, None where there is none.
        weights: what there is: ``ema``, ``raw``, or both.
        mask: the mask's number in the tokenizer that lies beside the weights; None where there is
            no tokenizer, or none with a mask.
        decay: of the average, where it is stored.
        steps: optimiser steps behind the weights, where they are stored.
        ignored: what was left aside: classes that are not rebuilt, tensors beside the network.
    """

    container: ContainerName
    file: Path
    config: dict[str, Any] | None
    weights: dict[WeightsName, Callable[[], Weights]]
    mask: Callable[[], int | None] = lambda: None
    decay: float | None = None
    steps: int | None = None
    ignored: list[str] = field(default_factory=list)


@contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """Open a checkpoint of an original.

    Args:
        path: a file or a folder as in the table above, or a folder with a Lightning checkpoint
            called ``last.ckpt``, itself or in ``checkpoints/``.

    Raises:
        FileNotFoundError: if there is nothing at ``path``.
        CheckpointError: if it is none of the containers, or is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}")
    file, config_file = _locate(path)
    if file.suffix == ".safetensors":
        config = read_json(config_file)
        yield _folder(file, config, _safetensors(file))
        return
    with Archive(file) as archive:
        value = archive.value
        if not isinstance(value, dict):
            raise CheckpointError(
                f"{file} holds a {type(value).__name__}; a dictionary of tensors was expected"
            )
        if "state_dict" in value:
            yield _lightning(file, archive, value)
        elif "model" in value and isinstance(value["model"], dict):
            yield _sedd_run(file, archive, value)
        else:
            yield _folder(file, read_json(config_file), _stored(file, archive, value))


def _locate(path: Path) -> tuple[Path, Path]:
    """The file with the weights, and where a config.json would be."""
    if path.is_file():
        return path, path.parent / "config.json"
    for relative in (*WEIGHTS_FILES, *RUNS_WEIGHTS):
        if (path / relative).is_file():
            return path / relative, path / "config.json"
    found = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    if any(name.endswith(".index.json") for name in found):
        raise CheckpointError(
            f"{path} holds weights in several files, which is not supported; save them as one "
            "model.safetensors"
        )
    raise CheckpointError(
        f"{path} holds no model: expected model.safetensors or pytorch_model.bin with a "
        f"config.json, {RUN_WEIGHTS}, or last.ckpt; found {listed(found) or 'nothing'}"
    )


# -- the containers ------------------------------------------------------------------------------


def _folder(file: Path, config: dict[str, Any], everything: Weights) -> Opened:
    nested = any("backbone" in split_name(name)[0] for name in everything.shapes)
    names, beside = bare_names({name: name for name in everything.shapes}, nested)
    ignored = _beside(file, beside)
    weights = _renamed(everything, names)
    sedd = isinstance(config.get("graph"), dict)
    return Opened(
        container="SEDD hub folder" if sedd else "Hugging Face folder",
        file=file,
        config=config,
        weights={"ema": lambda: weights},
        mask=lambda: mask_of_folder(file.parent),
        ignored=ignored,
    )


def _sedd_run(file: Path, archive: Archive, value: dict[Any, Any]) -> Opened:
    entries, _ = bare_names(value["model"], nested=False)
    raw = _stored(file, archive, entries)
    steps = value.get("step")
    return Opened(
        container="SEDD run folder",
        file=file,
        config=hydra_config(file),
        weights=_both(file, archive, raw, value.get("ema"), 0),
        decay=_decay(value.get("ema")),
        steps=steps if type(steps) is int else None,
        # SEDD's learning rate is a NumPy number.
        ignored=_not_rebuilt(value),
    )


def _lightning(file: Path, archive: Archive, value: dict[Any, Any]) -> Opened:
    state = value["state_dict"]
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{file}: state_dict is empty or no dictionary")
    entries, beside = bare_names(state, nested=True)
    ignored = _beside(file, beside)
    raw = _stored(file, archive, entries)
    hyper = value.get("hyper_parameters")
    hyper = hyper if isinstance(hyper, dict) else getattr(hyper, "entries", {})
    config = plain_config(hyper.get("config"))
    tokenizer = hyper.get("tokenizer")
    ignored += _not_rebuilt(value)
    steps = value.get("global_step")
    noise = sum(name.startswith("noise.") for name in beside)
    return Opened(
        container="Lightning checkpoint",
        file=file,
        config=config if isinstance(config, dict) and config else None,
        weights=_both(file, archive, raw, value.get("ema"), noise),
        mask=lambda: mask_of_pickled(tokenizer),
        decay=_decay(value.get("ema")),
        steps=steps if type(steps) is int else None,
        ignored=ignored,
    )


def _both(
    file: Path, archive: Archive, raw: Weights, ema: Any, beside: int
) -> dict[WeightsName, Callable[[], Weights]]:
    """The trained weights, and the average where there is one."""
    found: dict[WeightsName, Callable[[], Weights]] = {"raw": lambda: raw}
    if not isinstance(ema, Mapping) or "shadow_params" not in ema:
        return found

    def average() -> Weights:
        values = ema["shadow_params"]
        if not isinstance(values, list) or not all(isinstance(v, StoredTensor) for v in values):
            raise CheckpointError(f"{file}: ema's shadow_params is not a list of tensors")
        shapes = [value.shape for value in values]
        names = in_parameter_order(raw.shapes, shapes, beside)
        stored: dict[str, Any] = dict(zip(names, values))
        buffers = {name: shape for name, shape in raw.shapes.items() if name not in stored}

        def read(name: str) -> Tensor:
            return raw.read(name) if name in buffers else archive.tensor(stored[name])

        return Weights({**{n: stored[n].shape for n in names}, **buffers}, read)

    return {**found, "ema": average}


def _decay(ema: Any) -> float | None:
    decay = ema.get("decay") if isinstance(ema, Mapping) else None
    return decay if isinstance(decay, float) else None


# -- tensors -------------------------------------------------------------------------------------


def _safetensors(file: Path) -> Weights:
    try:
        with safe_open(file, framework="pt") as reader:
            shapes = {name: tuple(reader.get_slice(name).get_shape()) for name in reader.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{file} is no whole safetensors file ({error}); copy or download it again"
        ) from None

    def read(name: str) -> Tensor:
        try:
            with safe_open(file, framework="pt") as reader:
                return reader.get_tensor(name)
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{file}: {name[:80]} cannot be read ({error})") from None

    return Weights(shapes, read)


def _stored(file: Path, archive: Archive, entries: Mapping[Any, Any]) -> Weights:
    wrong = [name for name, value in entries.items() if not isinstance(value, StoredTensor)]
    if wrong or not entries:
        raise CheckpointError(
            f"{file} holds no plain dictionary of tensors: {listed(wrong) or 'it is empty'}; "
            "expected a state dictionary, a SEDD run or a Lightning checkpoint"
        )
    shapes = {str(name): value.shape for name, value in entries.items()}
    return Weights(shapes, lambda name: archive.tensor(entries[name]))


def _renamed(everything: Weights, names: Mapping[str, str]) -> Weights:
    """The same tensors under other names: own name → name in the file."""
    shapes = {name: everything.shapes[there] for name, there in names.items()}
    return Weights(shapes, lambda name: everything.read(names[name]))


def _beside(file: Path, names: list[str]) -> list[str]:
    """What may lie beside the network, or an error for what may not."""
    unknown = [n for n in names if not n.startswith(BESIDE) and n not in BESIDE_EXACTLY]
    if unknown:
        raise CheckpointError(
            f"{file} holds tensors that are not the network's: {listed(unknown)}; a checkpoint of "
            "SEDD, MDLM, UDLM or Duo was expected"
        )
    return [f"{name} (beside the network)" for name in names]


def _not_rebuilt(value: Any) -> list[str]:
    """What became placeholders, in words."""
    return [f"{kind} (a class that is not rebuilt)" for kind in foreign_kinds(value)]


# -- configurations, with limits on what is parsed -----------------------------------------------


def read_json(file: Path) -> dict[str, Any]:
    """A config.json.

    Raises:
        CheckpointError: if it is not there, or holds no dictionary.
    """
    if not file.is_file():
        raise CheckpointError(
            f"{file.parent} has no config.json beside the weights; copy or download the whole "
            "folder"
        )
    return _parsed(file, json.loads)


def hydra_config(weights: Path) -> dict[str, Any] | None:
    """``.hydra/config.yaml`` of the run that a weights file belongs to."""
    for folder in (weights.parent.parent, weights.parent):
        file = folder / ".hydra" / "config.yaml"
        if file.is_file():
            return _parsed(file, _yaml)
    return None


def _yaml(text: str) -> Any:
    # The parser's time grows with the square of how deep brackets are nested.
    depth = accumulate((c in "[{") - (c in "]}") for c in text)
    if len(text) > MAX_YAML or max(depth, default=0) > 32:
        raise CheckpointError("it is larger, or nested deeper, than any that hydra writes")
    try:
        # Aliases can make a small text a value of any size; hydra writes none.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise CheckpointError("it holds aliases, which hydra does not write")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CheckpointError(str(error).split("\n", 1)[0]) from None


def _parsed(file: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    if file.stat().st_size > MAX_CONFIG:
        raise CheckpointError(f"{file} is larger than any configuration")
    try:
        value = parse(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError, TypeError) as error:
        raise CheckpointError(f"{file} cannot be read as a configuration: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} holds no dictionary; a configuration was expected")
    return value


def plain_config(value: Any, depth: int = 0, budget: list[int] | None = None) -> Any:
    """A configuration as plain dictionaries and lists, from OmegaConf's objects or from plain data.

    What is neither becomes None. Interpolations stay the text they are.

    Raises:
        CheckpointError: for a configuration that is deeper or larger than any real one.
    """
    budget = [100_000] if budget is None else budget
    budget[0] -= 1
    if depth > 24 or budget[0] < 0:
        raise CheckpointError("the stored configuration is nested without end; the file is damaged")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Foreign):
        if value.kind.startswith("omegaconf."):
            content = value.attribute("_content")
            content = value.attribute("_val") if content is None else content
            return plain_config(content, depth + 1, budget)
        if value.entries:
            return plain_config(value.entries, depth + 1, budget)
        return None
    if isinstance(value, dict):
        return {
            key: plain_config(entry, depth + 1, budget)
            for key, entry in value.items()
            if isinstance(key, str)
        }
    if isinstance(value, list | tuple):
        return [plain_config(entry, depth + 1, budget) for entry in value]
    return None


def foreign_kinds(value: Any, limit: int = 200_000) -> Iterator[str]:
    """Kinds of all placeholders inside a value, each once."""
    seen: set[int] = set()
    kinds: set[str] = set()
    stack = [value]
    while stack and limit > 0:
        limit -= 1
        item = stack.pop()
        if not isinstance(item, Foreign | dict | list | tuple) or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Foreign):
            if item.kind not in kinds:
                kinds.add(item.kind)
                yield item.kind
            stack += [item.state, item.entries, item.elements, item.arguments]
        else:
            stack.extend(item.values() if isinstance(item, dict) else item)
