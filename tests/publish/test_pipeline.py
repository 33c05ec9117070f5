"""The pipeline: words in, samples out, thin over the sampler."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fewjump
from fewjump.data import Characters, ImageLevels
from fewjump.publish import Pipeline
from fewjump.sampler import RunProgress
from fewjump.sampler import run as draw
from publish.toy import model, uniform_model

LETTERS = Characters("abc ")


def test_it_is_the_sampler_with_words(tmp_path: Path) -> None:
    pipe = Pipeline(model(), LETTERS)
    out = pipe(5, num_inference_steps=3, generator=7, sampler="euler", temperature=0.9)
    plain = draw(model(), 5, 3, "euler", generator=7, temperature=0.9)
    assert torch.equal(out.tokens, plain.samples)
    assert out.texts == LETTERS.decode(plain.samples)
    assert (out.nfe, out.images, out.seed) == (plain.nfe, None, 7)
    again = Pipeline(fewjump.load(pipe.save_pretrained(tmp_path / "m")))
    assert again.vocabulary == LETTERS
    assert torch.equal(again(5, 3, generator=7).tokens, pipe(5, 3, generator=7).tokens)


def test_samples_do_not_depend_on_the_batch_split() -> None:
    pipe = Pipeline(model(length=None))
    options = {"generator": 3, "prompt": ["0", "1", "2", "3", "0"], "length": 7}
    whole = pipe(5, 4, **options).tokens
    assert torch.equal(whole, pipe(5, 4, batch_size=2, **options).tokens)
    assert whole[:, 0].tolist() == [0, 1, 2, 3, 0]


@pytest.mark.parametrize("make", [model, uniform_model])
def test_infilling_keeps_every_given_token(make) -> None:
    pipe = Pipeline(make(), LETTERS)
    out = pipe(6, 3, generator=0, infill="a[MASK] [MASK]b")
    assert all(t[0] == "a" and t[2] == " " and t[4] == "b" and len(t) == 6 for t in out.texts)
    assert len({t[1] for t in out.texts}) > 1
    each = pipe(2, 2, generator=0, infill=["[MASK]bb", "cc[MASK]"])
    assert each.texts[0][1:3] == "bb"
    assert each.texts[1][:2] == "cc"


def test_without_a_length_an_infilling_brings_its_own() -> None:
    pipe = Pipeline(model(length=None), LETTERS)
    assert len(pipe(1, 2, infill="a[MASK]b").texts[0]) == 3
    assert len(pipe(1, 2, infill="a[MASK]b", length=5).texts[0]) == 5
    tokens = torch.tensor([0, 4, 1])
    assert pipe(1, 2, infill=tokens).tokens[0, [0, 2]].tolist() == [0, 1]


def test_lengths_are_taken_in_turn_and_padded() -> None:
    padded = Characters("abc#", "#")
    pipe = Pipeline(model(length=None), padded)
    out = pipe(4, 2, generator=1, length=[2, 5])
    assert out.tokens.shape == (4, 5)
    assert (out.tokens[[0, 2], 2:] == 3).all()


def test_images_come_as_brightness() -> None:
    out = Pipeline(model(length=6), ImageLevels(4, 2, 3))(2, 2, generator=0)
    assert out.images is not None
    assert out.images.shape == (2, 2, 3)
    assert torch.equal(out.images.flatten(1) * 3, out.tokens.float())


def test_the_callback_sees_every_step_of_every_batch() -> None:
    seen: list[RunProgress] = []
    pipe = Pipeline(model(), LETTERS)
    out = pipe(3, 4, generator=0, batch_size=2, callback=seen.append)
    assert [(s.step, s.steps, s.indices.tolist()) for s in seen] == [
        *[(k, 4, [0, 1]) for k in range(1, 5)],
        *[(k, 4, [2]) for k in range(1, 5)],
    ]
    last = torch.cat([s.x for s in seen if s.step == s.steps])
    assert torch.equal(last, out.tokens)
    assert LETTERS.show(seen[0].x[0], mask=4).count("_") == int((seen[0].x[0] == 4).sum()) > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prompt": "a", "infill": "[MASK]"}, "not both"),
        ({"prompt": "abcabc"}, "leaves nothing to draw of 6"),
        ({"prompt": ""}, "empty prompt"),
        ({"prompt": "x"}, "character 'x'"),
        ({"prompt": ["a", "b"]}, "2 prompts were given for 3 samples"),
        ({"infill": "abc"}, r"as \[MASK\]"),
        ({"infill": "[MASK]" * 7}, "leaves nothing to draw"),
        ({"length": [3, 4]}, "need a model with a padding token"),
        ({"length": 0}, "at least 1"),
        ({"num_inference_steps": 0}, "steps"),
    ],
)
def test_nonsense_is_explained(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Pipeline(model(), LETTERS)(3, **options)
    with pytest.raises(ValueError, match="say how long"):
        Pipeline(model(length=None), LETTERS)(3)
    with pytest.raises(ValueError, match="makes images"):
        Pipeline(model(length=6), ImageLevels(4, 2, 3))(1, prompt="a")
