"""Greedy generation with and without transformers' KV cache, timed token by token, and the memory that it takes."""

from __future__ import annotations

import ctypes
import gc
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_M_MMAP_THRESHOLD, _MMAP_BYTES = -3, 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """One run of generation."""

    token_ids: NDArray[np.int64]
    """``[num_sequences, new_tokens]``."""
    step_s: NDArray[np.float64]
    """Seconds of each token, ``[new_tokens]``; the first has the prompt's."""
    kv_bytes: int
    """Bytes that the cache's tensors hold at the end."""
    computed_tokens: int
    """Tokens that went through the model, counted where they went in."""


def generate(
    model: Any,
    prompt_ids: NDArray[np.int64],
    new_tokens: int,
    *,
    use_cache: bool,
    progress: Callable[[float], None] | None = None,
) -> Generated:
    """Generate greedily after `prompt_ids`, ``[num_sequences, prompt_tokens]``; with no cache all is read each time."""
    cache = DynamicCache(config=model.config) if use_cache else None
    ids = torch.from_numpy(prompt_ids).to(model.device)
    fed, computed, step_s = ids, 0, []
    chosen: list[torch.Tensor] = []
    with torch.inference_mode():
        for _ in range(new_tokens):
            started_s = time.perf_counter()
            computed += fed.numel()
            logits = model(fed, past_key_values=cache, use_cache=use_cache, logits_to_keep=1).logits
            token = logits[:, -1].argmax(dim=-1, keepdim=True)
            chosen.append(token.cpu())
            step_s.append(time.perf_counter() - started_s)
            if not use_cache:
                ids = torch.cat((ids, token), dim=1)
            fed = token if use_cache else ids
            if progress is not None:
                progress(1 / new_tokens)
    return Generated(
        token_ids=torch.cat(chosen, dim=1).numpy(),
        step_s=np.array(step_s),
        kv_bytes=_cache_bytes(cache),
        computed_tokens=computed,
    )


def use_threads(num_threads: int) -> None:
    """Let torch compute on so many threads."""
    torch.set_num_threads(num_threads)


def peak_bytes(work: Callable[[], object], device: str) -> int | None:
    """Return the most memory that `work` took beyond what was taken before, in bytes; None where nobody tells.

    On a GPU what torch's allocator handed out. On Linux the process's resident memory, with freed blocks given back at
    once (glibc's own threshold for that moves otherwise); so nothing timed should run inside.
    """
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before)
    if not _give_back_freed():
        return None
    _CLEAR.write_text("5")  # the peak begins anew
    before = _status_bytes("VmRSS")
    work()
    return max(0, _status_bytes("VmHWM") - before)


def _give_back_freed() -> bool:
    try:
        libc = ctypes.CDLL(None)
        kept = libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        gc.collect()
        libc.malloc_trim(0)
    except (OSError, AttributeError):
        return False
    return bool(kept) and _CLEAR.exists()


def _status_bytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    assert found is not None  # every Linux has them
    return int(found[1]) * 1024


def _cache_bytes(cache: DynamicCache | None) -> int:
    layers: list[Any] = cache.layers if cache is not None else []
    return sum(int(layer.keys.nbytes + layer.values.nbytes) for layer in layers)
