"""The types of what `kvsim/__init__.py` loads when it is asked for."""

from kvsim.caches.cache import Cache as Cache
from kvsim.caches.curve import miss_curve as miss_curve
from kvsim.engine.paged.paged_cache import PagedCache as PagedCache
from kvsim.errors import KvsimError as KvsimError
from kvsim.experiments.calibrate import calibrate as calibrate
from kvsim.experiments.embedding_rows.engine.cache import cached_embedding as cached_embedding
from kvsim.experiments.library import compare as compare
from kvsim.experiments.library import load_profile as load_profile
from kvsim.experiments.library import load_scenario as load_scenario
from kvsim.experiments.library import measure as measure
from kvsim.experiments.library import run as run
from kvsim.experiments.plan.library import plan as plan
from kvsim.experiments.prompt_cache.engine.cache import PromptCache as PromptCache
from kvsim.experiments.prompt_cache.engine.cache import generate_with_prompt_cache as generate_with_prompt_cache
from kvsim.experiments.result import Comparison as Comparison
from kvsim.experiments.result import Result as Result
from kvsim.experiments.result import load_result as load_result
from kvsim.profile.profile import Profile as Profile
from kvsim.profile.profile import write_profile as write_profile
from kvsim.scenario.decode import Scenario as Scenario
from kvsim.traces.access.arrays import Trace as Trace

__version__: str
