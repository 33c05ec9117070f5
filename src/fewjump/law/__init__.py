"""Laws: distributions over whole clean sequences."""

from fewjump.law.autoregressive import AutoregressiveLaw, Conditionals, Walk
from fewjump.law.base import Law
from fewjump.law.chain import ChainLaw
from fewjump.law.composed import JoinedLaw, MixtureOf
from fewjump.law.emission import (
    DenseEmission,
    Emission,
    LowRankEmission,
    PinnedEmission,
    SharedFactorEmission,
)
from fewjump.law.enumerated import EnumeratedLaw
from fewjump.law.latent import DiscreteLatent, GaussianLatent, Latent, LatentLaw
from fewjump.law.linear import LinearLaw
from fewjump.law.markov import MarkovLaw
from fewjump.law.mixture import MixtureLaw
from fewjump.law.product import ProductLaw

__all__ = [
    "AutoregressiveLaw",
    "ChainLaw",
    "Conditionals",
    "DenseEmission",
    "DiscreteLatent",
    "Emission",
    "EnumeratedLaw",
    "GaussianLatent",
    "JoinedLaw",
    "Latent",
    "LatentLaw",
    "Law",
    "LinearLaw",
    "LowRankEmission",
    "MarkovLaw",
    "MixtureLaw",
    "MixtureOf",
    "PinnedEmission",
    "ProductLaw",
    "SharedFactorEmission",
    "Walk",
]
