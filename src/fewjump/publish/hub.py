"""Models as folders and as repositories of the Hugging Face hub: the same three files.

A folder needs the core dependencies only. Nothing in it is code, and nothing of a repository but
those three files is downloaded; of a checkpoint of SEDD, MDLM, UDLM or Duo what those have.
"""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from fewjump.checkpoint import read_config, save
from fewjump.checkpoint.card import model_card
from fewjump.checkpoint.folder import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from fewjump.checkpoint.hub import PATTERNS
from fewjump.checkpoint.opening import is_original, model_place, open_place
from fewjump.reading import ReadingOptions

if TYPE_CHECKING:
    import torch

    from fewjump.denoiser import Denoiser

FILES = (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE)
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def save_pretrained(
    denoiser: Denoiser,
    folder: str | Path,
    *,
    vocabulary: Any = None,
    metrics: Any = None,
    training: Any = None,
) -> Path:
    """Write a denoiser as a folder of config.json, model.safetensors and a model card.

    Args:
        denoiser: the model.
        folder: replaced if it holds a model already.
        vocabulary: what the tokens stand for; by default what the model was loaded with.
        metrics: measured numbers for the card: result rows (the card shows them by number of
            network evaluations), the path of a ``results.json``, or other plain data.
        training: how the model was made, plain data.

    Returns:
        The folder.

    Raises:
        ValueError, FileNotFoundError: see :func:`fewjump.save` and
            :func:`fewjump.report.read_results`.
    """
    return save(
        denoiser,
        folder,
        vocabulary=denoiser.vocabulary_config if vocabulary is None else vocabulary,
        metrics=_rows(metrics),
        training=training,
    )


def from_pretrained(
    source: str | Path,
    device: torch.device | str = "cpu",
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    **reading: Any,
) -> Denoiser:
    """Read a model from a folder, a run's folder, or a hub repository.

    A folder or repository of ``transformers`` that holds a masked language model is read as
    :func:`fewjump.denoiser.from_masked_lm` does, a checkpoint of SEDD, MDLM, UDLM or Duo as
    :func:`fewjump.load_teacher` does.

    Args:
        source: a folder, a checkpoint's file, or ``owner/name``. A path of that name wins.
        device: where to put the parameters.
        revision: branch, tag or commit of a repository.
        cache_dir: where downloads are kept; the hub library's own place by default.
        token: a hub token, or True for the one that is stored on this machine.
        local_files_only: do not ask the network.
        **reading: ``weights``, ``family``, ``mask`` and ``label`` of
            :func:`fewjump.load_teacher`, for such a checkpoint.

    Returns:
        The denoiser in eval mode, with its ``vocabulary_config``.

    Raises:
        FileNotFoundError: if there is no such folder and the name is no repository's.
        ModuleNotFoundError: for a repository, without the ``hub`` extra.
        TypeError: for an option that there is not.
        ValueError: see :func:`fewjump.load`; for ``reading`` of another model.
    """
    unknown = reading.keys() - {field.name for field in fields(ReadingOptions)}
    if unknown:
        raise TypeError(f"from_pretrained has no options {', '.join(sorted(unknown))}")
    folder = resolve(
        source,
        revision=revision,
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only,
    )
    # Of a repository of transformers only the configuration was needed to know what it is.
    name = None if Path(source).exists() else str(source)
    denoiser, denoiser.vocabulary_config = open_place(folder, device, reading, name)
    return denoiser


def push_to_hub(
    denoiser: Denoiser,
    repo_id: str,
    *,
    vocabulary: Any = None,
    metrics: Any = None,
    training: Any = None,
    private: bool = False,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload a fewjump model",
    create_pr: bool = False,
) -> str:
    """Upload a denoiser's three files to a repository, which is made if need be.

    Args:
        denoiser: the model.
        repo_id: ``owner/name``.
        vocabulary, metrics, training: as for :func:`save_pretrained`.
        private: whether a new repository is.
        token: a hub token; by default the one that is stored on this machine.
        revision: the branch.
        commit_message: of the one commit.
        create_pr: propose the change instead of making it.

    Returns:
        The address of the commit.

    Raises:
        ModuleNotFoundError: without the ``hub`` extra.
        ValueError: for a name that is no repository's, or a model that cannot be saved.
    """
    if not _REPOSITORY.fullmatch(repo_id):
        raise ValueError(f"a repository is named owner/name, got {repo_id!r}")
    api = _hub().HfApi(token=token)
    # Everything that can be wrong with the model is found before anything is made on the hub.
    with TemporaryDirectory() as scratch:
        folder = save_pretrained(
            denoiser,
            Path(scratch) / repo_id.partition("/")[2],
            vocabulary=vocabulary,
            metrics=metrics,
            training=training,
        )
        card = model_card(folder.name, denoiser, read_config(folder), source=repo_id)
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
        )
    return str(commit.commit_url)


def resolve(source: str | Path, **hub: Any) -> Path:
    """The place of a model that ``source`` means, downloaded if it is a repository.

    Args:
        source: as for :func:`from_pretrained`.
        **hub: arguments of ``huggingface_hub.snapshot_download``.
    """
    path = Path(source)
    if path.exists():
        return model_place(path)
    if not _REPOSITORY.fullmatch(str(source)):
        raise FileNotFoundError(
            f"there is no {source}; give a folder that holds {CONFIG_FILE}, the folder of a run, a "
            "checkpoint of SEDD, MDLM, UDLM or Duo, or a repository as owner/name"
        )
    folder = Path(_hub().snapshot_download(str(source), allow_patterns=list(FILES), **hub))
    if is_original(folder):
        folder = Path(_hub().snapshot_download(str(source), allow_patterns=list(PATTERNS), **hub))
    return folder


def _hub() -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "repositories need huggingface_hub: pip install 'fewjump[hub]'"
        ) from error
    return huggingface_hub


def _rows(metrics: Any) -> Any:
    if not isinstance(metrics, str | Path):
        return metrics
    from fewjump.report import read_results

    return read_results(metrics)[0]
