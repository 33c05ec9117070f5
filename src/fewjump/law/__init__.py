"""Laws: distributions over whole clean sequences."""

from fewjump.law.autoregressive import AutoregressiveLaw, Conditionals, Walk
from fewjump.law.base import Decoding, Law
from fewjump.law.chain import ChainLaw
from fewjump.law.decoding import DraftAndVerify, FixedPoint
from fewjump.law.emission import (
    DenseEmission,
    Emission,
    LowRankEmission,
    PinnedEmission,
    SharedFactorEmission,
)
from fewjump.law.enumerated import EnumeratedLaw
from fewjump.law.guided import GuidedLogits
from fewjump.law.latent import DiscreteLatent, GaussianLatent, Latent, LatentLaw
from fewjump.law.logits import DenseLogits, LinearLogits, Logits
from fewjump.law.markov import MarkovLaw
from fewjump.law.mixture import JoinedLaw, MixtureLaw, MixtureOf
from fewjump.law.product import ProductLaw
from fewjump.law.scores import Ratios, Scores
from fewjump.law.tensor_train import TensorTrain
from fewjump.law.transition import Transition

__all__ = [
    "AutoregressiveLaw",
    "ChainLaw",
    "Conditionals",
    "Decoding",
    "DenseEmission",
    "DenseLogits",
    "DiscreteLatent",
    "DraftAndVerify",
    "Emission",
    "EnumeratedLaw",
    "FixedPoint",
    "GaussianLatent",
    "GuidedLogits",
    "JoinedLaw",
    "Latent",
    "LatentLaw",
    "Law",
    "LinearLogits",
    "Logits",
    "LowRankEmission",
    "MarkovLaw",
    "MixtureLaw",
    "MixtureOf",
    "PinnedEmission",
    "ProductLaw",
    "Ratios",
    "Scores",
    "SharedFactorEmission",
    "TensorTrain",
    "Transition",
    "Walk",
]
