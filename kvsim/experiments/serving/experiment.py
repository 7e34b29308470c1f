"""What the experiment offers, for the registry."""

from kvsim.experiments.serving.compare import compare
from kvsim.experiments.serving.report.figures import figures
from kvsim.experiments.serving.report.tables import show
from kvsim.experiments.serving.scenario import Serving
from kvsim.experiments.serving.simulate import check, simulate
from kvsim.experiments.types import Experiment

EXPERIMENT: Experiment[Serving] = Experiment(
    check=check,
    simulate=simulate,
    show=show,
    figures=figures,
    compare=compare,
    replays_recorded=True,
)
