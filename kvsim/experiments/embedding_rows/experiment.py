"""What the experiment offers, for the registry."""

from kvsim.experiments.embedding_rows.scenario import EmbeddingRows
from kvsim.experiments.embedding_rows.simulate import check, compare, figures, show, simulate
from kvsim.experiments.types import Experiment

EXPERIMENT: Experiment[EmbeddingRows] = Experiment(
    check=check, simulate=simulate, show=show, figures=figures, compare=compare
)
