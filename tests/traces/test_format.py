from __future__ import annotations

import json
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvsim.errors import TraceError
from kvsim.traces import TraceWriter, channel_of, open_trace

FUZZ = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def path(tmp_path, header_of, write_random) -> Path:
    path = tmp_path / "small.kvtrace"
    write_random(path, header_of())
    return path


@pytest.fixture
def damaged(tmp_path):
    """Writes bytes and returns the one line with which they are refused."""

    def refuse(data: bytes, *, verify: bool = True) -> str:
        path = tmp_path / "damaged.kvtrace"
        path.write_bytes(data)
        with pytest.raises(TraceError) as caught:
            open_trace(path, verify=verify)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return refuse


def rebuilt(
    data: bytes, *, header: bytes | None = None, num_steps: int | None = None, body: bytes | None = None
) -> bytes:
    """The same trace with another header, step count or records, and a checksum that fits: what a forger would make."""
    (length,) = struct.unpack_from("<I", data, 12)
    text = data[16 : 16 + length] if header is None else header
    records = data[-(-(16 + length) // 64) * 64 : -16] if body is None else body
    (steps,) = struct.unpack_from("<Q", data, len(data) - 16)
    head = data[:12] + struct.pack("<I", len(text)) + text
    whole = head.ljust(-(-len(head) // 64) * 64, b"\0") + records
    whole += struct.pack("<Q", steps if num_steps is None else num_steps)
    return whole + struct.pack("<I", zlib.crc32(whole)) + b"EVTK"


def header_text(data: bytes) -> dict:
    return json.loads(data[16 : 16 + struct.unpack_from("<I", data, 12)[0]])


@FUZZ
@given(
    prompt=st.lists(st.integers(1, 150), min_size=1, max_size=3),
    num_steps=st.integers(1, 5),
    seed=st.integers(0, 2**32),
    page=st.sampled_from([16, 32, 48, 128]),
    dtype=st.sampled_from(["f16", "f32"]),
)
def test_what_is_written_is_read_back(tmp_path, header_of, write_random, prompt, num_steps, seed, page, dtype):
    most = max(prompt) + num_steps
    names = ("mass", f"estimate:quest@{page}", "speculate:next-layer@16", f"selection@{page}")
    header = header_of(
        num_sequences=len(prompt),
        prompt_tokens=tuple(prompt),
        max_tokens=most,
        channels=tuple(channel_of(name, most, dtype) for name in names),
    )
    path = tmp_path / "round.kvtrace"
    written = write_random(path, header, num_steps, seed)
    trace = open_trace(path)
    assert trace.header == header
    assert (trace.num_steps, trace.num_layers, trace.num_sequences) == (num_steps, 3, len(prompt))
    assert trace.channels == ("mass", "estimate:quest", "speculate:next-layer")
    for step, values in enumerate(written):
        assert trace.context_tokens(step).tolist() == [tokens + step + 1 for tokens in prompt]
        for layer in range(3):
            rounded = values["mass"][:, layer].astype(np.float16 if dtype == "f16" else np.float32)
            np.testing.assert_array_equal(trace.mass(step, layer, 16), rounded)
            estimate = values[f"estimate:quest@{page}"][:, layer].astype(rounded.dtype)
            np.testing.assert_array_equal(trace.scores(step, layer, "estimate:quest", page), estimate)
            np.testing.assert_array_equal(trace.selection(step, layer, page), values[f"selection@{page}"][:, layer])


@pytest.mark.parametrize("page_tokens", [32, 48, 64, 160])
def test_mass_of_a_page_is_the_exact_sum_of_its_units(path, page_tokens):
    trace = open_trace(path)
    for step in range(trace.num_steps):
        units = trace.mass(step, 1, 16).astype(np.float64)
        per_page = page_tokens // 16
        wanted = [
            [row[first : first + per_page].sum() for first in range(0, units.shape[1], per_page)] for row in units
        ]
        pages = trace.scores(step, 1, "mass", page_tokens)
        assert pages.dtype == np.float32
        assert pages.tolist() == wanted


def test_scores_are_views_of_the_file_that_nobody_can_write(path):
    trace = open_trace(path)
    scores = trace.scores(1, 2, "estimate:quest", 32)
    assert not scores.flags.owndata
    assert not scores.flags.writeable
    assert scores.dtype == np.float16


def test_a_trace_pickles_as_its_path(path):
    again = pickle.loads(pickle.dumps(open_trace(path)))
    np.testing.assert_array_equal(again.mass(3, 0, 32), open_trace(path).mass(3, 0, 32))


def test_flipping_any_byte_is_an_error(path, damaged):
    data = path.read_bytes()
    for place in range(len(data)):
        damaged(data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :])


def test_cutting_the_file_anywhere_is_an_error_with_or_without_the_checksum(path, damaged):
    data = path.read_bytes()
    for length in range(0, len(data), 3):
        damaged(data[:length])
        damaged(data[:length], verify=False)
    damaged(data + b"\0")


@FUZZ
@given(data=st.binary(max_size=300), claimed=st.integers(0, 2**32 - 1), steps=st.integers(0, 2**64 - 1))
def test_bytes_dressed_as_a_trace_are_refused(damaged, data, claimed, steps):
    damaged(data)
    whole = b"KVTRACE\n" + struct.pack("<II", 1, claimed) + data + struct.pack("<Q", steps)
    damaged(whole + struct.pack("<I", zlib.crc32(whole)) + b"EVTK")
    damaged(whole + struct.pack("<I", zlib.crc32(whole)) + b"EVTK", verify=False)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_layers": 2**31 - 1}, "the shape has 3"),
        ({"num_layers": 0}, "num_layers"),
        ({"max_tokens": 2**31 - 1}, "width"),
        ({"max_tokens": 10**400}, "max_tokens"),
        ({"prompt_tokens": [70]}, "one number a sequence"),
        ({"prompt_tokens": [70, 81]}, "none above max_tokens"),
        ({"num_sequences": 2**31 - 1}, "one number a sequence"),
        ({"channels": []}, "'mass'"),
        ({"model": "\x1b[2J"}, "do not print"),
        ({"text_sha256": "zz"}, "text_sha256"),
        ({"num_sequences": "2"}, "num_sequences"),
        ({"surprise\n": 1}, "surprise"),
        ({"compute_dtype": float("nan")}, "compute_dtype"),
    ],
)
def test_a_hostile_header_is_refused_by_name(path, damaged, change, named):
    data = path.read_bytes()
    text = json.dumps(header_text(data) | change).encode()
    assert named in damaged(rebuilt(data, header=text))


@pytest.mark.parametrize(
    "text", [b"", b"null", b"[" * 100_000, b'{"model": ' * 5_000, b"\xff\xfe", b'"' + b"a" * 1_000_000]
)
def test_a_header_that_is_no_object_is_refused(path, damaged, text):
    damaged(rebuilt(path.read_bytes(), header=text))


def test_a_header_longer_than_any_header_is_refused_unread(path, damaged):
    data = path.read_bytes()
    text = json.dumps(header_text(data)).encode() + b" " * 2**20
    for verify in (True, False):
        assert "no trace" in damaged(rebuilt(data, header=text), verify=verify)


@pytest.mark.parametrize(
    ("channel", "named"),
    [
        ({"name": "mass", "dtype": "f16", "width": 5}, "name nothing twice"),
        ({"name": "mess", "dtype": "f16", "width": 5}, "a channel is"),
        ({"name": "estimate:quest@0", "dtype": "f16", "width": 5}, "a channel is"),
        ({"name": "estimate:quest@40", "dtype": "f16", "width": 2}, "multiple of 16"),
        ({"name": "estimate:quest@99999999999", "dtype": "f16", "width": 1}, "a channel is"),
        ({"name": "estimate:mean@16", "dtype": "f64", "width": 5}, "dtype"),
        ({"name": "estimate:mean@16", "dtype": "f16", "width": 2**31 - 1}, "5"),
        ({"name": "selection@16", "dtype": "f16", "width": 5}, "a channel is"),
        ({"name": "estimate:mean@16", "dtype": "f32", "width": 5}, "claims 4 records of 384 bytes"),
        ({"name": "estimate:a@b@16", "dtype": "f16", "width": 5}, "a channel is"),
    ],
)
def test_a_hostile_channel_is_refused_by_name(path, damaged, channel, named):
    header = header_text(path.read_bytes())
    header["channels"].append(channel)
    assert named in damaged(rebuilt(path.read_bytes(), header=json.dumps(header).encode()))


@pytest.mark.parametrize("num_steps", [0, 3, 5, 2**40, 2**64 - 1])
def test_a_step_count_that_the_bytes_do_not_bear_out_is_refused(path, damaged, num_steps):
    for verify in (True, False):
        assert "records" in damaged(rebuilt(path.read_bytes(), num_steps=num_steps), verify=verify)


@pytest.mark.parametrize("number", [-0.25, -0.0, np.inf, np.nan])
@pytest.mark.parametrize(("offset", "channel"), [(64, "mass"), (128, "estimate:quest@32")])
def test_a_forged_number_that_no_score_can_be_is_refused(path, damaged, number, offset, channel):
    data = path.read_bytes()
    body = bytearray(records_of(data))
    body[offset : offset + 2] = np.float16(number).tobytes()
    assert f"step 0, channel {channel}" in damaged(rebuilt(data, body=bytes(body)))


def records_of(data: bytes) -> bytes:
    return data[-(-(16 + struct.unpack_from("<I", data, 12)[0]) // 64) * 64 : -16]


def test_forged_masses_that_do_not_sum_to_one_are_refused(path, damaged):
    body = bytearray(records_of(path.read_bytes()))
    body[64:66] = np.float16(0.9).tobytes()
    assert "sum to" in damaged(rebuilt(path.read_bytes(), body=bytes(body)))


@pytest.mark.parametrize("tokens", [0, -1, 2**31 - 1, 81, 60])
def test_a_forged_context_is_refused_even_unverified(path, damaged, tokens):
    body = bytearray(records_of(path.read_bytes()))
    stride = len(body) // 4
    body[stride : stride + 4] = struct.pack("<i", tokens)
    assert "context_tokens" in damaged(rebuilt(path.read_bytes(), body=bytes(body)), verify=False)


def test_forged_pages_past_the_end_of_a_sequence_are_refused(path, damaged):
    data = path.read_bytes()
    for name in ("mass", "selection@32"):
        body = bytearray(records_of(data))
        # context 71 and 41: sequence 1 owns 3 units of 5, and 2 pages of 3
        place = 64 + (3 * 5 + 4) * 2 if name == "mass" else 64 * 3 + 3
        body[place] |= 0b100
        assert f"channel {name} holds something past the 41 tokens" in damaged(rebuilt(data, body=bytes(body)))


def test_other_files_are_refused_in_one_line(tmp_path, damaged):
    assert "empty" in damaged(b"")
    assert "not an access trace" in damaged(b"PK\x03\x04" * 100)
    os.mkfifo(tmp_path / "pipe")
    for name, said in [("nowhere", "No such file"), ("", "not a file"), ("pipe", "not a file")]:
        with pytest.raises(TraceError, match=said):
            open_trace(tmp_path / name)


def test_another_version_is_refused_with_its_number(path, damaged):
    data = path.read_bytes()
    assert "format version 2, this kvsim reads 1" in damaged(data[:8] + struct.pack("<I", 2) + data[12:])


def test_asking_for_what_is_not_there_names_what_is(path):
    trace = open_trace(path)
    with pytest.raises(TraceError, match="estimate:quest@32"):
        trace.scores(0, 0, "estimate:quest", 16)
    with pytest.raises(TraceError, match="'selection'"):
        trace.scores(0, 0, "selection", 32)
    with pytest.raises(TraceError, match="units of 16"):
        trace.mass(0, 0, 24)
    with pytest.raises(TraceError, match="steps 0 to 3"):
        trace.mass(4, 0, 16)
    with pytest.raises(TraceError, match="layers 0 to 2"):
        trace.selection(0, 3, 32)
    assert trace.selection(0, 0, 16) is None


@pytest.mark.parametrize("problem", [KeyboardInterrupt, ValueError])
def test_an_interrupted_writer_leaves_no_file(tmp_path, header_of, step_of, problem):
    path = tmp_path / "cut.kvtrace"
    header = header_of()
    with pytest.raises(problem), TraceWriter(path, header) as writer:
        writer.append([71, 41], step_of(header, np.array([71, 41]), np.random.default_rng(0)))
        raise problem
    assert list(tmp_path.iterdir()) == []


def test_an_older_trace_of_that_name_stays_until_the_new_one_is_whole(path, header_of):
    before = path.read_bytes()
    with pytest.raises(TraceError, match="no step"), TraceWriter(path, header_of()):
        pass
    assert path.read_bytes() == before
    assert [found.name for found in path.parent.iterdir()] == [path.name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_one_line(tmp_path, header_of, step_of, monkeypatch):
    path = tmp_path / "full.kvtrace"
    (tmp_path / "partial").symlink_to("/dev/full")
    monkeypatch.setattr("kvsim.traces.access.file.temporary_name", lambda path: path.with_name("partial"))
    header = header_of()
    values = step_of(header, np.array([71, 41]), np.random.default_rng(0))
    with pytest.raises(TraceError, match="No space left"), TraceWriter(path, header) as writer:
        for _ in range(100):
            writer.append([71, 41], values)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_one_line(tmp_path, header_of):
    with pytest.raises(TraceError, match="No such file"), TraceWriter(tmp_path / "no" / "x.kvtrace", header_of()):
        pass


@pytest.mark.parametrize(
    ("context", "change", "said"),
    [
        ([71], {}, "shape"),
        ([71, 0], {}, "from 1 to 80"),
        ([71, 81], {}, "from 1 to 80"),
        ([71, 41], {"mass": None}, "channels"),
        ([71, 41], {"extra": np.zeros(1)}, "channels"),
        ([71, 41], {"mass": np.zeros((2, 3, 6))}, "at most 5"),
        ([71, 41], {"mass": np.zeros((2, 3, 5))}, "sum to 0"),
        ([71, 41], {"mass": np.full((2, 3, 5), 0.2)}, "past the 41 tokens"),
        ([71, 41], {"estimate:quest@32": np.full((2, 3, 2), -1e-3)}, "negative"),
        ([71, 41], {"estimate:quest@32": np.full((2, 3, 2), np.nan)}, "negative"),
        ([71, 41], {"estimate:quest@32": np.full((2, 3, 2), 1e6)}, "not finite"),
        ([71, 41], {"selection@32": np.ones((2, 3, 3), dtype=bool)}, "past the 41 tokens"),
    ],
)
def test_the_writer_refuses_what_no_reader_would_take(tmp_path, header_of, step_of, context, change, said):
    header = header_of()
    values = step_of(header, np.array([71, 41]), np.random.default_rng(0)) | change
    values = {name: array for name, array in values.items() if array is not None}
    with pytest.raises(TraceError, match=said), TraceWriter(tmp_path / "x.kvtrace", header) as writer:
        writer.append(context, values)
    assert list(tmp_path.iterdir()) == []


def test_a_context_never_shrinks(tmp_path, header_of, step_of):
    header = header_of()
    values = step_of(header, np.array([71, 41]), np.random.default_rng(0))
    with pytest.raises(TraceError, match="never shrinking"), TraceWriter(tmp_path / "x.kvtrace", header) as writer:
        writer.append([71, 41], values)
        writer.append([70, 41], values)


def test_appending_outside_the_block_is_an_error(tmp_path, header_of, step_of):
    values = step_of(header_of(), np.array([71, 41]), np.random.default_rng(0))
    with pytest.raises(TraceError, match="with block"):
        TraceWriter(tmp_path / "x.kvtrace", header_of()).append([71, 41], values)
