"""A head whose law is a squared tensor train over the product law."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fewjump.config import check_counts
from fewjump.denoiser.heads import JointHead, ProductHead
from fewjump.denoiser.joint_heads.states import checked_template
from fewjump.denoiser.transformer import zero_linear
from fewjump.law.autoregressive import AutoregressiveLaw
from fewjump.law.tensor_train import TensorTrain
from fewjump.process import Process


class TensorTrainHead(JointHead):
    """p(x₀|x_t) ∝ Πᵢ softmax(uᵢ)(x₀ⁱ)·‖G(x₀ᴸ) S_L ⋯ G(x₀¹) S₁ ℓ‖².

    u are the product logits of the trunk, S diagonal, from 1/e to e, by its features; a matrix G
    for every token and ℓ are shared by all positions and inputs
    (:class:`~fewjump.law.tensor_train.TensorTrain`). It starts with orthogonal G and S = 1: the law
    *is* the product law. A visible token tells all others through the train, exactly.

    Args:
        hidden: width D of the features.
        vocab_size: number of states V of the process.
        bond: size of the matrices; a training step costs L·V·bond³, a drawn token V·bond².
        length: if given, adds a free diagonal for each of ``length`` positions.
        table_rate: multiple of the learning rate for what no layer stands in front of.
    """

    kind = "tensor-train"
    vanishing = ("scale.weight", "scale.bias", "template")
    autoregressive = True

    def __init__(
        self,
        hidden: int,
        vocab_size: int,
        bond: int = 16,
        length: int | None = None,
        table_rate: float = 15.0,
    ) -> None:
        super().__init__(hidden, vocab_size)
        check_counts(bond=bond)
        if not 0 < table_rate < math.inf:
            raise ValueError(f"table_rate must be above 0, got {table_rate}")
        self.bond, self.length, self.table_rate = bond, length, table_rate
        self.scale = zero_linear(hidden, bond)
        self.cores = nn.Parameter(_orthogonal(torch.randn(vocab_size, bond, bond)))
        self.left = nn.Parameter(torch.randn(bond) * bond**-0.5)
        self.template = None if length is None else nn.Parameter(torch.zeros(length, bond))
        for table in (self.cores, self.left, self.template):
            if table is not None:
                table.lr_scale = table_rate  # type: ignore[attr-defined]

    def forward(self, features: Tensor, x_t: Tensor, process: Process) -> AutoregressiveLaw:
        logits = self.base(features, x_t, process).logits
        scale = self.scale(features)
        if self.template is not None:
            scale = scale + checked_template(self.template, features.shape[1])
        # Bounded: what scales one direction far above the others cuts the train.
        return AutoregressiveLaw(TensorTrain(logits, self.cores, self.left, scale.tanh()))

    def warm_start(self, product: ProductHead) -> None:
        super().warm_start(product)
        self.cores.data.copy_(_orthogonal(self.cores.data))


def _orthogonal(matrices: Tensor) -> Tensor:
    """Orthogonal factors Q of matrices (V, D, D) = QR."""
    return torch.linalg.qr(matrices.double())[0].to(matrices.dtype)
