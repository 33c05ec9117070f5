"""Cross-entropies of product laws at chosen positions, in chunks; deferred laws stay deferred."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from fewjump.law.cross_entropy import SoftCrossEntropy
from fewjump.law.product import ProductLaw


class LawCrossEntropy(NamedTuple):
    """Result of :func:`law_cross_entropy`.

    Attributes:
        total: () Σ row_weight·cross_entropy in nats, with gradients.
        rows: the terms; no gradients to rely on.
    """

    total: Tensor
    rows: SoftCrossEntropy


def law_cross_entropy(
    law: ProductLaw, target: ProductLaw, rows: Tensor, row_weight: Tensor
) -> LawCrossEntropy:
    """Weighted cross-entropy of a student's law against a teacher's at the chosen positions.

    Args:
        law: the student's, with gradients.
        target: the teacher's, without.
        rows: (N,) int64 positions, counted row-major over (B, L).
        row_weight: (N,) constants.
    """
    terms = law.soft_cross_entropy(target, rows, row_weight)
    return LawCrossEntropy(terms.total, terms)


def law_token_cross_entropy(law: ProductLaw, tokens: Tensor, rows: Tensor) -> Tensor:
    """−log p(token) of a law at the chosen positions: (B, L) and (N,) int64 → (N,) nats."""
    return law.token_cross_entropy(tokens.reshape(-1), rows)


def expectation(weights: Tensor, values: Tensor) -> Tensor:
    """Σ weights·values over the last axis, where 0·(±inf) = 0."""
    return (weights * values.masked_fill(weights == 0, 0.0)).sum(-1)
