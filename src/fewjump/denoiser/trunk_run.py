"""The trunk on one batch, to be run when and as often as a head asks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor

from fewjump.denoiser.evidence import SeenThrough
from fewjump.denoiser.transformer import Transformer
from fewjump.process import Process

if TYPE_CHECKING:
    from fewjump.denoiser.huggingface import HuggingFaceTrunk
    from fewjump.law.base import Law

LawType = TypeVar("LawType", bound="Law")
Read = Callable[[Tensor, Tensor, Process], LawType]


class TrunkRun:
    """What a denoiser was asked, with the network that answers.

    A latent law runs the trunk when it is sampled or scored, which may be long after the denoiser
    was called. It then still uses the precision and the gradient mode of that call.

    Args:
        trunk: the network.
        x_t: (B, L) int64.
        level: (B,) noise level as the trunk wants it.
        process: the forward process.
        autocast: dtype of autocast, or None for the setting that surrounds this call.
        leave_one_out: see :class:`~fewjump.denoiser.network.NetworkDenoiser`.
    """

    def __init__(
        self,
        trunk: Transformer | HuggingFaceTrunk,
        x_t: Tensor,
        level: Tensor,
        process: Process,
        autocast: torch.dtype | None = None,
        leave_one_out: bool = False,
    ) -> None:
        self.leave_one_out = leave_one_out
        self.trunk, self.x_t, self.level, self.process = trunk, x_t, level, process
        device = x_t.device.type
        if autocast is None and torch.is_autocast_enabled(device):
            autocast = torch.get_autocast_dtype(device)
        self.autocast = autocast
        self.with_gradients = torch.is_grad_enabled()

    def __call__(
        self,
        read: Read[LawType],
        shift: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> LawType:
        """Run the trunk and have ``read`` turn its features into a law.

        Args:
            read: (features (N, L, D), x_t (N, L), process) → law, such as a head.
            shift: (N, L, D) or (N, 1, D), added to the embedded tokens.
            rows: (N,) int64, the batch rows to run; all of them by default.
        """
        x_t, level = self.x_t, self.level
        if rows is not None:
            x_t, level = x_t[rows], level[rows]
        precision = contextlib.nullcontext()
        if self.autocast is not None:
            precision = torch.autocast(x_t.device.type, dtype=self.autocast)
        gradients = torch.is_grad_enabled() and self.with_gradients
        process = self.process
        if self.leave_one_out:
            process = cast(Process, SeenThrough(process, level))
        with torch.set_grad_enabled(gradients), precision:
            return read(self.trunk.features(x_t, level, shift), x_t, process)
