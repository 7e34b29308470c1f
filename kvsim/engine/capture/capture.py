"""`kvsim capture`: runs a model over a text and writes what its layers attend to in decode and what selectors see."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from kvsim.engine.capture.recorder import QUEST, StepRecorder, parse_channel, recording
from kvsim.engine.model.dense import dense_name
from kvsim.engine.model.families import check_readable, family_of
from kvsim.engine.model.first_token import prefill_logits
from kvsim.engine.model.forward import logits_of
from kvsim.engine.model.layers import paged_layers
from kvsim.engine.model.loading import load_model, read_shape, shape_of
from kvsim.errors import KvsimError
from kvsim.scenario.regular_files import read_text as read_file
from kvsim.scenario.shapes import DType, ModelShape
from kvsim.traces.access.base import MASS, NEXT_LAYER
from kvsim.traces.access.file import TraceWriter
from kvsim.traces.access.header import TraceHeader, channel_of, layout_of

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with the stage (``prefill`` or ``decode``), the tokens of it that are done, and how many there are."""

Announce: TypeAlias = Callable[[int, int], None]
"""Called with the bytes of memory that a capture needs (`capture_bytes`) and those of its file (`trace_bytes`)."""

DEFAULT_CHANNELS = (f"{QUEST}@32", f"{QUEST}@64", f"{NEXT_LAYER}@32")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureRequest:
    """What to record: `prompt_tokens` of the text are read at once, then `decode_tokens` one at a time.

    Raises
    ------
    KvsimError
        If a count is below 1, the temperature negative, or a channel none that can be recorded.
    """

    prompt_tokens: int
    decode_tokens: int
    channels: tuple[str, ...] = DEFAULT_CHANNELS
    """Channels beside ``mass``, each with its page size."""
    temperature: float | None = None
    """None feeds the text's own next token (teacher-forced); 0 the model's likeliest; more samples the model's."""
    seed: int = 0
    chunk_tokens: int = 512
    """Tokens of one call of the prefill."""

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "decode_tokens", "chunk_tokens"):
            if getattr(self, name) < 1:
                raise KvsimError(f"{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if self.temperature is not None and not 0 <= self.temperature < float("inf"):
            raise KvsimError(f"temperature must be 0 or more, got {self.temperature}")
        for name in self.channels:
            parse_channel(name)
        if len(set(self.channels)) != len(self.channels):
            raise KvsimError(f"channels are named twice: {', '.join(self.channels)}")

    @property
    def max_tokens(self) -> int:
        """Tokens that the last step attends to."""
        return self.prompt_tokens + self.decode_tokens

    @property
    def text_tokens(self) -> int:
        """Tokens that the text must have."""
        return self.max_tokens if self.temperature is None else self.prompt_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureOrigin:
    """Where a trace comes from, for its header."""

    model: str
    text: str
    recipe: str = ""
    """The command that makes the trace again."""


def capture(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    output: Path,
    request: CaptureRequest,
    *,
    origin: CaptureOrigin,
    progress: Progress | None = None,
) -> None:
    """Write the trace of `model` reading `text`, whole or not at all.

    The prefill runs in chunks, through SDPA where the family allows it, so that no attention matrix of the prompt is
    ever held. A decode step attends likewise; its row of attention is computed a second time, in float32, to be
    recorded. Layers that hold a sliding window have no pages and are not recorded.

    Raises
    ------
    KvsimError
        If the text is too short, the model's context too, or the model of no family that kvsim reads.
    TraceError
        If the file cannot be written.
    """
    shape = shape_of(model)
    lengths = f"{request.prompt_tokens} tokens of prompt and {request.decode_tokens} decoded"
    check_readable(model, request.max_tokens, where=f"{origin.model}: {lengths}")
    header = _header(text, shape, request, origin)
    tokens = _tokens(tokenizer, text, request, origin).to(model.device)
    steps = _steps(model, tokens, request, progress or _silent)
    with torch.inference_mode(), TraceWriter(output, header) as writer, contextlib.closing(steps):
        for context_tokens, values in steps:
            writer.append([context_tokens], values)


def capture_file(
    model: Path | str,
    text: Path,
    output: Path,
    request: CaptureRequest,
    *,
    dtype: DType = "fp32",
    device: str = "cpu",
    recipe: str = "",
    announce: Announce | None = None,
    progress: Progress | None = None,
) -> None:
    """Load `model`, read the file `text` as UTF-8, and capture; `announce` gets the sizes before the weights load.

    Raises
    ------
    KvsimError
        If the text or the model cannot be read, and as `capture` does.
    """
    try:
        content = read_file(text)
    except OSError as problem:
        raise KvsimError(f"{text}: cannot be read: {problem.strerror}") from None
    except UnicodeDecodeError as problem:
        raise KvsimError(f"{text}: not UTF-8 text, byte {problem.start} is wrong") from None
    shape = read_shape(model, dtype)
    if announce is not None:
        announce(capture_bytes(shape, request), trace_bytes(shape, request))
    loaded, tokenizer = load_model(model, dtype, device)
    name = str(model) if isinstance(model, str) and not Path(model).exists() else Path(model).resolve().name
    origin = CaptureOrigin(model=name, text=text.name, recipe=recipe)
    capture(loaded, tokenizer, content, output, request, origin=origin, progress=progress)


def capture_bytes(shape: ModelShape, request: CaptureRequest) -> int:
    """Return the bytes of the tensors that a capture holds at its peak, without Python and torch themselves.

    Weights, KV cache with the copy that a layer makes to grow, page summaries in fp32, and the widest tensors of a
    prefill chunk with its mask.
    """
    kv_bytes = shape.page_bytes(request.max_tokens)
    pages = sum(-(-request.max_tokens // page) for page in {parse_channel(name)[1] for name in request.channels})
    summary_bytes = 5 * 4 * shape.num_kv_heads * shape.head_dim * pages
    chunk_tokens = min(request.chunk_tokens, request.prompt_tokens)
    chunk_bytes = shape.activation_bytes(chunk_tokens, 1) + chunk_tokens * request.prompt_tokens
    heads_bytes = 2 * shape.num_heads * shape.head_dim * request.max_tokens * shape.dtype_bytes  # K and V, repeated
    held_bytes = shape.paged_layers * (kv_bytes + summary_bytes) + shape.window_bytes(request.max_tokens)
    return shape.weights_bytes + held_bytes + kv_bytes + chunk_bytes + heads_bytes


def trace_bytes(shape: ModelShape, request: CaptureRequest) -> int:
    """Return the size of the file that a capture writes, but for its header of a few hundred bytes."""
    return request.decode_tokens * layout_of(_header("", shape, request, CaptureOrigin(model="", text=""))).record_bytes


def _silent(stage: str, done_tokens: int, total_tokens: int) -> None:
    """Show nothing."""


def _header(text: str, shape: ModelShape, request: CaptureRequest, origin: CaptureOrigin) -> TraceHeader:
    recorded: Literal["teacher-forced", "greedy", "sampled"] = "teacher-forced"
    if request.temperature is not None:
        recorded = "sampled" if request.temperature > 0 else "greedy"
    return TraceHeader(
        model=origin.model,
        shape=shape,
        text=origin.text,
        text_sha256=hashlib.sha256(text.encode()).hexdigest(),
        compute_dtype=shape.dtype,
        recorded=recorded,
        num_layers=shape.paged_layers,
        num_sequences=1,
        prompt_tokens=(request.prompt_tokens,),
        max_tokens=request.max_tokens,
        channels=tuple(channel_of(name, request.max_tokens) for name in (MASS, *request.channels)),
        recipe=origin.recipe,
    )


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str, request: CaptureRequest, origin: CaptureOrigin) -> Tensor:
    """Return as many tokens of the text as the capture reads, ``[1, text_tokens]``."""
    tokens = tokenizer(text, verbose=False)["input_ids"]
    if len(tokens) < request.text_tokens:
        raise KvsimError(
            f"{origin.text}: it has {len(tokens)} tokens, {request.text_tokens} are needed; "
            "give a longer text or ask for fewer tokens"
        )
    return torch.tensor([tokens[: request.text_tokens]])


def _steps(
    model: PreTrainedModel, tokens: Tensor, request: CaptureRequest, progress: Progress
) -> Generator[tuple[int, dict[str, Any]]]:
    """Yield for each decode step the tokens it attends to and its channels."""
    cache = DynamicCache(config=model.config)
    logits = _prefill(model, cache, tokens[:, : request.prompt_tokens], request.chunk_tokens, progress)
    recorder = StepRecorder(model, request.channels, request.max_tokens)
    layers: list[Any] = cache.layers
    recorder.begin([layers[place] for place in paged_layers(model.config)])
    generator = torch.Generator().manual_seed(request.seed)
    with recording(model, recorder) as arguments:
        for step in range(request.decode_tokens):
            position = request.prompt_tokens + step
            if request.temperature is None:
                token = tokens[:, position : position + 1]
            else:
                token = _next_token(model, logits, request.temperature, generator)
            recorder.begin_step()
            logits = logits_of(model, token, cache, **arguments)[0, -1]
            yield position + 1, recorder.values()
            progress("decode", step + 1, request.decode_tokens)


def _prefill(
    model: PreTrainedModel, cache: DynamicCache, prompt: Tensor, chunk_tokens: int, progress: Progress
) -> Tensor:
    """Fill the cache with the prompt; return the logits of its last token, ``[vocab_size]``."""
    before = model.config._attn_implementation
    model.set_attn_implementation(dense_name(family_of(model)))
    try:
        return prefill_logits(
            model,
            prompt,
            cache,
            chunk_tokens=chunk_tokens,
            progress=lambda _: progress("prefill", cache.get_seq_length(), prompt.shape[1]),
        )[0]
    finally:
        model.set_attn_implementation(before)


def _next_token(model: PreTrainedModel, logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Return the model's next token, ``[1, 1]``; never one that ends the text, so that every step is recorded."""
    logits = logits.float().cpu()
    generation = model.generation_config
    stop = None if generation is None else generation.eos_token_id
    if stop is not None:
        logits[torch.as_tensor(stop)] = -torch.inf
    if temperature == 0:
        token = logits.argmax()[None]
    else:
        token = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
    return token[None].to(model.device)
