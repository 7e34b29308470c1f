"""Where every cost of the H200's profile comes from, in words; `make_h200.py` makes the profile."""

from __future__ import annotations

SYSTEMS = "aiconfigurator_core/systems/"
ATTENTION_OF = "data/h200_sxm/attention/{}/generation_attention_perf.parquet"
GEMM_OF = "data/h200_sxm/gemm/{}/gemm_perf.parquet"
ENGINE, OTHER_ENGINES = "vllm/0.24.0", ("sglang/0.5.14", "trtllm/1.3.0rc20")
"""Whose kernels the profile has, and whose take part in its intervals: a server may run either."""
ATTENTION, GEMM = ATTENTION_OF.format(ENGINE), GEMM_OF.format(ENGINE)
PACKAGE = "aiconfigurator-core 0.12.0 (PyPI, NVIDIA), systems/"

GEMM_SOURCE = f"{PACKAGE}{GEMM}: torch.nn.functional.linear, bf16, NVIDIA H200, m = batch, made monotone in m"
SMALL_SOURCE = f"bytes / (0.8 * 4.8 TB/s) + 3 us, the rule of {PACKAGE}h200_sxm.yaml (unofficial, says the file)"
ATTENTION_SOURCE = (
    f"{PACKAGE}{ATTENTION}: vllm_flash_attn_fa3, NVIDIA H200, bf16, 32 query and 8 KV heads of 128, window 0; "
    "tokens = batch * (step + 1), so that every grid point is a row; made monotone in the tokens. Batch 1 at 131072 "
    "is the row with 16 query heads (152.1 us; at 65536 the two differ by 1%). Five grid points have no row: above "
    "131072 at batch 1 and 2 and at 524288 at batch 4 the time goes on linearly from the last two rows"
)
INPUT_SOURCE = (
    f"add and norm, QKV product (n 6144, k 4096), rotary, append to the cache. Product: {GEMM_SOURCE}. "
    f"The three small kernels: {SMALL_SOURCE}"
)
OUTPUT_SOURCE = (
    "output projection (n 4096, k 4096), add and norm, gate and up in one (n 28672, linear between the rows of "
    "n 16384 and 51200 at k 4096), activation, down (k 14336, linear between the rows of k 12288 and 16384 at n 4096). "
    f"Products: {GEMM_SOURCE}. Small kernels: {SMALL_SOURCE}"
)
HEAD_SOURCE = (
    "norm, LM head (n 128256, the row of n 65536 at k 4096 times 128256 / 65536: the same bandwidth), greedy sampling. "
    f"Product: {GEMM_SOURCE}. Small kernels: {SMALL_SOURCE}"
)
EMBED_SOURCE = f"one gather of a row a sequence: {SMALL_SOURCE}"
SELECT_SOURCE = (
    f"scoring reads the minimum and maximum key of every page (4096 bytes): {SMALL_SOURCE}; top-k: 10 us, the upper "
    "end of Quest's 5-10 us (arXiv 2406.10774, kernel evaluation, below 128k tokens). On an H200 the package's "
    "sglang/0.5.14/dsv4_csa_topk_calib_perf has 6.8 to 13.2 us for 512 of 768 to 4096 flat scores, "
    "and no dependence on the batch up to 64"
)
SPECULATE_SOURCE = (
    "assumption: predicting the next layer's scores is its norm, its query projection (n 4096, k 4096), the rotary "
    "embedding of the query and the scoring of its pages, kernel after kernel on the compute stream; no top-k. "
    f"Projection: {GEMM_SOURCE}. Small kernels, 4096 bytes a page among them: {SMALL_SOURCE}"
)
TO_DEVICE_SOURCE = (
    "GB/s of one cuMemcpyBatchAsync over 10000, 50000 and 100000 pieces of 4 to 64 KiB, H100: vllm PR 42212. 2 MiB: "
    "about 50 GB/s one way, H100, blog.vllm.ai 2026-01-08 (KV offloading connector). One piece: 2.3 us of a batched "
    "call (H100, meta-pytorch/torchcomms PR 2195) and its share of the 10000: few pieces go at the rate of 10000"
)
TO_HOST_SOURCE = (
    "52.77 GB/s, device_to_host_memcpy_sm on an H100, NVIDIA/nvbandwidth issue 24; assumption: each piece costs "
    "besides what one to the device does (0.42 us: 64 KiB at 10000 pieces against 100000, vllm PR 42212), "
    "and no cliff below 28 KiB, which that PR reports of the other direction only"
)
DECISION_SOURCE = (
    "assumption: 25 us and 0.2 us a selected page, what kvsim's own `lru` with its page table takes in Python on a "
    "2-core AMD EPYC (30 us at 20 pages, 42 at 67, 79 at 260). `attention`, which ranks all pages of the batch, takes "
    "longer there the longer the context (of 32 layers: 73 us at 128 pages a layer, 113 at 512, 300 at 2048): for it "
    "this says what a compiled one might cost"
)
STREAM_SOURCE = (
    "assumption: 35 us and 0.027 us a page, what kvsim's own `stream` with its page table takes in Python on a 2-core "
    "AMD EPYC (39 us at 128 pages a layer, 49 at 512, 89 at 2048)"
)
RESIDENT_SOURCE = "assumption: nothing to decide"
SYNC_SOURCE = (
    "assumption: 15 us for a read-back of page ids: 6 us for the copy (5-7 us a cudaMemcpyAsync, DualPath, "
    "arXiv 2602.21548, section 5.2) and 9 us, for which no source was found, until the host has woken and relaunched"
)
SOURCES = {
    "device_memory_bytes": f"{PACKAGE}h200_sxm.yaml, mem_capacity",
    "sync_s": SYNC_SOURCE,
    "runtime": "assumption: CUDA graphs, so that launches cost the host nothing",
    "link.to_device.submit_s": "2.3 us a batched call of 1 byte on an H100: meta-pytorch/torchcomms PR 2195; "
    "2.3 us a cudaMemcpyAsync on an H20: taco-project/FlexKV PR 193",
    "link.to_host.submit_s": "as to the device",
    "link.both_ways_slowdown_frac": "83.4 GB/s both ways together against about 50 one way, 2 MiB blocks, H100: "
    "blog.vllm.ai 2026-01-08 (KV offloading connector)",
    "link.compute_slowdown_frac": "assumption: none; the same post finds that copy engines disturb compute little",
}
NOTES = (
    "Published numbers of several machines put together; nothing was run as a whole. Kernels: H200. Copies: H100, "
    "with the same PCIe 5 x16 link. See docs/profiles.md for what it cannot say."
)
