"""Any network that returns logits, as a denoiser; masked language models as teachers."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewjump.denoiser.attention import seen
from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.constrain import constrain_logits, constrained_law
from fewjump.denoiser.huggingface import split
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.denoiser.pretrained import Pretrained, outputs, read_pretrained
from fewjump.law.product import ProductLaw
from fewjump.process import Absorbing, Process
from fewjump.schedule import LogLinear, Schedule
from fewjump.tokenizing import (
    backend_of,
    describe_tokenizer,
    open_tokenizer,
    unused_tokens,
)

_SMALL = 1 << 16


class LogitDenoiser(Denoiser):
    """A network that returns (B, L, V) logits of p(x₀ⁱ|x_t), as a denoiser.

    Args:
        network: callable (x_t (B, L) int64, t (B,) float64), or (x_t) alone where it is not told
            the time, → (B, L, V) logits that are its own to be overwritten, or an object that has
            them as ``.logits``. An ``nn.Module`` is registered, so that its parameters train.
        process: the forward process. For an absorbing one the mask logit is removed and visible
            positions are certain (the SUBS parameterisation), whatever the network says there.
        length: default sequence length.
        time_conditioned: whether the network is told the time.
        shift: whether the output at a position speaks of the next one, as that of a network that
            was trained from left to right does (Dream). The first position uses its own.
        padding: a kept token that is not attended to: the network is then called with
            ``attention_mask=`` (B, L) too.
    """

    def __init__(
        self,
        network: Callable[..., Any],
        process: Process,
        length: int | None = None,
        time_conditioned: bool = True,
        *,
        shift: bool = False,
        padding: int | None = None,
    ) -> None:
        super().__init__(process, length)
        self.network = network
        self.time_conditioned, self.shift, self.padding = time_conditioned, shift, padding

    def logits(self, x_t: Tensor, t: Tensor) -> Tensor:
        """What the network says of every position: (B, L), (B,) → (B, L, V)."""
        options = {}
        if self.padding is not None:
            options["attention_mask"] = seen(x_t, self.padding).long()
        # A network may write into its input, which is the sampler's state.
        given = x_t.clone()
        out = self.network(*((given, t) if self.time_conditioned else (given,)), **options)
        logits = out if isinstance(out, Tensor) else getattr(out, "logits", None)
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            found = f"a {logits.dtype} tensor" if isinstance(logits, Tensor) else type(out).__name__
            raise TypeError(
                "the network must return logits, a tensor of floating-point numbers, or an output "
                f"with .logits; it returned {found}"
            )
        expected = (*x_t.shape, self.process.vocab_size)
        if logits.shape != expected:
            raise ValueError(f"the network returned {tuple(logits.shape)} logits, not {expected}")
        if self.shift:
            return torch.cat([logits[:, :1], logits[:, :-1]], 1)
        # Rows that share memory, as an expanded table's, cannot be overwritten one by one.
        shared = any(n > 1 and step == 0 for n, step in zip(logits.shape, logits.stride()))
        if shared or self._keeps(logits):
            return logits.clone(memory_format=torch.contiguous_format)
        return logits

    def _keeps(self, logits: Tensor) -> bool:
        """Whether they may be the network's own: parameters, or what a function returns again."""
        if len(logits) > 1:
            return logits.is_leaf and logits.requires_grad
        # A small copy takes less time than a look.
        if not isinstance(self.network, nn.Module) or logits.numel() <= _SMALL:
            return True
        place = logits.untyped_storage().data_ptr()
        own = chain(self.network.parameters(), self.network.buffers())
        return any(place == one.untyped_storage().data_ptr() for one in own)

    def law(self, x_t: Tensor, t: Tensor) -> ProductLaw:
        logits = self.logits(x_t, t)
        if torch.is_grad_enabled() and logits.requires_grad:
            # What the last operation of the network needs for its backward pass is not known.
            return ProductLaw(constrain_logits(logits, x_t, self.process))
        return constrained_law(logits, x_t, self.process)


def from_masked_lm(
    model: Any,
    tokenizer: Any = None,
    *,
    schedule: Schedule | None = None,
    length: int | None = None,
    generate: Collection[int] = (),
    shift: bool = False,
    trust_remote_code: bool = False,
    device: torch.device | str | None = None,
) -> Denoiser:
    """A masked language model (BERT, RoBERTa, ModernBERT, …) as a denoiser under masking noise.

    Tokens keep the tokenizer's numbers. The mask is the tokenizer's; its other special tokens
    (padding, ``[CLS]``, …), and numbers that the tokenizer does not use, are *kept*: they are
    never masked, carry no loss, and are never generated. Padding is not attended to.

    Args:
        model: a model of ``transformers``, the folder or hub name of one, or what
            :func:`~fewjump.denoiser.pretrained.read_pretrained` read. A model that is given is
            taken apart: use the denoiser from then on.
        tokenizer: a tokenizer of ``transformers`` or ``tokenizers``, or where to find one; by
            default where the model is.
        schedule: of the noise; log-linear by default. The model itself is not told the time.
        length: default sequence length, special tokens included.
        generate: special tokens that may be generated and masked all the same, such as an end of
            text.
        shift: whether the output at a position speaks of the next one (Dream).
        trust_remote_code: run the code that comes with a model, if it needs some. Read it first.
            A denoiser of such a model cannot be saved by :func:`fewjump.save`.
        device: where to put the network; by default where a given model is, else the CPU.

    Returns:
        A :class:`~fewjump.denoiser.NetworkDenoiser` in eval mode, which knows its vocabulary; a
        :class:`LogitDenoiser` for a model with code of its own.

    Raises:
        ModuleNotFoundError: without the ``hub`` extra.
        ValueError: for a model that needs code it may not run, a tokenizer without a mask, or sizes
            that do not fit.
    """
    if isinstance(model, str | Path):
        model = read_pretrained(model, trust_remote_code)
        model.tell()
    found = model if isinstance(model, Pretrained) else Pretrained(model)
    model, source = found.model, found.source
    if tokenizer is None and source is None:
        raise ValueError("a model object does not bring its tokenizer; give tokenizer=")
    given = source if tokenizer is None else tokenizer
    described = describe_tokenizer(open_tokenizer(given, trust_remote_code))
    if tokenizer is not None and source is not None and Path(source).is_dir():
        _check_same_words(Path(source), described, trust_remote_code)
    mask = described["mask"]
    if mask is None:
        raise ValueError(
            "the tokenizer has no mask token, so this is no masked language model; add one, or use "
            "fewjump.denoiser.from_logits, which is told the mask's number"
        )
    states = outputs(model)
    if described["size"] > states or mask >= states:
        raise ValueError(
            f"the tokenizer numbers its tokens up to {described['size'] - 1} (mask {mask}), the "
            f"model has {states} outputs; give the tokenizer that the model was trained with"
        )
    unknown = set(generate) - set(described["special"])
    if unknown:
        raise ValueError(
            f"generate= lists special tokens; {sorted(unknown)} are not among "
            f"{described['special']}"
        )
    kept = {*described["special"], *unused_tokens(described, states)} - {mask, *generate}
    process = Absorbing(states, schedule or LogLinear(), mask=mask, kept=kept)
    padding = described["padding"] if described["padding"] in kept else None
    denoiser: Denoiser
    if type(model).__module__.startswith("transformers."):
        trunk, head = split(model, padding, shift)
        denoiser = NetworkDenoiser(trunk, head, process, length)
    else:
        denoiser = LogitDenoiser(model, process, length, False, shift=shift, padding=padding)
    denoiser.vocabulary_config = {"name": "tokenizer", **described}
    return (denoiser if device is None else denoiser.to(device)).eval()


def _check_same_words(folder: Path, described: dict[str, Any], trust_remote_code: bool) -> None:
    """Raise ValueError where the folder holds a tokenizer with other tokens."""
    try:
        own = describe_tokenizer(open_tokenizer(folder, trust_remote_code))
    except ValueError:
        return
    words = [backend_of(one["tokenizer"]).get_vocab() for one in (own, described)]
    if words[0] != words[1]:
        raise ValueError(
            f"the model in {folder} has a tokenizer of its own, with other tokens; leave out "
            "--tokenizer (tokenizer=)"
        )


def from_logits(
    network: Callable[..., Any],
    *,
    vocab_size: int,
    mask: int,
    shift: bool = False,
    kept: Collection[int] = (),
    padding: int | None = None,
    schedule: Schedule | None = None,
    length: int | None = None,
) -> LogitDenoiser:
    """Any network from tokens to logits as a denoiser under masking noise (LLaDA, Dream, …).

    Args:
        network: ``network(tokens)`` for (B, L) int64 returns (B, L, V) logits that are its own to
            be overwritten, or an object that has them as ``.logits``. With ``padding`` it is called
            with ``attention_mask=`` (B, L) too. An ``nn.Module`` is registered, so that its
            parameters train.
        vocab_size: number of outputs V, the mask included.
        mask: the mask's number.
        shift: whether the output at a position speaks of the next one, as that of a network that
            was trained from left to right does (Dream). The first position uses its own.
        kept: special tokens that are never masked and never generated.
        padding: one of them that is not attended to.
        schedule: of the noise; log-linear by default.
        length: default sequence length.
    """
    if padding is not None and padding not in kept:
        raise ValueError(f"padding {padding} must be one of the kept tokens {sorted(kept)}")
    process = Absorbing(vocab_size, schedule or LogLinear(), mask=mask, kept=kept)
    return LogitDenoiser(network, process, length, False, shift=shift, padding=padding)
