"""What the experiment offers, for the registry."""

from kvsim.experiments.prompt_modules.scenario import PromptModules
from kvsim.experiments.prompt_modules.simulate import check, compare, figures, show, simulate
from kvsim.experiments.types import Experiment

EXPERIMENT: Experiment[PromptModules] = Experiment(
    check=check, simulate=simulate, show=show, figures=figures, compare=compare
)
