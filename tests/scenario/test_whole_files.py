"""Files written whole or not at all, whoever else writes them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from kvsim.scenario.whole_files import replacing, write_whole


def test_what_fails_leaves_no_file_and_the_older_one_as_it_was(tmp_path):
    path = tmp_path / "profile.toml"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_of_two_writers_at_once_one_is_kept_whole(tmp_path):
    path = tmp_path / "capture.kvtrace"
    contents = [str(number) * 1000 for number in range(8)]
    all_open = threading.Barrier(len(contents))

    def write(content: str) -> None:
        with replacing(path) as partial:
            partial.write_text(content[:500])
            all_open.wait(timeout=30)
            with partial.open("a") as file:
                file.write(content[500:])

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in contents
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["x" * 255, "\N{GRINNING FACE}" * 63])
def test_a_name_as_long_as_a_name_can_be_is_written(tmp_path, name):
    path = tmp_path / (name)
    write_whole(path, b"content")
    assert path.read_bytes() == b"content"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "partial").symlink_to("/dev/full")
    monkeypatch.setattr("kvsim.scenario.whole_files.temporary_name", lambda path: path.with_name("partial"))
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "result.json", b"x" * 2**20)
    assert list(tmp_path.iterdir()) == []
