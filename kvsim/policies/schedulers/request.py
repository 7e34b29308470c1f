"""A request as the scheduler of a serving engine sees it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """One request: how many tokens it has, how many of them are computed, and what is in flight.

    After ``vllm/v1/request.py``. A scheduler may read all fields but `stop_tokens` and changes none of them: it goes
    through `EngineState`.
    """

    index: int
    """Which request this is; the block tables know it by this number."""
    prompt_tokens: int
    max_tokens: int
    """The limit on outputs that its user stated."""
    stop_tokens: int
    """The value of `num_tokens` at which it ends. Only the workload knows: a scheduler that reads it is an oracle."""
    priority: int = 0
    """Lower is served first, if the scheduler looks at priorities."""
    arrival: int = 0
    """Place in the order of arrival times; requests with equal times have equal places."""
    rank: int = 0
    """Place in the order of request ids: the last resort where priority and arrival are equal."""

    num_tokens: int = field(init=False)
    """Tokens known: the prompt and what was sampled and delivered so far."""
    computed_tokens: int = 0
    """Tokens whose keys and values exist or are being computed: advanced when they are scheduled."""
    num_preemptions: int = 0
    is_running: bool = False
    is_loading: bool = False
    """Whether its keys and values are on their way from a tier below; it has blocks and does not run."""
    is_finished: bool = False
    placeholders: int = 0
    """Outputs being sampled that are not delivered yet (asynchronous scheduling only)."""
    in_flight_tokens: int = 0
    """Tokens of steps that are scheduled and not delivered yet."""
    stale_tokens: int = 0
    """Those of `in_flight_tokens` that were scheduled before the last preemption."""

    def __post_init__(self) -> None:
        self.num_tokens = self.prompt_tokens

    def tokens_to_compute(self, model_tokens: int) -> int:
        """Return how many tokens wait for computation, 0 if the request is about to reach one of its limits.

        Parameters
        ----------
        model_tokens
            The longest sequence that the model takes (``max_model_len``).
        """
        if self.placeholders and self.computed_tokens + 2 - self.placeholders >= self.prompt_tokens + self.max_tokens:
            return 0
        waiting = self.num_tokens + self.placeholders - self.computed_tokens
        return min(waiting, model_tokens - 1 - self.computed_tokens)
