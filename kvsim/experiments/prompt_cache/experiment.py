"""What the experiment offers, for the registry."""

from kvsim.experiments.prompt_cache.report.compare import compare
from kvsim.experiments.prompt_cache.report.figures import figures
from kvsim.experiments.prompt_cache.report.page import parts
from kvsim.experiments.prompt_cache.report.tables import show
from kvsim.experiments.prompt_cache.scenario import PromptCacheScenario
from kvsim.experiments.prompt_cache.simulate import check, simulate, warnings
from kvsim.experiments.types import Experiment

EXPERIMENT: Experiment[PromptCacheScenario] = Experiment(
    check=check, warnings=warnings, simulate=simulate, show=show, figures=figures, parts=parts, compare=compare
)
