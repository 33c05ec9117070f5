"""A denoiser maps (x_t, t) to a law over clean sequences; it knows its process and is counted."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from fewjump.law.base import Law
from fewjump.process import Process
from fewjump.registry import ENTRY_POINTS
from fewjump.schedule import Time, as_time


class Denoiser(nn.Module, ABC):
    """Base of everything that samplers and objectives call.

    Subclasses implement :meth:`law`; calling the denoiser counts the evaluation.

    Attributes:
        process: the forward process the denoiser inverts.
        length: sequence length L it generates by default, or None where any will do.
        longest: tokens of the longest sequence it has positions for; None for any.
        clean_vocab_size: tokens a clean sequence may hold: {0..clean_vocab_size−1}. Smaller than
            ``process.vocab_size`` when the last state is a mask.
        time_conditioned: whether the law depends on t given x_t.
        padding: the token after the end of a short sequence, where the denoiser has one: it is
            not attended to, and does not change what is said of other positions.
        autoregressive: whether its laws are autoregressive, and can be drawn in several ways (see
            :mod:`fewjump.law.decoding`).
        evaluations: number of calls so far, one per batch (the NFE counter).
        vocabulary_config: what the tokens stand for, as plain data, where the model came from a
            folder that says so; saving keeps it.
        grids: time grids fitted to the model, as plain data (:mod:`fewjump.sampler.carried_grids`);
            saving keeps them while the model is what they were fitted to.
    """

    process: Process
    length: int | None
    clean_vocab_size: int
    time_conditioned: bool = True
    padding: int | None = None
    longest: int | None = None
    vocabulary_config: dict[str, Any] | None = None
    grids: dict[str, Any] | None = None
    autoregressive: bool = False

    def __init__(
        self, process: Process, length: int | None = None, clean_vocab_size: int | None = None
    ) -> None:
        super().__init__()
        self.process = process
        self.length = length
        if clean_vocab_size is None:
            clean_vocab_size = process.vocab_size - (process.mask == process.vocab_size - 1)
        self.clean_vocab_size = clean_vocab_size
        self.evaluations = 0

    @abstractmethod
    def law(self, x_t: Tensor, t: Tensor) -> Law:
        """p(x₀|x_t) for x_t (B, L) int64 and t (B,) float64 on the same device.

        What it says of a row depends on that row alone: samplers split batches, and show rows that
        are alike only once.
        """

    def forward(self, x_t: Tensor, t: Time) -> Law:
        """p(x₀|x_t) for x_t (B, L) int64 and t a float or a (B,) tensor."""
        self.evaluations += 1
        return self.law(x_t, as_time(t, x_t.device).double().expand(x_t.shape[0]))

    def check_length(self, length: int) -> None:
        """Raise ValueError for sequences longer than the network has positions for."""
        if self.longest is not None and length > self.longest:
            raise ValueError(
                f"this model takes at most {self.longest} tokens (its positions end there), not "
                f"{length}; give a length of {self.longest} or less"
            )

    def as_student(self) -> Denoiser:
        """A trainable copy, for a student that starts here; its own evaluations are counted."""
        model = copy.deepcopy(self).requires_grad_(True)
        model.evaluations = 0
        return model

    def product_layer(self) -> nn.Module | None:
        """The layer whose softmax over clean tokens is the law, if there is one."""
        return None

    @property
    def device(self) -> torch.device:
        """Device of the parameters (CPU when there are none)."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    # The methods by which models of transformers are used and published: the one upward call.

    @classmethod
    def from_pretrained(
        cls, source: str | Path, device: torch.device | str = "cpu", **options: Any
    ) -> Self:
        """Open a model of this class; options of :func:`fewjump.publish.hub.from_pretrained`.

        Raises:
            ValueError: also if what was saved is a denoiser of another class.
        """
        model = ENTRY_POINTS["from_pretrained"](source, device, **options)
        if not isinstance(model, cls):
            raise ValueError(
                f"{source} holds a {type(model).__name__}, not a {cls.__name__}; use fewjump.load, "
                "which takes any"
            )
        return model

    def save_pretrained(self, folder: str | Path, **options: Any) -> Path:
        """Write the model's folder, as :func:`fewjump.save` does."""
        return ENTRY_POINTS["save_pretrained"](self, folder, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the model; options of :func:`fewjump.publish.hub.push_to_hub`."""
        return ENTRY_POINTS["push_to_hub"](self, repo_id, **options)

    def generate(self, input_ids: Tensor | None = None, **options: Any) -> Tensor:
        """Continue rows of tokens; options of :func:`fewjump.publish.hub.generate`."""
        return ENTRY_POINTS["generate"](self, input_ids, **options)
