"""The public names, and where each is defined: read by type checkers, and by the package itself."""

from fewjump import data as data
from fewjump import denoiser as denoiser
from fewjump import evaluate as evaluate
from fewjump import law as law
from fewjump import objective as objective
from fewjump import problem as problem
from fewjump import process as process
from fewjump import publish as publish
from fewjump import report as report
from fewjump import sampler as sampler
from fewjump import train as train
from fewjump.api import distill as distill
from fewjump.api import train_teacher as train_teacher
from fewjump.checkpoint import CheckpointError as CheckpointError
from fewjump.checkpoint import load as load
from fewjump.checkpoint import save as save
from fewjump.citations import citation as citation
from fewjump.refinement import refine as refine
from fewjump.sampler import exact_output_law as exact_output_law
from fewjump.sampler import sample as sample
from fewjump.schedule import Cosine as Cosine
from fewjump.schedule import Geometric as Geometric
from fewjump.schedule import Linear as Linear
from fewjump.schedule import LogLinear as LogLinear

__version__: str
__all__: list[str]
