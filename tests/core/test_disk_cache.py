"""Cached directories are built once, completely or not at all, and again if they are broken."""

import errno
import json
import multiprocessing
import os
import time

import pytest
from filelock import FileLock

from rmexp.core import disk_cache
from rmexp.core.disk_cache import load_or_build, remove_oldest
from rmexp.core.errors import DiskFull, UserError


def load(home):
    return json.loads((home / "done").read_text("utf-8"))


def build(home, log):
    def fill(folder):
        with open(log, "a", encoding="utf-8") as stream:
            stream.write("built\n")
        time.sleep(0.2)
        (folder / "done").write_text("1", "utf-8")

    return load_or_build(home, load, fill)


def test_one_of_several_processes_builds_and_the_others_wait(tmp_path):
    home, log = tmp_path / "cache" / "entry", tmp_path / "log"
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=build, args=(home, log)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert log.read_text("utf-8") == "built\n"
    assert build(home, log) == (1, True)


def test_an_error_leaves_no_entry_and_no_partial_folder(tmp_path):
    home = tmp_path / "entry"

    def fail(folder):
        (folder / "part").write_text("x", "utf-8")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        load_or_build(home, load, fail)
    assert not home.exists()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    assert build(home, tmp_path / "log") == (1, False)


def test_a_group_can_share_the_cache(tmp_path):
    before = os.umask(0o002)
    try:
        build(tmp_path / "entry", tmp_path / "log")
    finally:
        os.umask(before)
    modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.rglob("*") if p.name != "log"}
    assert modes == {"entry": 0o775, "entry.lock": 0o664, "done": 0o664}


@pytest.mark.parametrize("content", [None, "", "{", "\0\0"])
def test_a_broken_entry_is_built_again_and_noted(tmp_path, content):
    home = tmp_path / "entry"
    home.mkdir()
    if content is not None:
        (home / "done").write_text(content, "utf-8")
    with pytest.warns(UserWarning, match=r"entry in the cache is broken \(.*\) and built again"):
        assert build(home, tmp_path / "log") == (1, False)
    assert [path.name for path in home.iterdir()] == ["done"]


def test_a_cache_that_cannot_be_written_is_named_with_the_fix(tmp_path):
    (tmp_path / "file").write_text("", "utf-8")
    sentence = "file/cache cannot be written .Not a directory.: give another directory with cache="
    with pytest.raises(UserError, match=sentence):
        build(tmp_path / "file" / "cache" / "entry", tmp_path / "log")


def test_a_full_disk_of_the_cache_is_named(tmp_path):
    def fill(folder):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise ValueError("as libraries wrap it") from error

    said = f"The disk of .* is full: free some space, or {disk_cache.FIX}"
    with pytest.raises(DiskFull, match=said):
        load_or_build(tmp_path / "entry", load, fill)


def stores(folder, *names):
    """Entries of 100 bytes, the first used longest ago."""
    for age, name in enumerate(reversed(names)):
        home = folder / name
        home.mkdir()
        (home / "done").write_bytes(b"1" * 100)
        os.utime(home, (10**9 - age, 10**9 - age))


def test_entries_used_longest_ago_go_first(tmp_path):
    stores(tmp_path, "c", "a", "b")
    (tmp_path / "c.lock").touch()
    load_or_build(tmp_path / "c", load, lambda folder: None)  # it is used now
    remove_oldest(tmp_path, 250)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"b", "c"}
    remove_oldest(tmp_path, 200)
    remove_oldest(tmp_path / "c", 0)  # files are no entries
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"b", "c"}


def test_what_killed_processes_left_goes_and_what_is_written_stays(tmp_path):
    stores(tmp_path, ".writing-dead", ".writing-live", "live", "old")
    with FileLock(tmp_path / "live.lock"):
        build(tmp_path / "entry", tmp_path / "log")
        remove_oldest(tmp_path, 0)
    left = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert left == {".writing-live", "live"}
