"""Data: sequences of tokens, and what the tokens mean."""

from fewjump.data.corpus import corpus
from fewjump.data.dataset import Dataset, as_tokens
from fewjump.data.documents import read_documents
from fewjump.data.load import BUILTIN, builtin_text, digits, load_data
from fewjump.data.pieces import SMILES, Pieces
from fewjump.data.text import line_file, normalise_text, smiles_file, text_file, text_stream
from fewjump.data.tokenizer import TokenizerVocabulary
from fewjump.data.tokens import token_file
from fewjump.data.vocabulary import Bytes, Characters, ImageLevels, Tokens, Vocabulary
from fewjump.reading import DataKind, Packing

__all__ = [
    "BUILTIN",
    "SMILES",
    "Bytes",
    "Characters",
    "DataKind",
    "Dataset",
    "ImageLevels",
    "Packing",
    "Pieces",
    "TokenizerVocabulary",
    "Tokens",
    "Vocabulary",
    "as_tokens",
    "builtin_text",
    "corpus",
    "digits",
    "line_file",
    "load_data",
    "normalise_text",
    "read_documents",
    "smiles_file",
    "text_file",
    "text_stream",
    "token_file",
]
