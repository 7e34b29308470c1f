"""A vLLM process as kvsim sees it: started with a model and parameters, given requests, and asked what happened."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypedDict, cast

from kvsim.engine.vllm.environment import ENVIRONMENT, find_python
from kvsim.errors import KvsimError

_SCRIPT = Path(__file__).with_name("inside.py")
_LAST_LINES = 3


class VllmStep(TypedDict):
    """What is read of one step: what vLLM's scheduler decided, and times in seconds from the start of the run."""

    scheduled: list[tuple[str, int]]
    """Request and tokens computed of it."""
    admitted: list[tuple[str, int]]
    """Request that joined, and its tokens that were there before."""
    preempted: list[str]
    free_blocks: int
    """After the step was decided; `free_after` once its tokens were there."""
    free_after: int
    running: int
    waiting: int
    start_s: float
    end_s: float
    execute_s: float
    """The forward pass with its sampling, of the time from `start_s` to `end_s`."""


class VllmRequest(TypedDict):
    """A request that was served."""

    id: str
    arrival_step: int


class VllmTrace(TypedDict):
    """What one run recorded: its steps; of each request its output's ids and when each came, in seconds."""

    steps: list[VllmStep]
    outputs: dict[str, list[int]]
    token_s: dict[str, list[float]]
    requests: list[VllmRequest]


class VllmProcess:
    """A running vLLM; used with ``with``, which ends it.

    Parameters
    ----------
    model
        Folder of a model in safetensors.
    engine
        Parameters under vLLM's names.
    num_threads
        OpenMP threads. With more than one a busy neighbour makes steps tens of times as long.
    python
        Of the environment with vLLM; found where absent.

    Raises
    ------
    KvsimError
        If there is no such environment, or vLLM does not start: its own last lines.
    """

    def __init__(
        self, model: str, engine: Mapping[str, Any], *, num_threads: int = 1, python: Path | None = None
    ) -> None:
        command = [str(python or find_python()), str(_SCRIPT)]
        environment = os.environ | ENVIRONMENT | {"OMP_NUM_THREADS": str(num_threads)}
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            text=True,
        )
        try:
            self.resolved = self._ask({"do": "start", "model": model, "engine": dict(engine)})
        except BaseException:
            self.close()
            raise

    def serve(self, requests: Sequence[Mapping[str, Any]], *, clock: str) -> VllmTrace:
        """Serve requests and return the steps, the outputs and when each token came.

        Parameters
        ----------
        requests
            Rows with `id`, `token_ids`, `max_tokens` and, by `clock`, `arrival_step` (``steps``) or `arrival_s`
            (``wall``), in the order of their arrival.
        """
        command = {"do": "serve", "requests": [dict(request) for request in requests], "clock": clock}
        return cast("VllmTrace", self._ask(command))

    def __enter__(self) -> VllmProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.terminate()
        self._process.wait()
        self._errors.close()

    def _ask(self, command: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None, "both are pipes"
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise KvsimError(f"vLLM ended: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise KvsimError(f"vLLM: {' '.join(str(answer['error']).split())[:400]}")
        return answer

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        return " / ".join([line.strip() for line in lines if line.strip()][-_LAST_LINES:])[:400] or "it printed nothing"
