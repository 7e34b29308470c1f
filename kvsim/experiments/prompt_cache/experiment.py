"""What the experiment offers, for the registry."""

from kvsim.experiments.prompt_cache.scenario import PromptCacheScenario
from kvsim.experiments.prompt_cache.simulate import check, compare, figures, show, simulate, warnings
from kvsim.experiments.types import Experiment

EXPERIMENT: Experiment[PromptCacheScenario] = Experiment(
    check=check, warnings=warnings, simulate=simulate, show=show, figures=figures, compare=compare
)
