"""What the experiment offers, for the registry."""

from kvsim.experiments.prefix_blocks.page import parts
from kvsim.experiments.prefix_blocks.report import compare, figures, show
from kvsim.experiments.prefix_blocks.scenario import PrefixBlocks
from kvsim.experiments.prefix_blocks.simulate import check, simulate, warnings
from kvsim.experiments.types import Experiment

EXPERIMENT: Experiment[PrefixBlocks] = Experiment(
    check=check,
    warnings=warnings,
    simulate=simulate,
    show=show,
    figures=figures,
    parts=parts,
    compare=compare,
    replays_recorded=True,
)
