"""What a tokenizer says of a model's states: which of them no token has, and which is the mask.

One rule for every kind of model. A number that no token has is *kept*: it is never noised and never
generated (:attr:`fewjump.process.Process.kept`). A model may have such numbers because its rows
were padded to a round number, or because the tokenizer's own numbers have holes.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from fewjump.checkpoint.errors import CheckpointError
from fewjump.denoiser import Denoiser
from fewjump.process import Process, process_from_config
from fewjump.tokenizing import describe_tokenizer, open_tokenizer, unused_tokens

_LOG = logging.getLogger("fewjump")


def tokenizer_config(tokenizer: Any) -> dict[str, Any]:
    """The description of a vocabulary (``vocabulary_config``) that a tokenizer gives.

    Args:
        tokenizer: what :func:`fewjump.tokenizing.open_tokenizer` takes.
    """
    return {"name": "tokenizer", **describe_tokenizer(open_tokenizer(tokenizer))}


def adopt_tokenizer(
    denoiser: Denoiser, described: dict[str, Any], mask_given: bool = False
) -> list[str]:
    """Give a model that does not say what its tokens are a tokenizer.

    Args:
        denoiser: of any kind; its ``process`` then keeps what no token has, and its
            ``vocabulary_config`` is the tokenizer's.
        described: :func:`tokenizer_config`.
        mask_given: the user has said which state is the mask, so that a mask of the tokenizer's
            that is another one is an ordinary token.

    Returns:
        What was decided, in words.

    Raises:
        CheckpointError: for a tokenizer with more tokens than the model, or with another mask.
    """
    mask, own, size = denoiser.process.mask, described["mask"], described["size"]
    fits = denoiser.process.vocab_size if own == mask else denoiser.clean_vocab_size
    if size > fits:
        raise CheckpointError(
            f"the tokenizer has {size} tokens and the model {denoiser.clean_vocab_size} (largest "
            "number + 1, a mask on top aside); give the one that the model was trained with"
        )
    if None not in (mask, own) and mask != own and not mask_given:
        raise CheckpointError(
            f"the tokenizer's mask is token {own}, the model's is {mask}; give the tokenizer that "
            "the model was trained with, or, for a checkpoint that does not state its mask, say "
            f"which it is: --mask {own} or --mask {mask} (mask=)"
        )
    denoiser.vocabulary_config = described
    return keep_unused(denoiser, described)


def settle_vocabulary(
    denoiser: Denoiser, described: dict[str, Any] | None, tokenizer: Any, place: Path
) -> tuple[dict[str, Any] | None, list[str]]:
    """The description of a saved model's vocabulary, and what was decided, in words.

    Args:
        denoiser: the model.
        described: what was saved of its vocabulary, if anything was.
        tokenizer: what the user says that it is, or None.
        place: of the model, for messages.

    Raises:
        CheckpointError: for a tokenizer where the model has a vocabulary, or that is not the
            model's.
    """
    if tokenizer is None:
        denoiser.vocabulary_config = described
        return described, keep_unused(denoiser, described)
    if described:
        raise CheckpointError(f"the model in {place} has a vocabulary; leave out --tokenizer")
    given = tokenizer_config(tokenizer)
    return given, adopt_tokenizer(denoiser, given)


def keep_unused(denoiser: Denoiser, described: dict[str, Any] | None) -> list[str]:
    """Let the process of a model keep the numbers that no token has; what was done, in words."""
    if not described or described.get("name") != "tokenizer":
        return []
    process = denoiser.process
    missing = unused_tokens(described, process.vocab_size) - {process.mask, *process.kept}
    if not missing:
        return []
    try:
        keeping = process_from_config(
            {**process.config(), "kept": sorted({*process.kept, *missing})}
        )
    except ValueError:
        _LOG.warning(
            "%d of %d states stand for no token, and a %s process cannot keep them: they may be "
            "generated",
            len(missing),
            process.vocab_size,
            type(process).__name__,
        )
        return []
    _replace(denoiser, process, keeping)
    return [f"{len(missing)} states that stand for no token are kept: they are never generated"]


def _replace(denoiser: Denoiser, old: Process, new: Process) -> None:
    for module in denoiser.modules():
        if getattr(module, "process", None) is old:
            module.process = new  # type: ignore[assignment]
