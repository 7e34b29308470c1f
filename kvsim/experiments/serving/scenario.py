"""What a scenario of serving may say: requests, when they arrive, the engine that serves them, and what is promised."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from kvsim.experiments.base import CacheScenario
from kvsim.experiments.requests import RequestsChoice
from kvsim.experiments.serving.parameters import SchedulingParameters
from kvsim.scenario.decode import ONE_PROFILE
from kvsim.scenario.file import Fraction, Role, Scalar, SizeBytes
from kvsim.scenario.toml import Strict


class TraceChoice(RequestsChoice):
    """Requests of a trace."""

    drop_longer: bool = False
    """Leave out requests that `engine.max_model_len` does not hold, which are an error otherwise."""
    sessions: Literal["none", "by-prefix", "stated"] = "none"
    """Whose next turn comes after the answer to the one before. ``by-prefix``: a request's that begins with all of an
    earlier prompt; ``stated``: as the trace says, after the delays that it states; ``none``: each is by itself."""
    shuffle: bool = False
    """Let sessions come in a random order, so that traffic recorded one kind after another is mixed."""
    output_tokens: PositiveInt | None = None
    """Of a trace that records no outputs: assume so many tokens of each."""


class Lengths(Strict):
    """Random lengths in tokens, 1 at least."""

    mean: Annotated[float, Field(ge=1)]
    cv: NonNegativeFloat = 0.0
    """Standard deviation / mean; 0: all have the mean."""
    distribution: Literal["lognormal", "gamma"] = "lognormal"
    most: PositiveInt | None = None
    """Longer ones are cut to this."""


class Generated(Strict):
    """Requests made up, in sessions of turns: each turn's prompt is the one before with its answer, and more."""

    num_sessions: PositiveInt
    prompt: Lengths
    """The prompt of a session's first turn, what it shares with others included."""
    output: Lengths
    turns: Lengths = Lengths(mean=1.0)
    turn: Lengths | None = None
    """What the user adds in each further turn."""
    shared_tokens: NonNegativeInt = 0
    """Prompts begin with so many tokens that others begin with, too: a system prompt."""
    shared_by: PositiveInt = 1
    """How many different such beginnings there are; sessions take them in turn."""

    @model_validator(mode="after")
    def _is_possible(self) -> Generated:
        if (self.turns.mean > 1) != (self.turn is not None):
            raise ValueError("turns of more than one and turn, what each further one adds, go together")
        return self


class ArrivalChoice(Strict):
    """When sessions begin (requests, where each is a session of one), and how long their users think."""

    process: Literal["trace", "poisson", "gamma", "closed-loop"]
    """``trace``: at the trace's times; ``closed-loop``: users take one after another."""
    rate_hz: PositiveFloat | None = None
    """``poisson`` and ``gamma``: sessions a second."""
    cv: PositiveFloat | None = None
    """``gamma``: standard deviation / mean of the time between two; above 1 in bursts, 1 as Poisson's."""
    speed: PositiveFloat = 1.0
    """``trace``: how many times as fast they come as in the trace."""
    users: PositiveInt | None = None
    """``closed-loop``: how many."""
    think_mean_s: NonNegativeFloat = 0.0
    """From the end of an answer to the same user's next turn, and in a closed loop to its next session."""
    think_cv: NonNegativeFloat = 1.0

    @model_validator(mode="after")
    def _is_whole(self) -> ArrivalChoice:
        is_rate = self.process in ("poisson", "gamma")
        for name, value, is_needed, what in (
            ("rate_hz", self.rate_hz, is_rate, "the sessions a second"),
            ("cv", self.cv, self.process == "gamma", "how irregular gaps are"),
            ("users", self.users, self.process == "closed-loop", "how many there are"),
        ):
            if is_needed and value is None:
                raise ValueError(f"process {self.process!r} needs {name}, {what}")
            if not is_needed and value is not None:
                raise ValueError(f"process {self.process!r} has no {name}: leave it out, or choose another process")
        if self.speed != 1 and self.process != "trace":
            raise ValueError(f"process {self.process!r} has no speed: set rate_hz, or choose process 'trace'")
        return self


class Engine(SchedulingParameters):
    """The engine, under vLLM's names; its pool is stated, or what is left of the device's memory."""

    scheduler: str = "vllm"
    """``vllm``, ``static``, or ``package.module:Class``."""
    arguments: dict[str, Scalar] = {}
    """What another scheduler is made with."""
    num_gpu_blocks_override: Annotated[int, Field(ge=2)] | None = None
    """Blocks of the pool, the null block included."""
    gpu_memory_utilization: Fraction | None = None
    """Share of the device's memory that the engine takes: weights, activations, and blocks with the rest."""
    activation_memory: SizeBytes | None = None
    """What the longest step needs beside weights and blocks; counted from the shape where absent."""

    @model_validator(mode="after")
    def _has_pool(self) -> Engine:
        if (self.num_gpu_blocks_override is None) == (self.gpu_memory_utilization is None):
            raise ValueError("give one of num_gpu_blocks_override and gpu_memory_utilization")
        return self


class TierChoice(Strict):
    """Memory below the device that keeps keys and values of prompts."""

    host_memory: SizeBytes
    disk_memory: SizeBytes | None = None
    disk_read_bandwidth: SizeBytes | None = None
    """Bytes a second."""
    disk_write_bandwidth: SizeBytes | None = None
    disk_latency_s: NonNegativeFloat = 0.0
    """Of each transfer of the disk."""
    order: Literal["lru", "arc"] = "lru"
    """Which chunks leave first."""
    chunk_blocks: PositiveInt = 1
    """Blocks that are kept and moved together."""
    writes: Literal["through", "back"] = "through"
    """``through``: a tier has what the one above computes at once; ``back``: what that one evicts."""
    loads: Literal["always", "break-even"] = "always"
    """``break-even``: compute again what that takes less time for than the idle link does."""
    link_speed: PositiveFloat = 1.0
    """How many times as fast the link to the host is as the profile's."""

    @model_validator(mode="after")
    def _has_whole_disk(self) -> TierChoice:
        speeds = (self.disk_read_bandwidth, self.disk_write_bandwidth)
        if any((speed is None) != (self.disk_memory is None) for speed in speeds):
            raise ValueError("a disk has disk_memory, disk_read_bandwidth and disk_write_bandwidth: give all or none")
        return self


class Slo(Strict):
    """What is promised of each request; goodput counts those for which all of it holds."""

    ttft_s: PositiveFloat | None = None
    tpot_s: PositiveFloat | None = None
    e2e_s: PositiveFloat | None = None
    met_frac: Fraction = 0.95
    """Share of the requests for which it must hold: what `kvsim serving capacity` looks for."""

    @model_validator(mode="after")
    def _has_limit(self) -> Slo:
        if self.ttft_s is None and self.tpot_s is None and self.e2e_s is None:
            raise ValueError("give at least one of ttft_s, tpot_s and e2e_s")
        return self


class RunChoice(Strict):
    """How a simulation runs."""

    seed: NonNegativeInt = 0
    """Of arrivals, lengths, pauses, and the spread of single steps, each from a stream of its own."""
    spread: bool = True
    """Let single steps spread around their costs as they did when they were measured, where the profile knows."""


class RealEngine(Strict):
    """How `kvsim measure` runs vLLM."""

    repeats: PositiveInt = 3
    """How often each cell is served."""
    threads: PositiveInt = 1
    """OpenMP threads; with more than one, a busy neighbour makes steps tens of times as long."""


class Serving(CacheScenario):
    """Many requests on one engine."""

    one_of: ClassVar = (("engine.num_gpu_blocks_override", "engine.gpu_memory_utilization"), ONE_PROFILE)
    inputs: ClassVar[dict[str, Role]] = CacheScenario.inputs | {"trace.path": "requests"}

    kind: Literal["serving"]
    engine: Engine
    trace: TraceChoice | None = None
    generated: Generated | None = None
    arrivals: ArrivalChoice
    tiers: TierChoice | None = None
    slo: Slo | None = None
    run: RunChoice = RunChoice()
    measure: RealEngine | None = None

    @model_validator(mode="after")
    def _has_requests(self) -> Serving:
        if (self.trace is None) == (self.generated is None):
            raise ValueError("give one of [trace] and [generated]: which requests arrive")
        if self.tiers is not None and self.engine.scheduler == "static":
            raise ValueError("engine.scheduler 'static' loads nothing from [tiers]: leave them out, or choose 'vllm'")
        if self.tiers is not None and not self.engine.enable_prefix_caching:
            raise ValueError("[tiers] keep what the prefix cache of the device knows: set engine.enable_prefix_caching")
        if self.arrivals.process == "trace" and self.trace is None:
            raise ValueError("arrivals.process 'trace' takes the times of a [trace]: there is none")
        if self.arrivals.process == "trace" and self.trace is not None and self.trace.shuffle:
            raise ValueError("trace.shuffle gives up the times that arrivals.process 'trace' takes: choose one of them")
        return self
