from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fewjump.data import Bytes, Characters, ImageLevels, Tokens, Vocabulary
from fewjump.data.vocabulary import PADDING


def test_characters_keep_the_order_given():
    vocabulary = Characters("zyx é")
    assert vocabulary.encode("é xz").tolist() == [4, 3, 2, 0]
    assert vocabulary.decode(torch.tensor([[4, 3, 2, 0], [1, 1, 1, 1]])) == ["é xz", "yyyy"]


def test_characters_beyond_the_basic_plane_are_one_token():
    vocabulary = Characters.found_in("a😀b")
    assert vocabulary.size == 3
    assert vocabulary.decode(vocabulary.encode("😀ba")) == ["😀ba"]


def test_padding_is_dropped_at_the_end_only():
    vocabulary = Characters.found_in("abba", padded=True)
    assert vocabulary.symbols == "ab" + PADDING
    assert vocabulary.decode(torch.tensor([[0, 2, 1, 2, 2]])) == [f"a{PADDING}b"]


def test_a_foreign_character_is_named_with_its_place():
    with pytest.raises(ValueError, match="'Q' at place 2"):
        Characters("ab").encode("abQa")


def test_repeated_symbols_are_refused():
    with pytest.raises(ValueError, match="'b' repeats"):
        Characters("abcb")


def test_bytes_round_trip_and_show_broken_utf8():
    vocabulary = Bytes()
    assert vocabulary.decode(vocabulary.encode("aé")) == ["aé"]
    assert vocabulary.decode(torch.tensor([97, 0xC3])) == ["a\ufffd"]


def test_tokens():
    vocabulary = Tokens(12)
    assert vocabulary.encode("3 11 0").tolist() == [3, 11, 0]
    assert vocabulary.decode(np.array([[3, 11, 0]], np.uint8)) == ["3 11 0"]
    with pytest.raises(ValueError, match=r"0\.\.11"):
        vocabulary.encode("12")
    with pytest.raises(ValueError, match="separated by spaces"):
        vocabulary.encode("three")


def test_images():
    vocabulary = ImageLevels(5, 2, 3)
    picture = torch.tensor([[0, 1, 2], [3, 4, 0]])
    tokens = vocabulary.encode(picture)
    assert tokens.tolist() == [0, 1, 2, 3, 4, 0]
    bright = vocabulary.images(tokens)
    assert bright.shape == (1, 2, 3)
    assert bright[0, 1].tolist() == [0.75, 1.0, 0.0]
    assert vocabulary.decode(tokens)[0].splitlines()[1][1] == "@"
    with pytest.raises(ValueError, match="2 × 3"):
        vocabulary.encode(picture.T)
    with pytest.raises(ValueError, match="integer levels"):
        vocabulary.encode(picture.float())


@pytest.mark.parametrize(
    "vocabulary",
    [Characters("ab ", None), Characters("ab_", "_"), Bytes(), Tokens(7), ImageLevels(17, 8, 4)],
)
def test_configurations_survive_json(vocabulary):
    again = Vocabulary.from_config(json.loads(json.dumps(vocabulary.config())))
    assert again == vocabulary
    assert type(again) is type(vocabulary)
    assert again.size == vocabulary.size


def test_wrong_configurations():
    with pytest.raises(ValueError, match="known: characters"):
        Vocabulary.from_config({"name": "words"})
    with pytest.raises(ValueError, match="tokens"):
        Vocabulary.from_config({"name": "tokens", "length": 3})


def test_tokens_outside_the_vocabulary_cannot_be_decoded():
    with pytest.raises(ValueError, match="mask"):
        Characters("ab").decode(torch.tensor([[0, 2]]))
