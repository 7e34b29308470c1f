"""What the experiment offers, for the registry."""

from kvsim.experiments.embedding_rows.page import parts
from kvsim.experiments.embedding_rows.report import compare, figures, show
from kvsim.experiments.embedding_rows.scenario import EmbeddingRows
from kvsim.experiments.embedding_rows.simulate import check, simulate
from kvsim.experiments.types import Experiment

EXPERIMENT: Experiment[EmbeddingRows] = Experiment(
    check=check, simulate=simulate, show=show, figures=figures, parts=parts, compare=compare, replays_recorded=True
)
