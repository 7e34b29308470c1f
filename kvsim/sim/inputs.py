"""What one simulated decode run is given, and how it begins, whichever path it takes."""

from __future__ import annotations

from dataclasses import dataclass

from kvsim.policies.base import Policy, Setting, reads_speculation
from kvsim.policies.future import is_oracle
from kvsim.policies.residency import Residency
from kvsim.profile.profile import Profile
from kvsim.sim.replay import Replay, ReplayFuture
from kvsim.types import PageIds


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationInput:
    """Everything one run needs; nothing is read from anywhere else."""

    profile: Profile
    replay: Replay
    policy: Policy
    policy_name: str
    """What the profile calls the policy's decision cost."""
    setting: Setting
    page_bytes: int
    pinned_first_pages: int
    pinned_last_pages: int
    warmup_steps: int
    chunk_pages: int
    window_transfers: int

    @property
    def reads_all(self) -> bool:
        """Whether no page is scored: attention reads every page, or what a policy kept by place alone."""
        ignores_scores = self.drops and not self.policy.reads_selection
        return self.policy.attends == "everything" or not self.replay.scores_pages or ignores_scores

    @property
    def drops(self) -> bool:
        """Whether attention reads what the policy kept, so that nothing is fetched and nothing written back."""
        return self.policy.attends == "resident"

    @property
    def shows_speculation(self) -> bool:
        """Whether the policy sees the next layer's scores as predicted; it may change its mind in any decision."""
        return not self.reads_all and reads_speculation(self.policy)

    @property
    def predicts(self) -> bool:
        """Whether somebody needs the next layer's scores predicted now: the policy, or the selector."""
        return self.shows_speculation or (not self.reads_all and self.replay.selects_by_speculation)

    def make_residency(self) -> Residency:
        """Return the page table of the run, before it starts."""
        return Residency(
            self.policy,
            self.setting,
            pinned_first_pages=self.pinned_first_pages,
            pinned_last_pages=self.pinned_last_pages,
        )

    def start(self, residency: Residency) -> PageIds:
        """Place what prefill left, hand an oracle the future, and return the resident pages."""
        if is_oracle(self.policy):
            self.policy.foresee(ReplayFuture(self.replay, self.reads_all))
        return residency.start(self.replay.num_pages(self.replay.context_tokens(0) - 1))
