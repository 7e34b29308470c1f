"""What the experiment offers, for the registry."""

from kvsim.experiments.kv_on_off.page import parts
from kvsim.experiments.kv_on_off.report import compare, figures, show
from kvsim.experiments.kv_on_off.scenario import KvOnOff
from kvsim.experiments.kv_on_off.simulate import check, simulate
from kvsim.experiments.types import Experiment

EXPERIMENT: Experiment[KvOnOff] = Experiment(
    check=check, simulate=simulate, show=show, figures=figures, parts=parts, compare=compare
)
