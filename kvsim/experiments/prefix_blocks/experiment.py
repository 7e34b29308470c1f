"""What the experiment offers, for the registry."""

from kvsim.experiments.prefix_blocks.scenario import PrefixBlocks
from kvsim.experiments.prefix_blocks.simulate import check, compare, figures, show, simulate
from kvsim.experiments.types import Experiment

EXPERIMENT: Experiment[PrefixBlocks] = Experiment(
    check=check, simulate=simulate, show=show, figures=figures, compare=compare
)
