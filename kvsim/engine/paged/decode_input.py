"""What a decode run on pages is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from kvsim.policies.base import Policy, Setting, reads_speculation
from kvsim.policies.devices import DeviceShare
from kvsim.policies.selectors import Selector
from kvsim.traces.access.base import NEXT_LAYER


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeInput:
    """Everything that one run needs besides model and snapshot; the simulator's input uses the same names."""

    selector: Selector | None
    """None: every page is read and nothing is scored (selector ``full``)."""
    channel: str
    policy: Policy
    setting: Setting
    page_tokens: int
    pinned_first_pages: int
    pinned_last_pages: int
    num_steps: int
    warmup_steps: int
    chunk_pages: int
    window_transfers: int
    sequence_steps: tuple[int, ...] | None = None
    """Steps that each sequence decodes before it ends; all of them where absent."""
    records_speculation: bool = False
    """Predict each layer's scores even if nobody decides by them: to record them, or to time it."""
    devices: tuple[DeviceShare, ...] = ()
    """What each has where the layers lie on several; none where they lie on one, which has `policy` and `setting`."""

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps that each sequence decodes before it ends."""
        return self.sequence_steps or (self.num_steps,) * self.setting.grid.num_sequences

    def of(self, share: DeviceShare) -> DecodeInput:
        """Return what the run of one device needs."""
        return replace(self, setting=share.setting, policy=share.policy, devices=())

    @property
    def scores_pages(self) -> bool:
        """Whether pages are scored and chosen, or all of them read."""
        reads_scores = self.policy.attends == "selection" or (self.drops and self.policy.reads_selection)
        return self.selector is not None and reads_scores

    @property
    def drops(self) -> bool:
        """Whether attention reads what the policy kept, so that nothing is fetched and nothing written back."""
        return self.policy.attends == "resident"

    @property
    def predicts(self) -> bool:
        """Whether the next layer's scores are predicted now: for the policy, the selector or a recording."""
        wants = self.records_speculation or self.channel == NEXT_LAYER or reads_speculation(self.policy)
        return self.scores_pages and wants

    def afresh(self, make_policy: Callable[[Setting], Policy]) -> DecodeInput:
        """Return the same with fresh policies."""
        shares = tuple(replace(share, policy=make_policy(share.setting)) for share in self.devices)
        return replace(self, policy=make_policy(self.setting), devices=shares)
