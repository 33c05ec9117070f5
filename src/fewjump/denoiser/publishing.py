"""The methods by which models are published elsewhere, on every denoiser.

They hand over to :mod:`fewjump.publish`, the one room above that a denoiser knows by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    import torch

    from fewjump.denoiser.base import Denoiser

Self = TypeVar("Self", bound="Publishable")


class Publishable:
    """``save_pretrained``, ``from_pretrained`` and ``push_to_hub``.

    Attributes:
        vocabulary_config: what the tokens stand for, as plain data, where the model came from a
            folder that says so; saving keeps it.
        grids: time grids fitted to the model, as plain data (:mod:`fewjump.sampler.carried_grids`);
            saving keeps them while the model is what they were fitted to.
    """

    vocabulary_config: dict[str, Any] | None = None
    grids: dict[str, Any] | None = None

    def save_pretrained(self, folder: str | Path, **options: Any) -> Path:
        """Write the model's folder; see :func:`fewjump.publish.save_pretrained`."""
        from fewjump.publish.hub import save_pretrained

        return save_pretrained(cast("Denoiser", self), folder, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the model; see :func:`fewjump.publish.push_to_hub`."""
        from fewjump.publish.hub import push_to_hub

        return push_to_hub(cast("Denoiser", self), repo_id, **options)

    @classmethod
    def from_pretrained(
        cls: type[Self], source: str | Path, device: torch.device | str = "cpu", **options: Any
    ) -> Self:
        """Read a model of this class; see :func:`fewjump.publish.from_pretrained`.

        Raises:
            ValueError: also if what was saved is a denoiser of another class.
        """
        from fewjump.publish.hub import from_pretrained

        model = from_pretrained(source, device, **options)
        if not isinstance(model, cls):
            raise ValueError(
                f"{source} holds a {type(model).__name__}, not a {cls.__name__}; use "
                "fewjump.from_pretrained, which takes any"
            )
        return model
