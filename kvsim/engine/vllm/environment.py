"""Where vLLM is installed: an environment apart from kvsim's, since it pins other versions of what both need."""

from __future__ import annotations

import os
from pathlib import Path

from kvsim.errors import KvsimError

VARIABLE = "KVSIM_VLLM"
"""Environment variable with the Python of an environment that has vLLM."""

_FOLDER = Path(".venv-vllm") / "bin" / "python"

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_DISABLE_REQUEST_ID_RANDOMIZATION": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
"""Engine, scheduler and model in one process, requests under the names that they get, nothing from the network."""


def find_python() -> Path:
    """Return the Python of an environment with vLLM: `VARIABLE`, or ``.venv-vllm`` here or beside kvsim's sources.

    Raises
    ------
    KvsimError
        If there is none, with the command that makes one.
    """
    stated = os.environ.get(VARIABLE)
    places = [Path(stated)] if stated else [_FOLDER.absolute(), Path(__file__).resolve().parents[3] / _FOLDER]
    for place in places:
        if place.is_file():
            return place
    where = f"{VARIABLE}={stated} is no file" if stated else f"no {_FOLDER}"
    raise KvsimError(f"vLLM: {where}: run `make vllm` in kvsim's sources, or set {VARIABLE} to the python that has it")
