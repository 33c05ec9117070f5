"""Laws: distributions over whole clean sequences."""

from fewjump.law.autoregressive import AutoregressiveLaw, Conditionals, Walk
from fewjump.law.base import Law
from fewjump.law.chain import ChainLaw
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
from fewjump.law.product import ProductLaw, Scores

__all__ = [
    "AutoregressiveLaw",
    "ChainLaw",
    "Conditionals",
    "DenseEmission",
    "DenseLogits",
    "DiscreteLatent",
    "Emission",
    "EnumeratedLaw",
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
    "Scores",
    "SharedFactorEmission",
    "Walk",
]
