"""Prompt modules: what a schema in prompt markup says, where each module lies, what a prompt reuses, and its masks.

After Gim et al., "Prompt Cache: Modular Attention Reuse for Low-Latency Inference" (arXiv 2311.04934). Nothing here
knows a model: texts are measured by a function that returns their number of tokens.
"""

from __future__ import annotations

from kvsim.experiments.prompt_modules.schema.assembly import Assembly, assemble
from kvsim.experiments.prompt_modules.schema.layout import Layout, LengthOf, Unit, lay_out
from kvsim.experiments.prompt_modules.schema.prompts import Prompt, parse_prompts
from kvsim.experiments.prompt_modules.schema.schema import Schema, parse_schema

__all__ = [
    "Assembly",
    "Layout",
    "LengthOf",
    "Prompt",
    "Schema",
    "Unit",
    "assemble",
    "lay_out",
    "parse_prompts",
    "parse_schema",
]
