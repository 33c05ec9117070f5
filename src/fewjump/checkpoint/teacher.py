"""Load a SEDD, MDLM, UDLM or Duo checkpoint as a denoiser of this library."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch

from fewjump.checkpoint.assemble import build, check_values, checked_sizes, process_of
from fewjump.checkpoint.containers import Opened, Weights, opened
from fewjump.checkpoint.errors import CheckpointError
from fewjump.checkpoint.families import describe
from fewjump.checkpoint.folder import CONFIG_FILE, load, read_config
from fewjump.checkpoint.hub import download
from fewjump.checkpoint.sizes import Sizes
from fewjump.checkpoint.vocabulary import adopt_tokenizer, settle_vocabulary, tokenizer_config
from fewjump.denoiser import NetworkDenoiser, ScoreDenoiser, ScoreNetwork
from fewjump.process import Absorbing
from fewjump.reading import WeightsName
from fewjump.schedule import Schedule
from fewjump.tokenizing import HUB

OWN = "fewjump folder"


@dataclass
class Facts:
    """Where a teacher came from.

    Attributes:
        path: what was opened.
        container: the kind of file or folder.
        family: the original, or the kind of denoiser of this library's own folder.
        weights: which weights were read: ``ema`` or ``raw``.
        available: which there are.
        ema: what the average is, in words.
        sizes: of the network.
        mask: the mask's number, None without a mask.
        steps: optimiser steps behind the weights, where they are stored.
        ignored: what was left aside.
        notes: what had to be assumed.
    """

    path: str
    container: str
    family: str
    weights: str
    available: list[str]
    ema: str
    sizes: dict[str, Any]
    mask: int | None = None
    steps: int | None = None
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def load_teacher(
    path_or_hub_id: str | Path,
    weights: WeightsName = "ema",
    family: str | None = None,
    *,
    mask: int | None = None,
    schedule: Schedule | None = None,
    label: int | None = None,
    tokenizer: Any = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> NetworkDenoiser | ScoreDenoiser:
    """Load a checkpoint of SEDD, MDLM, UDLM or Duo, or a saved model of this library.

    What it is is read from its contents. Nothing in it is executed: pickles are read by a machine
    that can build tensors and plain values only, and no code of the originals is needed.

    Args:
        path_or_hub_id: a SEDD hub folder or run folder, a Lightning checkpoint, a Hugging Face
            folder, a folder of :func:`fewjump.save`; or, where no such path exists, the id of a
            hub repository (needs ``pip install 'fewjump[hub]'``).
        weights: ``ema`` for averaged weights, ``raw`` for those that were trained. Published
            folders hold the averaged ones only.
        family: ``sedd-absorb``, ``sedd-uniform``, ``mdlm``, ``udlm`` or ``duo``, for checkpoints
            without a configuration.
        mask: number of the mask, where the checkpoint's tokenizer does not say and it is not the
            last state.
        schedule: noise schedule, where the checkpoint does not state its own.
        label: class to condition a class-conditional checkpoint on; the last one stands for "no
            class". None adds no class embedding at all, as the originals do when they are given
            no class.
        tokenizer: what its tokens are: ``transformers`` or ``tokenizers`` object, a path, or
            ``hf:owner/name``. States that stand for none of them are kept (never noised, never
            generated).
        dtype: of the parameters.
        device: where to put them.

    Returns:
        The denoiser, in eval mode. ``raw_logits(x, sigma)`` is the output of the original network,
        ``log_score(x, sigma)`` its log-scores.

    Raises:
        FileNotFoundError: if there is neither such a path nor such a repository.
        CheckpointError: for everything that is wrong with the contents.
        ModuleNotFoundError: for a hub id without huggingface_hub.
    """
    denoiser, _ = read_teacher(
        path_or_hub_id,
        weights,
        family,
        mask=mask,
        schedule=schedule,
        label=label,
        tokenizer=tokenizer,
        dtype=dtype,
        device=device,
    )
    return denoiser


def read_teacher(
    path_or_hub_id: str | Path,
    weights: WeightsName = "ema",
    family: str | None = None,
    *,
    mask: int | None = None,
    schedule: Schedule | None = None,
    label: int | None = None,
    tokenizer: Any = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[NetworkDenoiser | ScoreDenoiser, Facts]:
    """As :func:`load_teacher`, with what was found out about the checkpoint."""
    if weights not in get_args(WeightsName):
        raise ValueError(f"weights must be 'ema' or 'raw', got {weights!r}")
    path = local_path(path_or_hub_id)
    own = own_folder(path)
    if own is not None:
        denoiser, facts = _own(own, weights, family, dtype, device)
        facts.notes += settle_vocabulary(denoiser, read_config(own)["data"], tokenizer, own)[1]
        return denoiser, facts
    vocabulary = None if tokenizer is None else tokenizer_config(tokenizer)
    with opened(path) as found:
        try:
            described = describe(found.config, family or _guessed(found))
            if "raw" in found.weights:
                # Before an average, which is a list, is matched with the names of these.
                checked_sizes(found.weights["raw"](), described)
            read = _chosen(found, weights)
            sizes = checked_sizes(read, described)
            process, notes = process_of(found, described, sizes, mask, schedule)
            denoiser = build(read, described, sizes, process, label, dtype)
            if vocabulary is not None:
                notes += adopt_tokenizer(denoiser, vocabulary, mask is not None)
        except CheckpointError as error:
            raise CheckpointError(f"{found.file}: {error}") from None
    if found.config is None:
        warnings.warn(f"{found.file}: {'; '.join(notes)}", stacklevel=3)
    facts = Facts(
        path=str(path_or_hub_id),
        container=found.container,
        family=described.family,
        weights=weights,
        available=sorted(found.weights),
        ema=_average_in_words(found),
        sizes=_sizes_in_words(sizes, denoiser),
        mask=process.mask if isinstance(process, Absorbing) else None,
        steps=found.steps,
        ignored=found.ignored,
        notes=notes,
    )
    return denoiser.to(device).eval(), facts


def local_path(path_or_hub_id: str | Path) -> Path:
    """The path itself if it exists, otherwise the folder that a hub repository was copied to.

    Raises:
        FileNotFoundError: if it is neither.
    """
    path = Path(path_or_hub_id)
    if path.exists():
        return path
    text = str(path_or_hub_id).removeprefix(HUB)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", text):
        raise FileNotFoundError(f"there is no file or folder {path}")
    return download(text)


def own_folder(path: Path) -> Path | None:
    """The folder of :func:`fewjump.save` that ``path`` or its ``model`` is, if one of them is."""
    for folder in (path, path / "model"):
        if (folder / CONFIG_FILE).is_file():
            try:
                read_config(folder)
            except ValueError as error:
                if "was not written by" in str(error) or "not valid JSON" in str(error):
                    continue
                raise CheckpointError(str(error)) from None
            return folder
    return None


def _own(
    folder: Path, weights: str, family: str | None, dtype: torch.dtype, device: Any
) -> tuple[NetworkDenoiser | ScoreDenoiser, Facts]:
    if weights == "raw":
        raise CheckpointError(_one_set(folder))
    if family is not None:
        raise CheckpointError(f"{folder} is a folder of fewjump.save; leave family out")
    try:
        denoiser = load(folder, device).to(dtype)
    except CheckpointError:
        raise
    except (ValueError, FileNotFoundError) as error:
        raise CheckpointError(str(error)) from None
    check_values(dict(denoiser.named_parameters()))
    return denoiser.eval(), own_facts(folder, denoiser)


def own_facts(folder: Path, denoiser: NetworkDenoiser | ScoreDenoiser) -> Facts:
    """Where a saved model of this library came from."""
    trunk = denoiser.trunk if isinstance(denoiser, NetworkDenoiser) else None
    if isinstance(denoiser, ScoreDenoiser) and isinstance(denoiser.network, ScoreNetwork):
        trunk = denoiser.network.trunk
    process = denoiser.process
    kind = f"{denoiser.kind} student" if isinstance(denoiser, NetworkDenoiser) else "score network"
    return Facts(
        path=str(folder),
        container=OWN,
        family=kind,
        weights="ema",
        available=["ema"],
        ema="the weights that were saved (averaged, where training averaged them)",
        sizes={} if trunk is None else trunk.config.config(),
        mask=process.mask if isinstance(process, Absorbing) else None,
    )


def _guessed(found: Opened) -> str | None:
    """SEDD's run folders may come without a configuration; its code's default masks."""
    return "sedd-absorb" if found.container == "SEDD run folder" and found.config is None else None


def _chosen(found: Opened, weights: WeightsName) -> Weights:
    if weights in found.weights:
        return found.weights[weights]()
    if weights == "ema":
        raise CheckpointError(
            "there is no average (ema) in the checkpoint, only the trained weights; ask for "
            "weights='raw'"
        )
    raise CheckpointError(_one_set(found.file))


def _one_set(path: Path) -> str:
    return (
        f"{path} holds one set of weights, the published or averaged one, which is what "
        "weights='ema' (--weights ema) means; there are no others to be read with weights='raw'"
    )


def _average_in_words(found: Opened) -> str:
    if "raw" not in found.weights:
        return "the only weights in the folder; the originals publish the average"
    if "ema" not in found.weights:
        return "not in the checkpoint"
    decay = "" if found.decay is None else f", decay {found.decay:g}"
    return f"ema.shadow_params, a list in the order of the parameters{decay}"


def _sizes_in_words(sizes: Sizes, denoiser: NetworkDenoiser | ScoreDenoiser) -> dict[str, Any]:
    return {
        "vocab_size": sizes.vocab_size,
        "length": denoiser.length,
        "hidden": sizes.hidden,
        "blocks": sizes.blocks,
        "heads": sizes.heads,
        "condition_dim": sizes.condition_dim,
        "classes": sizes.classes,
        "parameters": sum(p.numel() for p in denoiser.parameters()),
        "time_conditioned": denoiser.time_conditioned
        if isinstance(denoiser, NetworkDenoiser)
        else True,
    }
