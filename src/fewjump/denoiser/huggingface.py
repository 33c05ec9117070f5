"""A masked language model of ``transformers`` as the trunk of a denoiser.

The model's last linear layer, from features to the vocabulary, becomes the product head; what
comes before it is the trunk. So every head can be put on top, students start warm, and a large
vocabulary is never written out for positions that are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fewjump.config import optional
from fewjump.denoiser.attention import seen
from fewjump.denoiser.base import Condition
from fewjump.denoiser.heads import ProductHead
from fewjump.denoiser.meta_device import check_labels

KIND = "huggingface"
# What a configuration says about where code or kernels are to come from, and not about the network.
_ASIDE = ("auto_map", "transformers_version", "attn_implementation", "experts_implementation")


@dataclass(frozen=True)
class HuggingFaceConfig:
    """What a :class:`HuggingFaceTrunk` is built from.

    Attributes:
        model: the model's own configuration, with ``model_type`` and ``architectures``.
        hidden: width D of the features.
        vocab_size: number of states V.
        padding: token that is not attended to; None attends to everything.
        shift: the features of position i−1 speak of position i, as those of a network that was
            trained from left to right do (Dream). The first position uses its own.
        grid: always None: positions are a sequence.
        time_conditioned: always False: a masked language model is not told the time.
    """

    model: dict[str, Any]
    hidden: int
    vocab_size: int
    padding: int | None = None
    shift: bool = False
    grid: None = field(default=None, init=False)
    time_conditioned: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if self.padding is not None and not 0 <= self.padding < self.vocab_size:
            raise ValueError(f"padding must be a token below {self.vocab_size}, got {self.padding}")

    def config(self) -> dict[str, Any]:
        """Plain data from which :meth:`from_config` rebuilds this."""
        return {
            "kind": KIND,
            "model": self.model,
            "hidden": self.hidden,
            "vocab_size": self.vocab_size,
            "padding": self.padding,
            "shift": self.shift,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> HuggingFaceConfig:
        """Inverse of :meth:`config`."""
        return cls(**{key: value for key, value in config.items() if key != "kind"})


class HuggingFaceTrunk(nn.Module):
    """Tokens → features, by everything of a model but its last linear layer.

    Args:
        model: a masked language model, without its output layer (see :func:`take_apart`).
        config: what it is.

    Attributes:
        longest: tokens of the longest sequence, None where nothing limits it.
    """

    def __init__(self, model: nn.Module, config: HuggingFaceConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.longest = positions(model)

    @classmethod
    def from_config(cls, config: HuggingFaceConfig) -> HuggingFaceTrunk:
        """A trunk with fresh parameters. Only classes that ``transformers`` brings are built.

        Raises:
            ModuleNotFoundError: without the ``hub`` extra.
            ValueError: for a model that this version of ``transformers`` does not have.
        """
        transformers = optional("transformers", "a model that was made from a Hugging Face one")
        options = _of_network(config.model)
        check_labels(options)
        name = (options.get("architectures") or [""])[0]
        model_class = getattr(transformers, name, None)
        if not (isinstance(model_class, type) and issubclass(model_class, nn.Module)):
            raise ValueError(
                f"this transformers ({transformers.__version__}) has no model called {name!r}; "
                "install the version that the model was saved with"
            )
        description = transformers.AutoConfig.for_model(options.pop("model_type"), **options)
        model: Any = model_class(description)
        if isinstance(model.get_output_embeddings(), nn.Linear):
            take_apart(model)
        return cls(model, config)

    def features(
        self,
        x_t: Tensor,
        t: Tensor,
        shift: Tensor | None = None,
        condition: Condition | None = None,
    ) -> Tensor:
        """Features of every position: (B, L, D).

        Args:
            x_t: (B, L) int64 tokens.
            t: not read.
            shift: (B, L, D) or (B, 1, D), added to the embedded tokens.
            condition: not read: such networks have no classes.
        """
        if x_t.dim() != 2:
            raise ValueError(f"x_t must be (B, L), got shape {tuple(x_t.shape)}")
        padding = self.config.padding
        real = torch.ones_like(x_t) if padding is None else seen(x_t, padding)
        inputs = {"input_ids": x_t} if shift is None else self._shifted(x_t, shift)
        catch = self._part("get_output_embeddings")
        assert isinstance(catch, Catch)
        self.model(**inputs, attention_mask=real.long())
        features = catch.take()
        if self.config.shift:
            features = torch.cat([features[:, :1], features[:, :-1]], 1)
        return features

    forward = features

    def _part(self, getter: str) -> nn.Module:
        return getattr(self.model, getter)()

    def _shifted(self, x_t: Tensor, shift: Tensor) -> dict[str, Tensor]:
        embedded = self._part("get_input_embeddings")(x_t)
        if shift.shape[-1] != embedded.shape[-1]:
            raise ValueError(
                f"this model embeds tokens in {embedded.shape[-1]} numbers and its features have "
                f"{shift.shape[-1]}: a latent student cannot be put on top; choose another kind"
            )
        return {"inputs_embeds": embedded + shift}


class Catch(nn.Module):
    """Stands where the output layer was, and keeps what would have gone into it."""

    bias = None

    def __init__(self) -> None:
        super().__init__()
        self.caught: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        self.caught = features
        # One column, to which a bias can still be added.
        return features.new_zeros(*features.shape[:-1], 1)

    def take(self) -> Tensor:
        """What was caught; it is kept no longer."""
        caught, self.caught = self.caught, None
        assert caught is not None, "the model did not reach its output layer"
        return caught


def positions(model: Any) -> int | None:
    """Tokens of the longest sequence that a model has positions for, None where it does not say.

    Its configuration's ``max_position_embeddings``, less the rows of a table of positions that
    come before the first: RoBERTa and its kin count from behind their padding token.
    """
    stated = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(stated, int) or stated < 1:
        return None
    tables = (
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings")
    )
    table = next((table for table in tables if table.num_embeddings == stated), None)
    before = 0 if table is None or table.padding_idx is None else table.padding_idx + 1
    return stated - before


def take_apart(model: Any) -> nn.Linear:
    """Replace a model's output layer by a :class:`Catch`, in place; returns the layer."""
    layer = model.get_output_embeddings()
    model.set_output_embeddings(Catch())
    return layer


def split(model: Any, padding: int | None, shift: bool) -> tuple[HuggingFaceTrunk, ProductHead]:
    """A model as trunk and product head, checked to compute what it computed.

    Args:
        model: a masked language model of ``transformers``, which is taken apart.
        padding, shift: see :class:`HuggingFaceConfig`.

    Raises:
        ValueError: if the model does not end in a linear layer, or the parts do not add up to it.
    """
    name = type(model).__name__
    layer = model.get_output_embeddings()
    if not isinstance(layer, nn.Linear):
        raise ValueError(
            f"{name} does not end in a linear layer onto its vocabulary; wrap it with "
            "fewjump.denoiser.from_logits"
        )
    description = _of_network(model.config.to_dict())
    description |= {"model_type": model.config.model_type, "architectures": [name]}
    sizes = (layer.in_features, layer.out_features)
    config = HuggingFaceConfig(description, *sizes, padding, shift)
    probe = torch.arange(8, device=layer.weight.device)[None] % layer.out_features
    model.eval()
    with torch.no_grad():
        whole = model(input_ids=probe, attention_mask=torch.ones_like(probe)).logits
        take_apart(model)
        trunk = HuggingFaceTrunk(model, HuggingFaceConfig(description, *sizes))
        product = nn.functional.linear(trunk.features(probe, probe), layer.weight)
        # A model may add its bias after the layer.
        bias = (whole - product).mean((0, 1))
        known = layer.bias if layer.bias is not None else bias
        wrong = (product + known - whole).abs().amax()
        if float(wrong) > 1e-4 * max(1.0, float(whole.abs().amax())):
            raise ValueError(
                f"{name} does more after its output layer than add a bias (logits differ by "
                f"{float(wrong):.2g}); wrap it with fewjump.denoiser.from_logits"
            )
    trunk.config = config
    head = ProductHead(*sizes)
    # The same tensors: embeddings that were shared with the output stay shared.
    head.linear.weight = layer.weight
    head.linear.bias = nn.Parameter(known.detach().clone())
    return trunk, head


def _of_network(description: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what could fetch or choose code."""
    return {k: v for k, v in description.items() if k not in _ASIDE and not k.startswith("_")}
