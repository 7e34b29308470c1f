"""What the experiment offers, for the registry."""

from kvsim.experiments.prompt_modules.page import parts
from kvsim.experiments.prompt_modules.report import compare, figures, show
from kvsim.experiments.prompt_modules.scenario import PromptModules
from kvsim.experiments.prompt_modules.simulate import check, simulate
from kvsim.experiments.types import Experiment

EXPERIMENT: Experiment[PromptModules] = Experiment(
    check=check, simulate=simulate, show=show, figures=figures, parts=parts, compare=compare
)
