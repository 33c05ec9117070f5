"""Training state in parts: each process writes its own, and any number of processes reads them.

    training_state.json          which folder holds the state, the step, and the run's identity
    training_state.NNNNNN/       torch.distributed.checkpoint: tensors only

The pointer is replaced when the new folder is whole, so the previous state stays valid until then.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.state_dict_loader import load as load_distributed
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from fewjump.files import naming, write_text
from fewjump.train.distributed import World
from fewjump.train.state import POINTER_FILE, STATE_FILE, ResumeError, check_identity, damaged

_FORMAT = 1


def save_shards(
    folder: Path,
    tensors: Mapping[str, Any],
    numbers: Mapping[str, Any],
    config: Mapping[str, Any],
    world: World,
) -> None:
    """Write a run's state; every process must call this.

    Args:
        folder: of the run.
        tensors: nested dictionaries of tensors, whole or split.
        numbers: plain data, ``step`` among them.
        config: the run's identity.
        world: the processes.
    """
    name = f"{Path(POINTER_FILE).stem}.{numbers['step']:06d}"
    path = folder / name
    if world.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        # What a killed save may have left.
        shutil.rmtree(path, ignore_errors=True)
    world.barrier()
    try:
        with naming(path):
            save_distributed(dict(tensors), checkpoint_id=path)
    except Exception:
        shutil.rmtree(path, ignore_errors=True)
        raise
    world.barrier()
    if not world.is_main:
        return
    content = {
        "format": _FORMAT,
        "folder": name,
        "config": json.dumps(config, sort_keys=True),
        "numbers": dict(numbers),
    }
    write_text(folder / POINTER_FILE, json.dumps(content, indent=1))
    for other in folder.glob(f"{Path(POINTER_FILE).stem}.[0-9]*"):
        if other.name != name:
            shutil.rmtree(other, ignore_errors=True)
    (folder / STATE_FILE).unlink(missing_ok=True)


def read_pointer(folder: Path, config: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """The plain part of a state in parts, or None if there is none.

    Raises:
        ResumeError: if it is damaged, was written by another version or, with ``config``, for
            another run.
    """
    path = folder / POINTER_FILE
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ResumeError(damaged(path, str(error))) from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ResumeError(
            f"{path} was written by another version of fewjump; choose a new output folder"
        )
    if {"folder", "config", "numbers"} - content.keys():
        raise ResumeError(damaged(path, "it lacks parts"))
    if Path(str(content["folder"])).name != content["folder"]:
        raise ResumeError(damaged(path, f"its parts lie in {content['folder']!r}, elsewhere"))
    if config is not None:
        check_identity(folder, json.loads(content["config"]), config)
    return content


def load_shards(folder: Path, tensors: Mapping[str, Any], world: World | None = None) -> None:
    """Read a state in parts into tensors, whole or split, in place.

    Args:
        folder: of the run.
        tensors: as they were given to :func:`save_shards`, in any splitting.
        world: the processes, all of which must call this; None reads in this one alone.

    Raises:
        ResumeError: if the parts are damaged, or are not what this version writes.
    """
    content = read_pointer(folder)
    if content is None:
        raise FileNotFoundError(f"{folder} has no {POINTER_FILE}")
    alone = world is None or world.size == 1
    reader = _Reader(folder / content["folder"])
    try:
        load_distributed(dict(tensors), storage_reader=reader, no_dist=alone)
    except CheckpointException as error:
        causes = "; ".join(str(cause) for cause, _ in error.failures.values())
        raise ResumeError(
            f"{reader.checkpoint_id} cannot be read: {causes}; put a copy of it back, or remove "
            f"{folder / POINTER_FILE} to train again from the start"
        ) from None


class _Reader(FileSystemReader):
    """Reads the metadata with an unpickler that can build them and nothing else."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = Path(self._get_metadata_path(kwargs.get("rank")))
        with open(path, "rb") as file:
            metadata = _Unpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError(f"{path} holds a {type(metadata).__name__}")
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Unpickler(pickle.Unpickler):
    # No bytes: torch would unpickle them without restriction, and a state has tensors alone.
    allowed: ClassVar[dict[str, set[str]]] = {
        "torch.distributed.checkpoint.metadata": {
            "Metadata",
            "MetadataIndex",
            "TensorStorageMetadata",
            "TensorProperties",
            "ChunkStorageMetadata",
            "StorageMeta",
            "_MEM_FORMAT_ENCODING",
        },
        "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "StorageMeta"},
        "torch.serialization": {"_get_layout"},
        "torch": {"Size", "device"},
        "pathlib": {"Path", "PosixPath", "WindowsPath"},
    }

    def find_class(self, module_name: str, global_name: str) -> Any:
        if global_name in self.allowed.get(module_name, ()):
            return super().find_class(module_name, global_name)
        if module_name == "torch" and isinstance(getattr(torch, global_name, None), torch.dtype):
            return getattr(torch, global_name)
        raise pickle.UnpicklingError(
            f"a training state must not contain {module_name}.{global_name}; do not resume from it"
        )


def optimiser_tensors(
    optimiser: torch.optim.Optimizer, names: Mapping[Tensor, str]
) -> dict[str, dict[str, Tensor]]:
    """An optimiser's state by parameter name, made if it is not there yet (all zero).

    Args:
        optimiser: AdamW, or another whose state are tensors.
        names: of its parameters.
    """
    if len(optimiser.state) < len(names):
        # AdamW makes a parameter's state in the first step that has a gradient for it.
        for parameter in names:
            if parameter not in optimiser.state:
                optimiser.state[parameter] = {
                    "step": torch.zeros(()),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
    return {name: dict(optimiser.state[parameter]) for parameter, name in names.items()}
