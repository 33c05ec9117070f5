"""Texts read by a causal language model: generative perplexity, and MAUVE in its features."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from fewjump.config import one_of, optional, require
from fewjump.data import Vocabulary
from fewjump.evaluate.bootstrap import REPLICATES, Interval, bootstrap, ratio
from fewjump.evaluate.frechet import checked_features
from fewjump.random import Generator, integers
from fewjump.reading import EndsName
from fewjump.tokenizing import HUB, hub_name, is_hub, open_tokenizer

_LOGITS = 1 << 27
#: Texts with fewer tokens than this have nothing to score: the first token is given.
_FEWEST = 2
_LENGTH = 1024
MAUVE_SCALE = 5.0
_MIXTURES = 25


@dataclass(frozen=True)
class Readings:
    """What a causal judge says of N texts.

    Attributes:
        nll: (N,) float64, −log p in nats, summed over the tokens after the first.
        counts: (N,) float64, numbers of those tokens.
        features: (N, D) float32, hidden state of the last layer at the last token.
    """

    nll: Tensor
    counts: Tensor
    features: Tensor


class CausalJudge:
    """A causal language model of ``transformers`` that reads samples as text.

    A sample is decoded and tokenised anew, as the judge would write it: a spelling that is unlikely
    for the judge's tokenizer costs nothing. The first token is given. Probabilities are float32
    log-softmax of logits in the precision of the computation, which ``precision`` says.

    Args:
        model: its forward pass gives logits (B, L, V) and hidden states; put in eval mode.
        tokenizer: of the judge: ``transformers``' or ``tokenizers``', or where it is.
        length: tokens that are read of a text; the rest is cut. Default: 1024, or as many as the
            model can.
        ends: documents in one sample: ``first`` reads the first alone, ``keep`` all, with the
            judge's end-of-text token between them, ``drop`` all, with nothing between them.
        precision: float32 or bfloat16 (autocast).
        name: of the judge, for results.

    Raises:
        ValueError: for options outside their range, or ``keep`` of a tokenizer that has no
            end-of-text token.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        length: int | None = None,
        ends: EndsName = "first",
        precision: Literal["float32", "bfloat16"] = "float32",
        name: str = "judge",
    ) -> None:
        one_of("ends", ends, get_args(EndsName))
        config: Any = getattr(model, "config", None)
        most = getattr(config, "max_position_embeddings", None)
        length = min(_LENGTH, most or _LENGTH) if length is None else length
        require(length >= _FEWEST, f"a judge reads at least {_FEWEST} tokens, got {length}")
        require(
            length <= (most or length),
            f"{name} reads at most {most} tokens: set its length to that or less",
        )
        self.model = model.eval().requires_grad_(False)
        self.length, self.ends, self.precision, self.name = length, ends, precision, name
        opened = open_tokenizer(tokenizer)
        self._tokenizer = getattr(opened, "backend_tokenizer", opened)
        end = getattr(config, "eos_token_id", None)
        self._end: int | None = end[0] if isinstance(end, list) else end
        if ends == "keep" and self._end is None:
            raise ValueError(f"{name} has no end-of-text token: read the first document alone")

    @classmethod
    def from_pretrained(
        cls, place: str, device: str = "cpu", tokenizer: Any = None, **options: Any
    ) -> CausalJudge:
        """A judge from a folder of ``transformers``, or from the hub: ``hf:owner/name[@revision]``.

        Weights are read from safetensors, and no code that comes with them is run.

        Args:
            place: where it is.
            device: to compute on.
            tokenizer: what its tokens are, where the model does not say.
            **options: of the judge.

        Raises:
            FileNotFoundError: if there is no such folder; the hub is not asked without ``hf:``.
            ModuleNotFoundError: without the ``hub`` extra.
            ValueError: if no whole causal language model can be read from there.
        """
        if not is_hub(place) and not Path(place).is_dir():
            raise FileNotFoundError(f"no judge at {place}; for one of the hub say {HUB}{place}")
        transformers = optional("transformers", f"reading the judge {place}")
        name, revision = hub_name(place) if is_hub(place) else (place, None)
        try:
            model, report = transformers.AutoModelForCausalLM.from_pretrained(
                name,
                revision=revision,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except Exception as error:  # What is no model has no class of error of its own.
            first = str(error).partition("\n")[0][:200]
            raise ValueError(
                f"no causal language model in safetensors could be read from {place}: {first}"
            ) from error
        if report["missing_keys"]:
            raise ValueError(
                f"the weights in {place} lack {sorted(report['missing_keys'])[0]} of a "
                f"{type(model).__name__}, which would be random; give a causal language model"
            )
        return cls(model.to(device), tokenizer or place, name=place, **options)

    def documents(
        self, samples: Tensor, vocabulary: Vocabulary, texts: list[str] | None = None
    ) -> list[list[str]]:
        """Texts of the documents of each of (N, L) samples, those that :attr:`ends` leaves.

        Args:
            samples: tokens.
            vocabulary: what they mean.
            texts: of whole samples, where they have been decoded.
        """
        end = vocabulary.separator
        if end is None or self.ends == "drop":
            return [[text] for text in texts or vocabulary.decode(samples)]
        parts: list[list[str]] = []
        for row in samples:
            ends = (row == end).nonzero()[:, 0].tolist()
            bounds = pairwise([-1, *ends, len(row)])
            # A separator in front, as in a stream that is cut into windows, ends nothing.
            pieces = [row[a + 1 : b] for a, b in bounds if b > a + 1] or [row[:0]]
            pieces = pieces[:1] if self.ends == "first" else pieces
            parts.append([vocabulary.decode(piece[None])[0] for piece in pieces])
        return parts

    def read(self, documents: Sequence[Sequence[str]]) -> Readings:
        """Score texts, each of which is one document or several.

        Raises:
            ValueError: for none.
        """
        if not documents:
            raise ValueError("there are no texts to read")
        rows = [self._tokens(parts) for parts in documents]
        vocabulary = int(self.model.get_output_embeddings().weight.shape[0])  # type: ignore[operator]
        longest = max(map(len, rows), default=1)
        size = max(1, _LOGITS // (longest * vocabulary))
        # Rows of like lengths together: less padding.
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        found: list[tuple[float, float, Tensor] | None] = [None] * len(rows)
        for start in range(0, len(rows), size):
            chosen = order[start : start + size]
            for i, said in zip(chosen, self._batch([rows[i] for i in chosen])):
                found[i] = said
        nll, counts, features = zip(*(one for one in found if one is not None))
        return Readings(
            torch.tensor(nll, dtype=torch.float64),
            torch.tensor(counts, dtype=torch.float64),
            torch.stack(features),
        )

    def _tokens(self, documents: Sequence[str]) -> list[int]:
        parts = [self._tokenizer.encode(text, add_special_tokens=False).ids for text in documents]
        out = list(parts[0]) if parts else []
        for part in parts[1:]:
            assert self._end is not None
            out += [self._end, *part]
        # An empty text is an end alone: it has features, and nothing to score.
        return out[: self.length] or [self._end or 0]

    @torch.no_grad()
    def _batch(self, rows: list[list[int]]) -> list[tuple[float, float, Tensor]]:
        device = next(self.model.parameters()).device
        sizes = torch.tensor([len(row) for row in rows], device=device)
        width = int(sizes.max())
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
        real = torch.arange(width, device=device) < sizes[:, None]
        wide = self.precision == "float32"
        with nullcontext() if wide else torch.autocast(device.type, torch.bfloat16):
            said = self.model(input_ids=ids, attention_mask=real.long(), output_hidden_states=True)
        logits = said.logits[:, :-1].float()
        nll = logits.logsumexp(-1) - logits.gather(-1, ids[:, 1:, None])[..., 0]
        nll = torch.where(real[:, 1:], nll, 0.0).double().sum(-1)
        last = said.hidden_states[-1][torch.arange(len(rows), device=device), sizes - 1]
        return list(zip(nll.tolist(), (sizes - 1).double().tolist(), last.float().cpu()))


def perplexities(
    readings: Readings, generator: Generator = None, replicates: int = REPLICATES
) -> dict[str, Interval]:
    """Generative perplexity by both averages in use, with intervals over texts.

    * ``gen_ppl``: exp of the mean over all tokens, as MDLM and Duo report;
    * ``gen_ppl_mean``: mean over texts of exp of each text's mean, as SEDD reports. A text without
      a token to score is left out of it.

    Raises:
        ValueError: if no text has two tokens.
    """
    scored = readings.counts > 0
    if not bool(scored.any()):
        raise ValueError("no sample is a text of two tokens of the judge")
    values = torch.stack([readings.nll, readings.counts], -1)
    each = (readings.nll / readings.counts.clamp(min=1)).exp() * scored
    return {
        "gen_ppl": bootstrap(values, lambda v, w: ratio(v, w).exp(), generator, replicates),
        "gen_ppl_mean": bootstrap(
            torch.stack([each, scored.double()], -1), ratio, generator, replicates
        ),
    }


def mauve(
    real: Tensor,
    generated: Tensor,
    generator: Generator = None,
    replicates: int = REPLICATES,
    *,
    clusters: int | None = None,
    scale: float = MAUVE_SCALE,
) -> Interval:
    """MAUVE of two sets of texts, 0 to 1 (Pillutla et al. 2021, arXiv 2102.01454).

    Features are scaled to length 1 and reduced to the principal components that hold 90% of their
    variance; both sets are clustered together by k-means, and the two histograms p and q are
    compared along r = λp + (1 − λ)q: the area under the curve of (exp(−c·KL(q‖r)), exp(−c·KL(p‖r)))
    over λ.

    It grows with the number of texts for any two unlike laws: compare sets of equal size. The
    interval resamples the generated texts, with clusters and real texts fixed.

    Args:
        real, generated: (M, D) and (N, D) features.
        generator, replicates: of k-means' start and of the bootstrap.
        clusters: their number; min(M, N)/10, at least 2, by default.
        scale: c.

    Raises:
        ModuleNotFoundError: without the ``eval`` extra.
        ValueError: for features of different widths, or that are not finite, and for more
            clusters than texts.
    """
    optional("sklearn", "MAUVE", "eval")
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    real, generated = checked_features(real, generated)
    count = clusters or max(2, round(min(len(real), len(generated)) / 10))
    if not 2 <= count <= len(real) + len(generated):
        raise ValueError(
            f"clusters must be from 2 to {len(real) + len(generated)}, the number of texts; got "
            f"{count}"
        )
    start = int(integers(2**31 - 1, (1,), generator, torch.device("cpu"))[0])
    both = nn.functional.normalize(torch.cat([real, generated]), dim=-1).numpy()
    both = PCA(n_components=0.9, svd_solver="full").fit_transform(both)
    found = KMeans(count, n_init="auto", max_iter=500, random_state=start).fit(both)
    cells = torch.from_numpy(found.labels_).long()
    p = torch.bincount(cells[: len(real)], minlength=count).double() / len(real)
    members = nn.functional.one_hot(cells[len(real) :], count).double()
    return bootstrap(members, lambda v, w: divergence_area(p, w @ v, scale), generator, replicates)


def divergence_area(p: Tensor, q: Tensor, scale: float = MAUVE_SCALE) -> Tensor:
    """Area under the divergence curve of histograms (K,) and (R, K): (R,) float64.

    By the trapezoidal rule along either axis, whose mean is taken, over 25 values of λ and the ends
    of the curve.
    """
    small = 1e-6
    share = torch.linspace(small, 1 - small, _MIXTURES, dtype=torch.float64)[:, None, None]
    p, q = p.double(), q.double()
    r = share * p + (1 - share) * q
    x = (-scale * _kl(q, r)).exp()
    y = (-scale * _kl(p, r)).exp()
    edge = torch.zeros(1, q.shape[0], dtype=torch.float64)
    # λ from 0 to 1: x falls from 1 to 0 while y rises.
    x, y = torch.cat([edge + 1, x, edge]), torch.cat([edge, y, edge + 1])
    return 0.5 * (-torch.trapezoid(y, x, dim=0) + torch.trapezoid(x, y, dim=0))


def _kl(p: Tensor, r: Tensor) -> Tensor:
    """KL of p from r, both (..., K), along the last axis; r > 0 where p is."""
    return (torch.xlogy(p, p) - torch.xlogy(p, r.clamp(min=1e-300))).sum(-1)
