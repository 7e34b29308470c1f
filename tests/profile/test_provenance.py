"""What a run read is known by its content: files whole, models by what tells their weights apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvsim.profile.provenance import described, file_input, model_input, recorded_inputs


def safetensors(header: dict[str, object], body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"layers": 2}')
    (folder / "README.md").write_text("a model")
    header = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    (folder / "model.safetensors").write_bytes(safetensors(header, b"12345678"))
    return folder


@pytest.mark.parametrize(
    ("name", "content", "is_noticed"),
    [
        ("config.json", b'{"layers": 3}', True),
        ("model.safetensors", safetensors({"w": {"dtype": "F16"}}, b"12345678"), True),
        ("model.safetensors", safetensors({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1"), True),
        ("tokenizer.json", b"{}", True),
        ("README.md", b"the model", False),
    ],
)
def test_a_models_digest_covers_configuration_and_headers_and_sizes_of_weights(
    model: Path, name: str, content: bytes, is_noticed: bool
) -> None:
    before = model_input("m", model)
    assert model_input("m", model) == before and before.digest is not None
    (model / name).write_bytes(content)
    assert (model_input("m", model).digest != before.digest) is is_noticed


def test_a_model_file_is_known_by_its_size_and_beginning(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    digests = set()
    for content in (b"GGUF1", b"GGUF2", b"GGUF11", bytes(2**20) + b"x", bytes(2**20) + b"y"):
        file.write_bytes(content)
        digests.add(model_input("m", file).digest)
    assert len(digests) == 4  # what follows the first MiB is not read


def test_a_model_that_is_not_here_has_no_digest_and_says_so(tmp_path: Path) -> None:
    hub = model_input("org/model", tmp_path / "none")
    assert hub.digest is None
    assert hub.covers == "nothing: it is not a path on this machine"


def test_a_manifest_gives_back_what_was_recorded_in_it(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("a = 1")
    one = file_input("profile", "p", tmp_path / "p.toml")
    assert recorded_inputs({"inputs": json.loads(json.dumps(described([one])))}) == [one]


@pytest.mark.parametrize("manifest", [{}, {"inputs": None}, {"inputs": [{"role": "profile"}]}, {"inputs": ["x"]}])
def test_a_manifest_without_or_with_damaged_inputs_records_none(manifest: dict[str, object]) -> None:
    assert recorded_inputs(manifest) is None
