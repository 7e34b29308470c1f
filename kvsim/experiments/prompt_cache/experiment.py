"""What the experiment offers, for the registry."""

from kvsim.experiments.prompt_cache.scenario import PromptCacheScenario
from kvsim.experiments.prompt_cache.simulate import check, compare, figures, show, simulate
from kvsim.experiments.types import Experiment

EXPERIMENT: Experiment[PromptCacheScenario] = Experiment(
    check=check, simulate=simulate, show=show, figures=figures, compare=compare
)
