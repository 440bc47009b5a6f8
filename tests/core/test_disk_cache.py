"""Cached directories are built once, completely or not at all."""

import multiprocessing
import os
import time

import pytest

from rmexp.core.disk_cache import build_once


def build(home, log):
    with build_once(home, "done") as folder:
        if folder is not None:
            with open(log, "a") as stream:
                stream.write("built\n")
            time.sleep(0.2)
            (folder / "done").write_text("1")


def test_one_of_several_processes_builds_and_the_others_wait(tmp_path):
    home, log = tmp_path / "cache" / "entry", tmp_path / "log"
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=build, args=(home, log)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert log.read_text() == "built\n"
    assert (home / "done").read_text() == "1"


def test_an_error_leaves_no_entry_and_no_partial_folder(tmp_path):
    home = tmp_path / "entry"

    def fail():
        with build_once(home, "done") as folder:
            (folder / "part").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not home.exists()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    build(home, tmp_path / "log")
    assert (home / "done").is_file()


def test_a_group_can_share_the_cache(tmp_path):
    before = os.umask(0o002)
    try:
        build(tmp_path / "entry", tmp_path / "log")
    finally:
        os.umask(before)
    modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.rglob("*") if p.name != "log"}
    assert modes == {"entry": 0o775, "entry.lock": 0o664, "done": 0o664}


def test_an_incomplete_entry_is_replaced(tmp_path):
    home = tmp_path / "entry"
    home.mkdir()
    (home / "stale").write_text("x")
    build(home, tmp_path / "log")
    assert [path.name for path in home.iterdir()] == ["done"]
