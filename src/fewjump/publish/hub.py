"""Models as repositories of the Hugging Face hub: the same three files as in a folder.

What ``transformers``' users expect as methods of a model ends here
(:mod:`fewjump.denoiser.publishing`).
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from fewjump.checkpoint import read_config, save
from fewjump.checkpoint.card import model_card
from fewjump.checkpoint.folder import CARD_FILE
from fewjump.checkpoint.opening import is_repository, open_model, place_of
from fewjump.checkpoint.originals import Reading
from fewjump.tokenizing import HUB, require

if TYPE_CHECKING:
    import torch

    from fewjump.denoiser import Denoiser


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
    """Open a model as :func:`fewjump.load` does, with a say in how a repository is downloaded.

    Args:
        source: what :func:`fewjump.load` takes, or a repository as ``owner/name`` alone. A path of
            that name wins.
        device: where to put the parameters.
        revision: branch, tag or commit of a repository.
        cache_dir: where downloads are kept; the hub library's own place by default.
        token: a hub token, or True for the one that is stored on this machine.
        local_files_only: do not ask the network.
        **reading: further options of :func:`fewjump.load`.

    Raises:
        TypeError: for an option that there is not.
        FileNotFoundError, ValueError, ModuleNotFoundError: as :func:`fewjump.load` does.
    """
    if is_repository(source) and not Path(source).exists():
        source = f"{HUB}{source}"
    place = place_of(
        source,
        revision=revision,
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only,
    )
    return open_model(place, Reading(**reading), device)[0]


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
        vocabulary, metrics, training: as for :func:`fewjump.save`.
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
    if not is_repository(repo_id):
        raise ValueError(f"a repository is named owner/name, got {repo_id!r}")
    api = require("huggingface_hub", "pushing a model").HfApi(token=token)
    # Everything that can be wrong with the model is found before anything is made on the hub.
    with TemporaryDirectory() as scratch:
        folder = save(
            denoiser,
            Path(scratch) / repo_id.partition("/")[2],
            vocabulary=vocabulary,
            metrics=metrics,
            training=training,
        )
        card = model_card(folder.name, denoiser, read_config(folder), source=HUB + repo_id)
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
