"""Keys of a `config.json` that change no size in any family; others that nobody reads are listed as unread."""

from __future__ import annotations

_STARTS = ("rope_", "rotary", "summary_", "time_step_", "_attn_", "aux_loss", "router_", "attn_logit")
_ENDS = (
    "_act",
    "_activation",
    "_dropout",
    "_eps",
    "_epsilon",
    "_in_fp32",
    "_jitter_noise",
    "_limit",
    "_multiplier",
    "_multipliers",
    "_pdrop",
    "_router_dtype",
    "_softcapping",
    "_token_id",
)
_KEYS = frozenset(
    {
        "_name_or_path",
        "activation_function",
        "architectures",
        "auto_map",
        "block_dim",
        "cache_implementation",
        "chunk_size",
        "compression_config",
        "conv_dim",
        "conv_dim_out",
        "dtype",
        "ep_size",
        "experts_per_token",
        "full_attn_mod",
        "id2label",
        "index_share_for_mtp_iteration",
        "indexer_rope_interleave",
        "initial_context_length",
        "initializer_range",
        "interpolate_factor",
        "is_decoder",
        "is_llama_config",
        "label2id",
        "length_penalty",
        "logit_scale",
        "logits_scaling",
        "mamba_chunk_size",
        "max_length",
        "model_type",
        "n_ctx",
        "n_group",
        "norm_topk_prob",
        "num_beam_groups",
        "num_beams",
        "num_logits_to_keep",
        "num_return_sequences",
        "original_max_position_embeddings",
        "partial_rotary_factor",
        "pretraining_tp",
        "qk_head_dim",
        "quantization",
        "quantization_config",
        "query_pre_attn_scalar",
        "repetition_penalty",
        "rescale_prenorm_residual",
        "return_dict",
        "routed_scaling_factor",
        "scale_attn_weights",
        "scoring_func",
        "seq_aux",
        "task_specific_params",
        "temperature",
        "tokenizer_class",
        "top_k",
        "top_p",
        "topk_group",
        "topk_method",
        "torch_dtype",
        "transformers_version",
        "typical_p",
        "use_cache",
        "use_mamba_kernels",
    }
)


def is_neutral(key: str) -> bool:
    """Return whether a key changes no size.

    Examples
    --------
    >>> is_neutral("rope_theta"), is_neutral("rms_norm_eps"), is_neutral("num_experts")
    (True, True, False)
    """
    return key in _KEYS or key.startswith(_STARTS) or key.endswith(_ENDS)
