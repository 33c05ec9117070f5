"""A saved model as one callable object: words in, samples out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewjump.data.vocabulary import ImageLevels, Vocabulary
from fewjump.law.base import Decoding
from fewjump.publish.conditions import Words, read_conditions
from fewjump.publish.hub import from_pretrained, generate, push_to_hub, save
from fewjump.publish.models import said_vocabulary
from fewjump.sampler.arguments import SEQUENTIAL
from fewjump.sampler.run import RunProgress, run

if TYPE_CHECKING:
    from fewjump.denoiser import Denoiser
    from fewjump.sampler.base import Sampler
    from fewjump.sampler.time_grid import GridSpec


@dataclass(frozen=True)
class PipelineOutput:
    """What a :class:`Pipeline` returns.

    Attributes:
        tokens: (N, L) int64, on the CPU.
        texts: each sample as text; images as shades of characters.
        images: (N, height, width) float32 brightness in [0, 1], for models of images.
        nfe: network evaluations of a batch.
        seconds: wall-clock time.
        seed: draws the same samples again as ``generator=seed``.
        decoding: see :class:`fewjump.sampler.SamplerRun`.
    """

    tokens: Tensor
    texts: list[str]
    images: Tensor | None
    nfe: int
    seconds: float
    seed: int
    decoding: Decoding | None = None


class Pipeline:
    """A denoiser with its vocabulary.

    Args:
        denoiser: any.
        vocabulary: what its tokens stand for; by default what the denoiser was saved with, and
            plain numbers where that says nothing.
    """

    def __init__(self, denoiser: Denoiser, vocabulary: Vocabulary | None = None) -> None:
        self.denoiser = denoiser
        self.vocabulary = said_vocabulary(denoiser) if vocabulary is None else vocabulary

    @classmethod
    def from_pretrained(
        cls, source: str | Path, device: torch.device | str = "cpu", **options: Any
    ) -> Pipeline:
        """From a folder or a hub repository; see :func:`fewjump.publish.hub.from_pretrained`."""
        return cls(from_pretrained(source, device, **options))

    def save_pretrained(self, folder: str | Path, **options: Any) -> Path:
        """Write model and vocabulary; see :func:`fewjump.save`."""
        return save(self.denoiser, folder, vocabulary=self.vocabulary, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload model and vocabulary; see :func:`fewjump.publish.hub.push_to_hub`."""
        return push_to_hub(self.denoiser, repo_id, vocabulary=self.vocabulary, **options)

    def to(self, device: torch.device | str) -> Pipeline:
        """Move the network; returns the pipeline."""
        self.denoiser.to(device)
        return self

    @property
    def mask(self) -> int | None:
        """The mask's token, where the process has one."""
        return self.denoiser.process.mask

    @property
    def padding(self) -> int | None:
        """The token after the end of a short sequence, where there is one."""
        own = self.denoiser.padding
        return self.vocabulary.padding_token if own is None else own

    def __call__(
        self,
        num_samples: int = 1,
        num_inference_steps: int = 8,
        *,
        generator: torch.Generator | int | None = None,
        prompt: Words | None = None,
        infill: Words | None = None,
        length: int | Sequence[int] | None = None,
        label: Tensor | Sequence[int] | int | None = None,
        guidance: float | None = None,
        sampler: str | Sampler | None = None,
        grid: GridSpec | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        decoding: str = SEQUENTIAL,
        draft: Denoiser | None = None,
        batch_size: int | None = None,
        progress: bool = False,
        callback: Callable[[RunProgress], None] | None = None,
    ) -> PipelineOutput:
        """Draw samples.

        Args:
            num_samples: N.
            num_inference_steps: intervals of the time grid: network evaluations for a
                one-evaluation sampler.
            generator: a seed, a generator that one seed is drawn from, or None.
            prompt, infill, length: see :func:`fewjump.publish.conditions.read_conditions`. The
                tokens they give come back as they are, and the law of the others is conditioned
                on them at every step.
            label, guidance, sampler, grid, temperature, top_p, decoding, draft, batch_size: see
                :func:`fewjump.sampler.run`; and so is ``progress``.
            callback: told the state after every step, as ``watch`` of the same.

        Raises:
            ValueError: for arguments that make no sense, before anything is computed.
        """
        given = read_conditions(
            self.vocabulary,
            num_samples,
            self.denoiser.length,
            prompt=prompt,
            infill=infill,
            length=length,
            mask=self.mask,
            padding=self.padding,
        )
        result = run(
            self.denoiser,
            num_samples,
            num_inference_steps,
            sampler,
            grid,
            generator,
            length=given.length,
            batch_size=batch_size,
            prompt=given.prompt,
            fixed=given.fixed,
            label=label,
            guidance=guidance,
            temperature=temperature,
            top_p=top_p,
            decoding=decoding,
            draft=draft,
            progress=progress,
            watch=callback,
        )
        tokens = result.samples.cpu()
        vocabulary = self.vocabulary
        return PipelineOutput(
            tokens=tokens,
            texts=vocabulary.decode(tokens),
            images=vocabulary.images(tokens) if isinstance(vocabulary, ImageLevels) else None,
            nfe=result.nfe,
            seconds=result.seconds,
            seed=result.seed,
            decoding=result.decoding,
        )

    def generate(self, input_ids: Tensor | None = None, **options: Any) -> Tensor:
        """Continue or complete token rows; see
        :func:`fewjump.publish.hub.generate`."""
        return generate(self.denoiser, input_ids, padding=self.padding, **options)
