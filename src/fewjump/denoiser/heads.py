"""Heads: features (B, L, D) → a law. What kind of student a network is, its head decides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from inspect import signature
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from fewjump.denoiser.deferred import constrained_law, deferred_law, defers
from fewjump.denoiser.transformer import zero_linear
from fewjump.denoiser.trunk_run import TrunkRun
from fewjump.law.base import Law
from fewjump.law.product import ProductLaw
from fewjump.process import Process


class Head(nn.Module, ABC):
    """Base of every head.

    Subclasses set :attr:`kind`, register themselves with :func:`register_head`, and take only
    keyword arguments that :meth:`config` returns.

    Args:
        hidden: width D of the features.
        vocab_size: number of states V of the process, a mask included.

    Attributes:
        kind: the student's name, as the user types it: ``product``, ...
        fixed_length: whether it is for sequences of one ``length``, which follows from the
            denoiser's where the options leave it out.
    """

    kind: ClassVar[str]
    fixed_length: ClassVar[bool] = False

    def __init__(self, hidden: int, vocab_size: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.vocab_size = vocab_size

    @abstractmethod
    def forward(self, features: Tensor, x_t: Tensor, process: Process) -> Law:
        """The law of x₀ given features (B, L, D) of x_t (B, L).

        The law must already know what ``process`` makes certain (see
        :func:`fewjump.denoiser.base.constrain_logits`).
        """

    def check_process(self, process: Process) -> None:
        """Refuse a forward process that this head is not for; most heads are for any.

        Raises:
            ValueError: naming a head that is.
        """

    def law(self, run: TrunkRun) -> Law:
        """The law of x₀ for the batch of ``run``: the trunk once, then :meth:`forward`.

        Heads that also enter at the trunk's input override this.
        """
        return run(self)

    def adopt(self, other: Head) -> bool:
        """Take over another head's parameters if it has the same law; whether it had."""
        if not isinstance(other, type(self)) or other.config() != self.config():
            return False
        self.load_state_dict(other.state_dict())
        return True

    @abstractmethod
    def warm_start(self, product: ProductHead) -> None:
        """Set the parameters so that this head's law equals that of ``product`` (same sizes)."""

    def config(self) -> dict[str, Any]:
        """Plain data from which :func:`head_from_config` rebuilds it.

        The arguments of the constructor, each read from the attribute of its name.
        """
        options = {name: getattr(self, name) for name in signature(type(self)).parameters}
        return {
            "kind": self.kind,
            **{k: list(v) if isinstance(v, tuple) else v for k, v in options.items()},
        }


HEADS: dict[str, type[Head]] = {}

HeadType = TypeVar("HeadType", bound=type[Head])


def register_head(cls: HeadType) -> HeadType:
    """Class decorator: make a head known by its :attr:`~Head.kind`.

    Raises:
        ValueError: if another class has that name.
    """
    if HEADS.setdefault(cls.kind, cls) is not cls:
        raise ValueError(f"a head of kind {cls.kind!r} exists already: {HEADS[cls.kind].__name__}")
    return cls


def head_from_config(config: dict[str, Any]) -> Head:
    """Rebuild a head, with fresh parameters, from :meth:`Head.config`.

    Raises:
        ValueError: for an unknown kind, or options the head does not take.
    """
    options = dict(config)
    kind = options.pop("kind", None)
    if kind not in HEADS:
        raise ValueError(f"unknown head {kind!r}; known: {', '.join(sorted(HEADS))}")
    try:
        return HEADS[kind](**options)
    except TypeError as error:
        raise ValueError(f"options {sorted(options)} do not fit the {kind} head: {error}") from None


@register_head
class ProductHead(Head):
    """One categorical per position: a linear layer, zero (hence uniform) at initialisation."""

    kind = "product"

    def __init__(self, hidden: int, vocab_size: int) -> None:
        super().__init__(hidden, vocab_size)
        self.linear = zero_linear(hidden, vocab_size)

    def forward(self, features: Tensor, x_t: Tensor, process: Process) -> ProductLaw:
        if defers(self.linear):
            return deferred_law(self.linear, features, x_t, process)
        # The backward pass of a linear layer does not read its output: it may be overwritten.
        return constrained_law(self.linear(features), x_t, process)

    def warm_start(self, product: ProductHead) -> None:
        self.load_state_dict(product.state_dict())
