"""What a user names as a model: a folder, a GGUF file or a hub id, and what `from_pretrained` takes for it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.utils._http import get_session

from kvsim.errors import KvsimError

HUB_WAIT_S = 3.0
"""How long the hub may take to answer at all before a model is taken to be reachable in the cache only."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[\w.-]+)?\Z", re.ASCII)


def source_of(path_or_id: Path | str) -> tuple[str, dict[str, Any]]:
    """Return a folder or hub id, and the arguments of `from_pretrained` that go with it.

    Code that comes with a model is never run, and nobody is asked whether to run it. Where the hub does not answer, its
    cache is used.

    Raises
    ------
    KvsimError
        If there is nothing there: no model in the folder, no such file, or a hub id that is in no cache while the hub
        does not answer.
    """
    path = Path(path_or_id).expanduser()
    local = {"local_files_only": True, "trust_remote_code": False}
    if path.suffix == ".gguf":
        if not path.is_file():
            raise KvsimError(f"{path_or_id}: no such GGUF file")
        return str(path.parent), local | {"gguf_file": path.name}
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise KvsimError(f"{path_or_id}: no model here, it lacks config.json; name a folder, hub id or .gguf file")
        return str(path), local
    if path.exists() or isinstance(path_or_id, Path) or not _HUB_ID.match(path_or_id):
        problem = "not a .gguf file" if path.exists() else "no such folder or file"
        raise KvsimError(f"{path_or_id}: {problem}; name a model's folder, a hub id or a .gguf file")
    if hub_answers():
        return path_or_id, {"trust_remote_code": False}
    if not isinstance(try_to_load_from_cache(path_or_id, "config.json"), str):
        raise KvsimError(
            f"{path_or_id}: no folder here, and as a hub id: not in {constants.HF_HUB_CACHE}, and "
            f"{constants.ENDPOINT} does not answer; name a model's folder or a .gguf file"
        )
    return path_or_id, local


def hub_answers() -> bool:
    """Return whether the hub answers a single request, whatever it says; not where the user set it offline."""
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_WAIT_S)
    except Exception:  # which library asks, and so what it raises, depends on the version
        return False
    return True
