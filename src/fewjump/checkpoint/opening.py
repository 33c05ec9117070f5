"""Open whatever a path or a name of the hub means: our folder, an original, a masked LM."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from fewjump.checkpoint.containers import RUNS_WEIGHTS
from fewjump.checkpoint.folder import (
    CONFIG_FILE,
    MODEL_FILES,
    WEIGHTS_FILE,
    load_folder,
    read_config,
)
from fewjump.checkpoint.originals import Facts, Reading, check_values, read_original
from fewjump.checkpoint.vocabulary import settle_vocabulary
from fewjump.config import optional
from fewjump.denoiser import NetworkDenoiser, ScoreDenoiser, ScoreNetwork
from fewjump.denoiser.logits import from_masked_lm
from fewjump.denoiser.network import parameter_counts
from fewjump.denoiser.pretrained import (
    INDEX_SUFFIX,
    WEIGHTS_FILES,
    folder_config,
    is_masked_lm,
    read_pretrained,
)
from fewjump.device import usable_device
from fewjump.files import resolve
from fewjump.reading import (
    TAKES,
    CheckpointError,
    FamilyName,
    WeightsName,
    given_flags,
    reading_values,
)
from fewjump.schedule import Schedule
from fewjump.tokenizing import HUB, hub_name, is_hub

_STATES = ("training_state.pt", "training_state.json")
# Of a hub repository; never its code. Weights in the form that is read, if there are several.
_HUB_TEXTS = ("*.json", "*.txt", "*.model")
_HUB_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*.ckpt", "*.pth")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def load(
    source: str | Path,
    device: torch.device | str = "cpu",
    *,
    weights: WeightsName = "ema",
    family: FamilyName | None = None,
    mask: int | None = None,
    tokenizer: Any = None,
    schedule: Schedule | None = None,
    dtype: torch.dtype | None = None,
) -> NetworkDenoiser | ScoreDenoiser:
    """Open a model: a saved one, a checkpoint of SEDD, MDLM, UDLM or Duo, or a masked LM's folder.

    The contents say what it is, and nothing in them is executed: the unpickler makes tensors and
    plain values only, code that comes with a model is not run, and the originals' own code is not
    needed. A saved model is as it was when it was saved. Torch's random state is left as it was.

    Args:
        source: a folder of :func:`fewjump.save`, of a run, or of a masked language model of
            ``transformers``; a SEDD hub folder or run folder, a Lightning checkpoint, a published
            folder; or ``hf:owner/name``, a repository of the hub, at a
            branch, tag or commit where ``@revision`` follows.
        device: where to put the parameters.
        weights: of an original: ``ema`` for averaged weights, ``raw`` for those that were trained.
            Published folders hold the averaged ones only.
        family: of an original without a configuration: ``sedd-absorb``, ``sedd-uniform``, ``mdlm``,
            ``udlm`` or ``duo``.
        mask: of an original: number of the mask, where the checkpoint's tokenizer does not say and
            it is not the last state.
        tokenizer: what the tokens are, if the model does not say: ``transformers`` or
            ``tokenizers`` object, a path, or ``hf:owner/name``. States that stand for none of them
            are kept (never noised, never generated).
        schedule: of an original: the noise schedule, where the checkpoint does not state its own.
        dtype: of the parameters; as saved, and float32 for an original, by default.

    Returns:
        The denoiser, in eval mode, with its ``vocabulary_config``. Of an original,
        ``raw_logits(x, sigma)`` is the output of its network, ``log_score(x, sigma)`` its
        log-scores.

    Raises:
        FileNotFoundError: if there is no such model or repository.
        PermissionError: if a file may not be read.
        CheckpointError: for everything that is wrong with the contents, and for options that the
            model does not need.
        ModuleNotFoundError: for a repository or a masked language model, without the ``hub`` extra.
    """
    reading = Reading(weights, family, mask, tokenizer, schedule, dtype)
    return open_model(place_of(source), reading, device)[0]


def place_of(source: str | Path, **hub: Any) -> Path:
    """The file or folder of the model that ``source`` means, downloaded if it is a repository.

    Args:
        source: as for :func:`load`. A file of weights beside a config.json, or that file, means
            their folder; a run's folder means its ``model``.
        **hub: arguments of ``huggingface_hub.snapshot_download``.

    Raises:
        FileNotFoundError: if there is no model of any kind, or no such repository.
        CheckpointError: for a file that is no model.
        ModuleNotFoundError: for a repository, without the ``hub`` extra.
    """
    path = Path(source)
    if is_hub(source) and not path.exists():
        name, revision = hub_name(path.as_posix())
        return _downloaded(name, {**hub, "revision": hub.get("revision") or revision})
    with suppress(FileNotFoundError):
        path = path if path.is_file() else resolve(path)
    if not path.exists():
        named = f"; a repository of the hub is {HUB}{source}" if is_repository(source) else ""
        raise FileNotFoundError(
            f"there is no saved model in {source}, and no such path; give {TAKES}{named}"
        )
    for folder in (path, path / "model"):
        if (folder / CONFIG_FILE).is_file():
            return folder
    parts = (CONFIG_FILE, *WEIGHTS_FILES, *(f"{name}{INDEX_SUFFIX}" for name in WEIGHTS_FILES))
    if path.is_file() and path.name in parts and (path.parent / CONFIG_FILE).is_file():
        return path.parent
    if path.name in _STATES:
        raise CheckpointError(
            f"{path} is the state of a training, from which the same command goes on, and no "
            f"model; give {TAKES}"
        )
    if path.is_file() or any((path / name).is_file() for name in (*RUNS_WEIGHTS, *WEIGHTS_FILES)):
        return path
    if any((path / name).is_file() for name in _STATES):
        raise FileNotFoundError(
            f"the training in {path} has not finished; run the same command again to go on"
        )
    raise FileNotFoundError(
        f"there is no saved model in {path}: neither {path / CONFIG_FILE} nor "
        f"{path / 'model' / CONFIG_FILE} exists, nor is it a checkpoint of SEDD, MDLM, UDLM or Duo"
    )


def is_repository(source: str | Path) -> bool:
    """Whether a text could be the name of a repository, ``owner/name``."""
    return _REPOSITORY.fullmatch(str(source)) is not None


def is_original(place: Path) -> bool:
    """Whether a place of :func:`place_of` is, by its files, a checkpoint of an original."""
    if not (place / CONFIG_FILE).is_file():
        return True
    config = folder_config(place)
    return bool(config) and config.get("format") != "fewjump" and not is_masked_lm(place)


def open_model(
    place: Path, reading: Reading, device: torch.device | str = "cpu", told: bool = True
) -> tuple[NetworkDenoiser | ScoreDenoiser, Facts]:
    """A denoiser, which has its ``vocabulary_config``, and where it came from.

    Args:
        place: of :func:`place_of`.
        reading: what the model does not say itself.
        device: where to put the parameters.
        told: log what was assumed and left aside in reading a masked language model.

    Raises:
        CheckpointError, FileNotFoundError, PermissionError: as :func:`load` does.
    """
    device = usable_device(device)
    if is_original(place):
        return read_original(place, reading, device)
    refuse_reading(reading, f"{place} is no checkpoint of SEDD, MDLM, UDLM or Duo")
    try:
        if is_masked_lm(place):
            denoiser, facts = _masked_lm(place, reading.tokenizer, told)
        else:
            denoiser, facts = _own(place, reading.tokenizer)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    return denoiser.to(device=device, dtype=reading.dtype).eval(), facts


def refuse_reading(reading: Reading, why: str) -> None:
    """Raise CheckpointError if options say how an original is to be read and there is none."""
    said = given_flags(reading_values(reading) | {"tokenizer": None})
    if reading.schedule is not None:
        said.append("schedule=")
    if said:
        raise CheckpointError(
            f"{why}, and holds one set of weights; leave out {' and '.join(said)}"
        )


def _own(folder: Path, tokenizer: Any) -> tuple[NetworkDenoiser | ScoreDenoiser, Facts]:
    denoiser = load_folder(folder)
    check_values(dict(denoiser.named_parameters()))
    described = read_config(folder).get("data")
    if not (described is None or isinstance(described, dict)):
        raise CheckpointError(
            f"{folder}: data in config.json must say what the tokens are, or be null; got "
            f"{described!r}"
        )
    notes = settle_vocabulary(denoiser, described, tokenizer, folder)
    trunk = denoiser.trunk if isinstance(denoiser, NetworkDenoiser) else None
    if isinstance(denoiser, ScoreDenoiser) and isinstance(denoiser.network, ScoreNetwork):
        trunk = denoiser.network.trunk
    family = f"{denoiser.kind} head" if isinstance(denoiser, NetworkDenoiser) else "score network"
    return denoiser, Facts(
        path=str(folder),
        container="fewjump folder",
        family=family,
        weights="ema",
        available=["ema"],
        ema="the weights that were saved (averaged, where training averaged them)",
        sizes={} if trunk is None else trunk.config.config(),
        mask=denoiser.process.mask,
        notes=notes,
    )


def _masked_lm(folder: Path, tokenizer: Any, told: bool) -> tuple[NetworkDenoiser, Facts]:
    found = read_pretrained(folder)
    denoiser = from_masked_lm(found, tokenizer)
    check_values(dict(denoiser.named_parameters()))
    # Without code of its own, a model ends in a linear layer or is refused.
    assert isinstance(denoiser, NetworkDenoiser)
    if told:
        found.tell()
    config = found.model.config
    named = {"hidden": "hidden_size", "blocks": "num_hidden_layers", "heads": "num_attention_heads"}
    sizes = {"vocab_size": denoiser.process.vocab_size, "longest": denoiser.longest}
    sizes |= {ours: getattr(config, theirs, None) for ours, theirs in named.items()}
    sizes["parameters"] = parameter_counts(denoiser)["total"]
    return denoiser, Facts(
        path=str(folder),
        container="folder of transformers",
        family=f"{type(found.model).__name__}, a masked language model",
        weights="published",
        available=["published"],
        ema="the only weights in the folder",
        sizes={name: value for name, value in sizes.items() if value is not None},
        mask=denoiser.process.mask,
        ignored=[f"{name} (not the network's)" for name in found.aside],
        notes=found.notes,
    )


def _downloaded(repository: str, hub: dict[str, Any]) -> Path:
    """The local copy of what a repository's model needs; only what is new is transferred."""
    if not is_repository(repository):
        raise FileNotFoundError(f"{HUB}{repository} names no repository; they are {HUB}owner/name")
    client = optional("huggingface_hub", f"reading {HUB}{repository}")

    def copied(*patterns: str) -> Path:
        try:
            return Path(client.snapshot_download(repository, allow_patterns=list(patterns), **hub))
        except (OSError, ValueError) as error:  # The client's own errors are one or the other.
            said = str(error).partition("\n")[0] or type(error).__name__
            raise FileNotFoundError(
                f"the repository {repository} could not be read: {said}"
            ) from None

    folder = copied(*MODEL_FILES)
    if is_original(folder) or is_masked_lm(folder):
        there = (folder / WEIGHTS_FILE).is_file()
        folder = copied(*_HUB_TEXTS, *((WEIGHTS_FILE,) if there else _HUB_WEIGHTS))
    return folder
