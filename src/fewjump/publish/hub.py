"""What ``transformers``' users expect as methods of a model (:class:`fewjump.denoiser.Denoiser`).

Models as repositories of the Hugging Face hub, the same three files as in a folder; and sampling
under the argument names of ``generate``.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewjump.checkpoint import read_config, save
from fewjump.checkpoint.card import model_card
from fewjump.checkpoint.folder import CARD_FILE
from fewjump.checkpoint.opening import is_repository, open_model, place_of
from fewjump.checkpoint.originals import Reading
from fewjump.config import check_count, optional
from fewjump.sampler.run import run
from fewjump.tokenizing import HUB

if TYPE_CHECKING:
    from fewjump.denoiser import Denoiser
    from fewjump.sampler.base import Sampler
    from fewjump.sampler.time_grid import GridSpec


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
        repo_id: ``owner/name``.
        vocabulary, metrics, training: as for :func:`fewjump.save`.
        private: whether a new repository is.
        token: a hub token; by default the one that is stored on this machine.
        create_pr: propose the change instead of making it.

    Returns:
        The address of the commit.

    Raises:
        ModuleNotFoundError: without the ``hub`` extra.
        ValueError: for a name that is no repository's, or a model that cannot be saved.
    """
    if not is_repository(repo_id):
        raise ValueError(f"a repository is named owner/name, got {repo_id!r}")
    api = optional("huggingface_hub", "pushing a model").HfApi(token=token)
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


def generate(
    denoiser: Denoiser,
    input_ids: Tensor | None = None,
    *,
    attention_mask: Tensor | None = None,
    max_new_tokens: int | None = None,
    max_length: int | None = None,
    num_return_sequences: int = 1,
    num_inference_steps: int = 8,
    do_sample: bool = True,
    temperature: float = 1.0,
    top_p: float = 1.0,
    generator: torch.Generator | int | None = None,
    padding: int | None = None,
    label: int | None = None,
    guidance: float | None = None,
    sampler: str | Sampler | None = None,
    grid: GridSpec | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Continue rows of tokens; tokens that are the process's mask are drawn (infilling).

    All new tokens of a row are drawn together, in ``num_inference_steps`` steps, conditioned on
    those that are given.

    Args:
        denoiser: any.
        input_ids: (B, P) int64, or None for rows that begin with nothing.
        attention_mask: (B, P); where it is 0 there is no token. What remains of a row is moved to
            the left.
        max_new_tokens: tokens to draw after each row.
        max_length: tokens of the longest row, instead.  By default the denoiser's own length.
        num_return_sequences: samples of each row, side by side in the output.
        num_inference_steps: intervals of the time grid.
        do_sample: False takes the most likely token at every draw (temperature 0).
        temperature, top_p, generator, label, guidance, sampler, grid, batch_size: see
            :func:`fewjump.sampler.run`.
        padding: fills up the shorter rows, at the right; the denoiser's own by default.

    Returns:
        (B·num_return_sequences, L) int64, the given tokens included.

    Raises:
        ValueError: for arguments that make no sense, before anything is computed.
    """
    check_count(num_return_sequences, "num_return_sequences")
    rows = _rows(input_ids, attention_mask)
    if not rows:
        raise ValueError("input_ids has no rows; give one for each sequence, which may be empty")
    sizes = torch.tensor([len(row) for row in rows])
    ends = _ends(denoiser, sizes, max_new_tokens, max_length)
    length = int(ends.max())
    padding = denoiser.padding if padding is None else padding
    if bool((ends < length).any()) and padding is None:
        raise ValueError(
            "rows of different lengths need a padding token: pass padding=, or max_length= to end "
            "all rows at the same place"
        )
    tokens = torch.zeros(len(rows), length, dtype=torch.int64)
    fixed = torch.zeros(len(rows), length, dtype=torch.bool)
    mask = denoiser.process.mask
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
        fixed[i, : len(row)] = True if mask is None else row != mask
        if ends[i] < length:
            assert padding is not None
            tokens[i, ends[i] :], fixed[i, ends[i] :] = padding, True
    result = run(
        denoiser,
        len(rows) * num_return_sequences,
        num_inference_steps,
        sampler,
        grid,
        generator,
        length=length,
        batch_size=batch_size,
        prompt=tokens.repeat_interleave(num_return_sequences, 0),
        fixed=fixed.repeat_interleave(num_return_sequences, 0),
        label=label,
        guidance=guidance,
        temperature=temperature if do_sample else 0.0,
        top_p=top_p,
    )
    return result.samples


def _rows(input_ids: Tensor | None, attention_mask: Tensor | None) -> list[Tensor]:
    if input_ids is None:
        if attention_mask is not None:
            raise ValueError("attention_mask belongs to input_ids; pass both or neither")
        return [torch.zeros(0, dtype=torch.int64)]
    if input_ids.dim() != 2 or input_ids.is_floating_point():
        raise ValueError(
            f"input_ids must be (B, P) integers, got {input_ids.dtype} {tuple(input_ids.shape)}"
        )
    table = input_ids.cpu().long()
    if attention_mask is None:
        return list(table)
    if attention_mask.shape != table.shape:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, input_ids "
            f"{tuple(table.shape)}; they must agree"
        )
    return [row[seen] for row, seen in zip(table, attention_mask.cpu().bool())]


def _ends(
    denoiser: Denoiser, sizes: Tensor, max_new_tokens: int | None, max_length: int | None
) -> Tensor:
    """Where each row ends: (B,)."""
    if max_new_tokens is not None and max_length is not None:
        raise ValueError("give either max_new_tokens or max_length, not both")
    if max_new_tokens is not None:
        if max_new_tokens < 0:
            raise ValueError(f"max_new_tokens must be at least 0, got {max_new_tokens}")
        ends = sizes + max_new_tokens
    else:
        end = denoiser.length if max_length is None else max_length
        if end is None:
            raise ValueError(
                "this denoiser has no length of its own; pass max_new_tokens= or max_length="
            )
        ends = torch.full_like(sizes, end)
    if bool((ends < sizes).any()) or int(ends.max()) < 1:
        raise ValueError(
            f"rows of up to {int(sizes.max())} tokens do not fit into {int(ends.max())}; pass a "
            "larger max_length"
        )
    return ends
