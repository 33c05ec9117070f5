"""The methods by which models of ``transformers`` are used and published, on every denoiser.

They hand over to the rooms above, which a denoiser knows by name alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fewjump.registry import ENTRY_POINTS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Self = TypeVar("Self", bound="Publishable")


class Publishable:
    """``from_pretrained``, ``save_pretrained``, ``push_to_hub`` and ``generate``.

    Attributes:
        vocabulary_config: what the tokens stand for, as plain data, where the model came from a
            folder that says so; saving keeps it.
        grids: time grids fitted to the model, as plain data (:mod:`fewjump.sampler.carried_grids`);
            saving keeps them while the model is what they were fitted to.
    """

    vocabulary_config: dict[str, Any] | None = None
    grids: dict[str, Any] | None = None

    @classmethod
    def from_pretrained(
        cls: type[Self], source: str | Path, device: torch.device | str = "cpu", **options: Any
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
        """Continue rows of tokens; options of :func:`fewjump.publish.generation.generate`."""
        return ENTRY_POINTS["generate"](self, input_ids, **options)
