"""A denoiser maps (x_t, t) to a law over clean sequences; it knows its process and is counted."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from fewjump.denoiser.position_order import LEFT_TO_RIGHT, PositionOrder
from fewjump.law.base import Law, whole_numbers
from fewjump.process import Process
from fewjump.process.kernel import checked_times
from fewjump.registry import ENTRY_POINTS
from fewjump.schedule import Time

# What a denoiser that asks another one says of itself too.
_INHERITED = (
    "time_conditioned",
    "padding",
    "longest",
    "vocabulary_config",
    "kind",
    "autoregressive",
    "joint",
    "latent",
    "mixture",
    "closed_marginals",
    "drawn_in",
)


@dataclass(frozen=True)
class Condition:
    """The classes of a batch.

    Attributes:
        labels: (B,) int64 in {0..K}, K for no class; (1,) where all rows have the same.
        scale: (B,) or (1,) float64, guidance scale γ ≥ 0; None for the law of the class itself.
    """

    labels: Tensor
    scale: Tensor | None = None

    def rows(self, index: Tensor) -> Condition:
        """The condition of some rows; the same where all have one."""
        if self.labels.shape[0] == 1:
            return self
        return Condition(self.labels[index], None if self.scale is None else self.scale[index])

    def expand(self, batch_size: int) -> Condition:
        """Of a batch of ``batch_size`` rows.

        Raises:
            ValueError: if it is that of another number of rows.
        """
        if self.labels.shape[0] not in (1, batch_size):
            raise ValueError(
                f"conditioned on the classes of {self.labels.shape[0]} rows, asked about "
                f"{batch_size}; use .rows(index) for a part of a batch"
            )
        labels = self.labels.expand(batch_size)
        return Condition(labels, None if self.scale is None else self.scale.expand(batch_size))

    def to(self, device: torch.device | str) -> Condition:
        """The same on a device."""
        return Condition(
            self.labels.to(device), None if self.scale is None else self.scale.to(device)
        )


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
        kind: name of the kind of student, its head's; ``product`` for a denoiser without a head.
        autoregressive: whether its laws are autoregressive, and can be drawn in several ways (see
            :mod:`fewjump.law.decoding`).
        joint: whether its laws are known to be joint: guidance cannot combine those.
        latent: whether its laws draw a latent that :meth:`~fewjump.law.base.Law.held` keeps.
        mixture: whether its laws are known to be mixtures of few components.
        closed_marginals: whether its laws' marginals have a closed form; others are estimated.
        drawn_in: the order in which its laws draw positions, for samplers that go by one.
        classes: K, where the law may be asked for by class (:mod:`fewjump.denoiser.condition`):
            the labels are {0..K−1}, and K stands for no class. None without classes.
        guidance_range: least and largest guidance scale of a network that takes it as an input.
        condition: the classes that its rows were given (:meth:`conditioned`); None without.
        evaluations: number of calls so far, one per batch (the NFE counter).
        vocabulary_config: what the tokens stand for, as plain data, where the model came from a
            folder that says so; saving keeps it.
        grids: time grids fitted to the model, as plain data (:mod:`fewjump.sampler.carried`);
            saving keeps them while the model is what they were fitted to.
        samplers: samplers learned for the model, as plain data
            (:mod:`fewjump.sampler.carried`): its default at their numbers of steps.
    """

    process: Process
    length: int | None
    clean_vocab_size: int
    time_conditioned: bool = True
    padding: int | None = None
    longest: int | None = None
    vocabulary_config: dict[str, Any] | None = None
    grids: dict[str, Any] | None = None
    samplers: list[dict[str, Any]] | None = None
    kind: str = "product"
    autoregressive: bool = False
    joint: bool = False
    latent: bool = False
    mixture: bool = False
    closed_marginals: bool = True
    drawn_in: PositionOrder = LEFT_TO_RIGHT
    classes: int | None = None
    guidance_range: tuple[float, float] | None = None
    condition: Condition | None = None

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

    def take_after(self, inner: Denoiser) -> None:
        """Declare of its own laws and lengths what another denoiser does, which answers for it.

        Classes are not declared: a wrapper may have been given them already.
        """
        for name in _INHERITED:
            setattr(self, name, getattr(inner, name))

    @abstractmethod
    def law(self, x_t: Tensor, t: Tensor) -> Law:
        """p(x₀|x_t) for x_t (B, L) int64 and t (B,) float64 on the same device.

        What it says of a row depends on that row alone: samplers split batches, and show rows that
        are alike only once.
        """

    def forward(self, x_t: Tensor, t: Time, condition: Condition | None = None) -> Law:
        """p(x₀|x_t) for x_t (B, L) int64 and t a float or a (B,) tensor.

        Under a ``condition``, for a denoiser with classes; without one it is the law of no class.

        Raises:
            ValueError: for tokens that are no whole numbers, times outside [0, 1], and laws that
                are not of x_t's rows and positions.
        """
        self.evaluations += 1
        if x_t.dtype != torch.int64:
            x_t = whole_numbers(x_t, "x_t")
        times = checked_times(0.0, t)[1].to(x_t.device)
        rows = x_t.shape[0]
        if times.shape not in ((), (1,), (rows,)):
            raise ValueError(
                f"t must be a number, or one for each of the {rows} rows, got {tuple(times.shape)}"
            )
        times = times.expand(rows)
        if condition is None:
            law = self.law(x_t, times)
        else:
            law = self.conditional_law(x_t, times, condition.expand(rows))
        if not isinstance(law, Law):
            raise ValueError(
                f"the law of a {type(self).__name__} must be a Law, such as ProductLaw(logits); "
                f"got a {type(law).__name__}"
            )
        if (law.batch_size, law.length) != x_t.shape:
            raise ValueError(
                f"the law of a {type(self).__name__} is of {law.batch_size} sequences of "
                f"{law.length} tokens, but it was asked about {tuple(x_t.shape)}; return one law "
                "for each row"
            )
        return law

    def conditional_law(self, x_t: Tensor, t: Tensor, condition: Condition) -> Law:
        """p(x₀|x_t, y), as :meth:`law`, under a condition of B rows.

        Its scale is for networks that take one as an input (:attr:`guidance_range`).
        """
        raise ValueError(f"this {type(self).__name__} has no classes; leave the label out")

    def conditioned(
        self,
        label: Tensor | Sequence[int] | int,
        guidance: Tensor | Sequence[float] | float | None = None,
    ) -> Denoiser:
        """This denoiser asked for a class: a denoiser that shares its parameters.

        Args:
            label: one class for all rows, or (B,) int64, one for each row of the batch that it will
                be asked about. The number of classes stands for no class.
            guidance: scale γ of classifier-free guidance, ≥ 0, or (B,) of them: the law is in
                proportion to p(·|x_t, y)^γ·p(·|x_t)^(1−γ) at each position, for two evaluations. A
                student with a :attr:`guidance_range` takes it as an input, for one. Default: 1.

        Raises:
            ValueError: for a denoiser without classes, or values out of range.
        """
        return ENTRY_POINTS["conditioned"](self, label, guidance)

    @property
    def unconditioned(self) -> Denoiser:
        """The denoiser itself, without the classes that its rows were given."""
        return self

    def rows(self, index: Tensor) -> Denoiser:
        """The denoiser for some rows (N,) of the batch whose classes it was given."""
        return self

    def check_length(self, length: int) -> None:
        """Raise ValueError for sequences longer than the network has positions for, or of another
        length than its laws' order."""
        self.drawn_in.ranks(length)
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

    def described(self) -> dict[str, Any] | None:
        """The plain data from which a model's folder rebuilds it; None where no folder can."""
        return None

    def for_sampling(self) -> Denoiser:
        """The denoiser without what only training needs, such as a latent student's encoder."""
        return self

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


@contextmanager
def eval_mode(denoiser: Denoiser) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule is as it was."""
    # Setting what is set already takes longer than a step of a small network.
    training = [module for module in denoiser.modules() if module.training]
    if training:
        denoiser.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
