"""Laws: distributions over whole clean sequences."""

from fewjump.law.autoregressive import AutoregressiveLaw, Conditionals, Walk
from fewjump.law.base import Law
from fewjump.law.chain import ChainLaw
from fewjump.law.composed import JoinedLaw, MixtureOf
from fewjump.law.emission import DenseEmission, Emission, PinnedEmission
from fewjump.law.emission_factored import LowRankEmission, SharedFactorEmission
from fewjump.law.enumerated import EnumeratedLaw
from fewjump.law.factored_mixture import FactoredMixtureLaw
from fewjump.law.latent import DiscreteLatent, GaussianLatent, Latent, LatentLaw
from fewjump.law.linear import LinearLaw
from fewjump.law.markov import MarkovLaw
from fewjump.law.mixture import MixtureLaw
from fewjump.law.product import ProductLaw
from fewjump.law.shared_chain import SharedChainLaw
from fewjump.law.shared_mixture import SharedMixtureLaw

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
    "FactoredMixtureLaw",
    "MixtureLaw",
    "MixtureOf",
    "PinnedEmission",
    "ProductLaw",
    "SharedChainLaw",
    "SharedMixtureLaw",
    "SharedFactorEmission",
    "Walk",
]
