"""Whole prompts of any length, found token by token, and which of them leave which tier."""

from kvsim.caches.prompts.accounting import PromptCacheState, TierBudget

__all__ = ["PromptCacheState", "TierBudget"]
