"""Heads: features (B, L, D) → a law. What kind of student a network is, its head decides.

A head is asked with a :class:`TrunkRun`: the trunk on one batch, to be run when and as often as the
head asks.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from fewjump.config import checked_options, parameters_of
from fewjump.denoiser.base import Condition
from fewjump.denoiser.constrain import LeftOneOut, linear_law
from fewjump.denoiser.position_order import LEFT_TO_RIGHT, PositionOrder
from fewjump.denoiser.transformer import zero_linear
from fewjump.law.base import Law
from fewjump.law.product import ProductLaw
from fewjump.process import Process
from fewjump.registry import HEADS

LawType = TypeVar("LawType", bound=Law)
Read = Callable[[Tensor, Tensor, Process], LawType]


class Trunk(Protocol):
    """A network that makes features of tokens."""

    def features(
        self,
        x_t: Tensor,
        t: Tensor,
        shift: Tensor | None = None,
        condition: Condition | None = None,
    ) -> Tensor:
        """Features of every position: (B, L, D)."""
        ...


class TrunkRun:
    """What a denoiser was asked, with the trunk that answers.

    A latent law runs the trunk when it is sampled or scored, which may be long after the denoiser
    was called. It then still uses the precision and the gradient mode of that call.

    Args:
        trunk: the network.
        x_t: (B, L) int64.
        level: (B,) noise level as the trunk wants it.
        process: the forward process.
        autocast: dtype of autocast, or None for the setting that surrounds this call.
        leave_one_out: see :class:`~fewjump.denoiser.network.NetworkDenoiser`.
        condition: the classes of the batch, for a trunk that has some.
    """

    def __init__(
        self,
        trunk: Trunk,
        x_t: Tensor,
        level: Tensor,
        process: Process,
        autocast: torch.dtype | None = None,
        leave_one_out: bool = False,
        condition: Condition | None = None,
    ) -> None:
        self.leave_one_out, self.condition = leave_one_out, condition
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
        x_t, level, condition = self.x_t, self.level, self.condition
        if rows is not None:
            x_t, level = x_t[rows], level[rows]
            condition = None if condition is None else condition.rows(rows)
        precision = contextlib.nullcontext()
        if self.autocast is not None:
            precision = torch.autocast(x_t.device.type, dtype=self.autocast)
        gradients = torch.is_grad_enabled() and self.with_gradients
        process = self.process
        if self.leave_one_out:
            process = cast(Process, LeftOneOut(process, level))
        with torch.set_grad_enabled(gradients), precision:
            return read(self.trunk.features(x_t, level, shift, condition), x_t, process)


class Head(nn.Module, ABC):
    """Base of every head.

    Subclasses set :attr:`kind`, have a line in :data:`fewjump.registry.HEADS`, and take only
    keyword arguments that :meth:`config` returns.

    Args:
        hidden: width D of the features.
        vocab_size: number of states V of the process, a mask included.

    Attributes:
        kind: the student's name, as the user types it: ``product``, ...
        fixed_length: whether it is for sequences of one ``length``, which follows from the
            denoiser's where the options leave it out.
        autoregressive: whether its law is an :class:`~fewjump.law.AutoregressiveLaw`.
        joint: whether its law is known to be joint.
        latent: whether its law draws a latent that can be held.
        mixture: whether its law is a mixture of few components
            (:meth:`~fewjump.law.base.Law.component_logits`).
        closed_marginals: whether the law's marginals have a closed form; others are estimated.
        drawn_in: the order in which the law draws positions.
    """

    kind: ClassVar[str]
    fixed_length: ClassVar[bool] = False
    autoregressive: ClassVar[bool] = False
    joint: ClassVar[bool] = False
    latent: ClassVar[bool] = False
    mixture: bool = False
    closed_marginals: bool = True
    drawn_in: PositionOrder = LEFT_TO_RIGHT

    def __init__(self, hidden: int, vocab_size: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.vocab_size = vocab_size

    @abstractmethod
    def forward(self, features: Tensor, x_t: Tensor, process: Process) -> Law:
        """The law of x₀ given features (B, L, D) of x_t (B, L).

        The law must already know what ``process`` makes certain (see
        :func:`fewjump.denoiser.constrain.constrain_logits`).
        """

    def product_layer(self) -> nn.Module | None:
        """The layer onto the vocabulary whose softmax is the law, for the head that is one."""
        return None

    def for_sampling(self) -> Head:
        """The head without what only training needs; it shares the parameters."""
        return self

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
        options = {name: getattr(self, name) for name in parameters_of(type(self))}
        return {
            "kind": self.kind,
            **{k: list(v) if isinstance(v, tuple) else v for k, v in options.items()},
        }


def head_from_config(config: dict[str, Any]) -> Head:
    """Rebuild a head, with fresh parameters, from :meth:`Head.config`.

    Raises:
        ValueError: for an unknown kind, or options the head does not take.
    """
    options = dict(config)
    kind = options.pop("kind", None)
    return HEADS.named(kind)(**_checked(str(kind), options))


def _checked(kind: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options in the types that the head declares.

    Raises:
        ValueError: for one that it has not, lacks, or of another type.
    """
    out = checked_options(HEADS[kind], options, f"the {kind} head", ("hidden", "vocab_size"))
    length = out.get("length")
    if length is not None and length < 1:
        raise ValueError(
            f"options do not fit the {kind} head: length must be at least 1, got {length}"
        )
    return out


class ProductHead(Head):
    """One categorical per position: a linear layer, zero (hence uniform) at initialisation."""

    kind = "product"

    def __init__(self, hidden: int, vocab_size: int) -> None:
        super().__init__(hidden, vocab_size)
        self.linear = zero_linear(hidden, vocab_size)

    def product_layer(self) -> nn.Module:
        return self.linear

    def forward(self, features: Tensor, x_t: Tensor, process: Process) -> ProductLaw:
        return linear_law(self.linear, features, x_t, process)

    def warm_start(self, product: ProductHead) -> None:
        self.load_state_dict(product.state_dict())


class JointHead(Head):
    """Base of joint heads: a product head, and what makes its law joint.

    Attributes:
        base: the product head.
        vanishing: names of the parameters at whose 0 the law is that of ``base``.
    """

    joint = True
    vanishing: ClassVar[tuple[str, ...]] = ("tokens.weight",)

    def __init__(self, hidden: int, vocab_size: int) -> None:
        super().__init__(hidden, vocab_size)
        self.base = ProductHead(hidden, vocab_size)

    def warm_start(self, product: ProductHead) -> None:
        self.base.load_state_dict(product.state_dict())
        for name, parameter in self.named_parameters():
            if name in self.vanishing:
                parameter.data.zero_()
