"""A denoiser maps (x_t, t) to a law over clean sequences; it knows its process and is counted."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fewjump.denoiser.evidence import SeenThrough
from fewjump.denoiser.publishing import Publishable
from fewjump.law.base import Law
from fewjump.law.product import ProductLaw, pin_logits
from fewjump.process import Absorbing, Process
from fewjump.schedule import Time, as_time


class Denoiser(Publishable, nn.Module, ABC):
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
        evaluations: number of calls so far, one per batch (the NFE counter).
    """

    process: Process
    length: int | None
    clean_vocab_size: int
    time_conditioned: bool = True
    padding: int | None = None
    longest: int | None = None

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

    @property
    def device(self) -> torch.device:
        """Device of the parameters (CPU when there are none)."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))


class LogitDenoiser(Denoiser):
    """A network that returns (B, L, V) logits of p(x₀ⁱ|x_t), as a denoiser.

    Args:
        network: callable (x_t (B, L) int64, t (B,) float64) → (B, L, V) logits. An ``nn.Module``
            is registered, so that its parameters train.
        process: the forward process. For an absorbing one the mask logit is removed and visible
            positions are certain (the SUBS parameterisation), whatever the network says there.
        length: default sequence length.
    """

    def __init__(
        self,
        network: Callable[[Tensor, Tensor], Tensor],
        process: Process,
        length: int | None = None,
        time_conditioned: bool = True,
    ) -> None:
        super().__init__(process, length)
        self.network = network
        self.time_conditioned = time_conditioned

    def law(self, x_t: Tensor, t: Tensor) -> ProductLaw:
        return ProductLaw(constrain_logits(self.network(x_t, t), x_t, self.process))


def constrain_logits(
    logits: Tensor, x_t: Tensor, process: Process, in_place: bool = False
) -> Tensor:
    """Impose what the process makes certain on (B, L, V) logits.

    Absorbing: a clean token is never the mask, and a visible position is its own clean token.
    A process seen through a network that left a position's own token out: that token's evidence.
    Another process with a mask: a clean token is never the mask. Kept tokens: certain where they
    are seen, impossible elsewhere. Otherwise unchanged.

    Args:
        logits: (B, L, V), overwritten when no gradient is recorded, so that nothing of that size
            is allocated.
        x_t: (B, L) int64.
        process: the forward process.
        in_place: overwrite them with gradients too. Only right where no backward pass reads
            ``logits``, as for the output of a linear layer.
    """
    recorded = torch.is_grad_enabled() and logits.requires_grad
    overwrite = in_place or not recorded
    if isinstance(process, SeenThrough):
        logits = process.add_evidence(logits, x_t, overwrite)
    if not isinstance(process, Absorbing):
        mask = () if process.mask is None else (process.mask,)
        logits = _forbid(logits, (*mask, *process.kept), overwrite)
        return pin_logits(logits, x_t, process.is_kept(x_t)) if process.kept else logits
    logits = _forbid(logits, process.kept, overwrite)
    visible = (x_t != process.mask)[..., None]
    # At x_t: certainty where it is visible; where it is the mask, that is the impossible token.
    at = torch.zeros_like(visible, dtype=logits.dtype).masked_fill_(~visible, -torch.inf)
    if recorded and not in_place:
        return logits.masked_fill(visible, -torch.inf).scatter(-1, x_t[..., None], at)
    if not recorded:
        # Whole rows, and only the visible ones: half the cost of a masked fill, or less.
        logits[visible[..., 0]] = -torch.inf
        return logits.scatter_(-1, x_t[..., None], at)
    return logits.masked_fill_(visible, -torch.inf).scatter_(-1, x_t[..., None], at)


def certain(x_t: Tensor, process: Process) -> Tensor:
    """Where x_t (B, L) says what x₀ is: visible positions of an absorbing process, kept tokens."""
    if isinstance(process, Absorbing):
        return x_t != process.mask
    return process.is_kept(x_t)


def _forbid(logits: Tensor, tokens: Sequence[int], overwrite: bool) -> Tensor:
    """Logits with −inf at some tokens of every position."""
    if not tokens:
        return logits
    index = torch.tensor(tokens, device=logits.device)
    return (logits.index_fill_ if overwrite else logits.index_fill)(-1, index, -torch.inf)
