"""Location and download of data files, with failures of the network and the disk, and kills."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import commands
import h5py
import numpy as np
import pytest
from conftest import mounts
from data_server import Handler, Site, size, wait_until

from iql.errors import UserError
from iql.system import data_cache

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """An HDF5 file of about 800 kB."""
    path = tmp_path_factory.mktemp("served") / "whole.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"] = np.random.default_rng(0).integers(0, 255, 800_000, np.uint8)
    return path.read_bytes()


@pytest.fixture
def site(whole):
    site = Site(whole)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"site": site}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}/sets/some-v1.hdf5"
    yield site
    site.go.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, no D4RL of the user's in sight, and little patience."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IQL_DATA_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("IQL_DOWNLOAD_TIMEOUT", "0.5")
    monkeypatch.delenv("D4RL_DATASET_DIR", raising=False)
    return tmp_path / "cache"


def refused(url: str, *parts: str) -> str:
    """find() says in one line why not, with every part in it."""
    with pytest.raises(UserError) as error:
        data_cache.find(url)
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


def trusted(cache: Path) -> list[str]:
    """Files in the cache that a later run would take for data."""
    return sorted(path.name for path in cache.glob("*.hdf5"))


def finder(url: str) -> commands.Process:
    """find(url) in a process of its own: prints the path, or logs what it waits for."""
    code = (
        "import logging, sys; logging.basicConfig(level=logging.INFO)\n"
        "from iql.errors import UserError\nfrom iql.system.data_cache import find\n"
        "try: print(find(sys.argv[1]))\n"
        "except UserError as error: sys.exit(str(error))\n"
    )
    return commands.start(
        [sys.executable, "-c", code, url],
        cwd=ROOT,
        text=True,
        stdout=commands.PIPE,
        stderr=commands.PIPE,
    )


# Where it looks.


def test_the_cache_is_in_the_home_folder_unless_said_otherwise(tmp_path, monkeypatch):
    assert data_cache.cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("IQL_DATA_DIR")
    assert data_cache.cache_dir() == tmp_path / "home" / ".cache" / "iql"


def test_a_given_path_is_taken_as_it_is(tmp_path):
    given = tmp_path / "mine.hdf5"
    given.write_bytes(b"whatever")
    assert data_cache.find("http://127.0.0.1:9/other.hdf5", given) == given
    with pytest.raises(UserError, match=r"env.path=.*nowhere.hdf5 does not exist \(looked from "):
        data_cache.find(None, tmp_path / "nowhere.hdf5")
    with pytest.raises(UserError, match="is not a file"):
        data_cache.find(None, tmp_path)


def test_a_task_without_url_needs_a_path():
    with pytest.raises(UserError, match="give env.path=FILE"):
        data_cache.find(None)


@pytest.mark.parametrize("end", ["..%2Fown.hdf5", "%2E%2E%2Fown.hdf5", "a%2Fb%2Fown.hdf5", "own.hdf5?x=/y"])
def test_no_url_leads_out_of_the_cache(cache, end):
    assert data_cache.cached_path(f"http://server/sets/{end}") == cache / "own.hdf5"


@pytest.mark.parametrize("end", ["", "sets/", "..", "sets/%2E%2E", "%2E", "sets/own%00.hdf5", "own%0A.hdf5"])
def test_a_url_that_names_no_file_is_refused(cache, end):
    refused(f"http://server/{end}", "names no file")


@pytest.mark.parametrize("folder", ["cache", "d4rl", "home/.d4rl/datasets"])
def test_a_file_that_is_there_is_not_downloaded(site, tmp_path, monkeypatch, folder):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    there = tmp_path / folder / "some-v1.hdf5"
    there.parent.mkdir(parents=True)
    there.write_bytes(site.content)
    assert data_cache.find(site.url) == there
    assert site.asked == []


def test_d4rls_folder_is_left_as_it_was(site, tmp_path, monkeypatch):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    (tmp_path / "some-v1.hdf5").write_bytes(site.content)
    data_cache.find(site.url)
    assert [path.name for path in tmp_path.iterdir()] == ["some-v1.hdf5"]


def test_what_d4rl_left_of_a_cut_download_is_passed_over(site, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    (tmp_path / "some-v1.hdf5").write_bytes(site.content[:-1])
    assert data_cache.find(site.url).read_bytes() == site.content
    assert "passing over" in caplog.text and "cut short" in caplog.text


def test_a_damaged_file_in_our_cache_is_refused(site, cache):
    cache.mkdir()
    (cache / "some-v1.hdf5").write_bytes(site.content[:1000])
    refused(site.url, "some-v1.hdf5 is cut short", "1,000 bytes", "delete it")


# Held to what it was.


def test_the_digest_is_recorded_on_first_use_as_sha256sum_reads_it(site, cache):
    path = data_cache.find(site.url)
    digest = hashlib.sha256(site.content).hexdigest()
    assert (cache / "some-v1.hdf5.sha256").read_text() == f"{digest}  some-v1.hdf5\n"
    checked = subprocess.run(["sha256sum", "-c", "some-v1.hdf5.sha256"], cwd=cache, capture_output=True)
    assert checked.returncode == 0
    assert data_cache.find(site.url) == path
    assert len(site.asked) == 1


def test_a_file_that_changed_since_is_refused_with_both_digests(site, cache):
    path = data_cache.find(site.url)
    changed = bytearray(site.content)
    changed[-1] ^= 1
    path.write_bytes(changed)
    now, then = (hashlib.sha256(content).hexdigest() for content in (changed, site.content))
    refused(site.url, now, then, "Delete the file to download it again")
    (cache / "some-v1.hdf5.sha256").unlink()
    assert data_cache.find(site.url) == path  # accepted as it is, as the message says


def test_the_digest_outlives_the_file(site):
    data_cache.find(site.url).unlink()
    site.content = site.content[:-1] + bytes([site.content[-1] ^ 1])
    refused(site.url, hashlib.sha256(site.content).hexdigest(), "was recorded")


def test_an_empty_record_is_refused(site, cache):
    data_cache.find(site.url)
    (cache / "some-v1.hdf5.sha256").write_text("")
    refused(site.url, "nothing was recorded", "delete the .sha256 file")


# The network.


def test_a_download_arrives_whole_and_leaves_nothing_half_made(site, cache):
    path = data_cache.find(site.url)
    assert path == cache / "some-v1.hdf5"
    assert path.read_bytes() == site.content
    names = {item.name for item in cache.iterdir()}
    assert names <= {path.name, f"{path.name}.sha256", f"{path.name}.lock"}


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_refusing_server_is_named_with_what_to_do(site, cache, status):
    site.status = status
    refused(site.url, site.url, f"answered {status}", f"by hand to {cache / 'some-v1.hdf5'}", "env.path=FILE")
    assert trusted(cache) == []


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text/html; charset=utf-8", "sent a web page (HTML)"),
        ("application/octet-stream", "is a web page (HTML), not HDF5"),
    ],
)
def test_a_web_page_is_no_data(site, cache, kind, message):
    data, site.content, site.kind = site.content, b"<html><body>Sign in</body></html>", kind
    refused(site.url, site.url, message)
    assert list(cache.glob("*.hdf5*")) == list(cache.glob("*.lock"))
    site.content, site.kind = data, "application/octet-stream"
    assert data_cache.find(site.url).read_bytes() == data


def test_something_else_than_hdf5_is_no_data(site, cache):
    site.content = b"\x1f\x8b" + bytes(5000)
    refused(site.url, site.url, "is not an HDF5 file")
    assert trusted(cache) == []


def test_nobody_listening(cache):
    refused("http://127.0.0.1:9/some-v1.hdf5", "failed", "Connection refused", "nothing to resume from is kept")
    assert trusted(cache) == []


def test_a_cut_download_is_kept_and_the_same_call_goes_on(site, cache):
    site.sends = 300_000
    refused(site.url, "the same command resumes", site.url)
    have = size(cache / "some-v1.hdf5.part")
    assert 0 < have <= 300_000
    assert trusted(cache) == []
    site.sends = None
    assert data_cache.find(site.url).read_bytes() == site.content
    assert site.asked == [None, f"bytes={have}-"]
    assert site.sent_from == [0, have]


def test_a_stalled_server_is_given_up_after_the_stated_time(site, cache):
    site.sends, site.stalls, site.stall_seconds = 300_000, True, 5
    refused(site.url, "stalled: no byte for 0.5 s", "the same command resumes")
    have = size(cache / "some-v1.hdf5.part")
    assert 0 < have <= 300_000
    site.sends, site.stalls = None, False
    assert data_cache.find(site.url).read_bytes() == site.content
    assert site.asked == [None, f"bytes={have}-"]
    assert site.sent_from == [0, have]


def test_a_server_silent_from_the_start(site):
    site.sends, site.stalls, site.stall_seconds = 0, True, 5
    refused(site.url, "stalled: no byte for 0.5 s", "nothing to resume from is kept")


@pytest.mark.parametrize("patience", ["soon", "0", "-1", "nan", "inf"])
def test_a_senseless_patience_is_refused(site, monkeypatch, patience):
    monkeypatch.setenv("IQL_DOWNLOAD_TIMEOUT", patience)
    refused(site.url, f"IQL_DOWNLOAD_TIMEOUT='{patience}'")


@pytest.mark.parametrize(
    "manner",
    [
        pytest.param({"ranges": False}, id="ignores Range"),
        pytest.param({"content": "changed", "tag": '"two"'}, id="file changed"),
        pytest.param({"content": "changed", "tag": '"two"', "conditions": False}, id="file changed, ignores If-Range"),
        pytest.param({"content": "shorter", "tag": '"two"', "conditions": False}, id="now shorter than what came"),
    ],
)
def test_what_cannot_be_continued_starts_over(site, tmp_path, manner):
    site.sends = 300_000
    refused(site.url)
    site.sends = None
    for key, value in manner.items():
        if key == "content":
            other = tmp_path / "other.hdf5"
            with h5py.File(other, "w") as file:
                file["actions"] = np.zeros(810_000 if value == "changed" else 10_000, np.uint8)
            value = other.read_bytes()
        setattr(site, key, value)
    assert data_cache.find(site.url).read_bytes() == site.content


def test_a_file_that_cannot_be_told_from_another_is_not_continued(site):
    site.sends, site.tag = 300_000, None
    refused(site.url, "nothing to resume from is kept")
    site.sends = None
    assert data_cache.find(site.url).read_bytes() == site.content
    assert site.asked == [None, None]


def test_a_rest_without_its_record_is_not_continued(site, cache):
    cache.mkdir()
    (cache / "some-v1.hdf5.part").write_bytes(b"left by something else")
    assert data_cache.find(site.url).read_bytes() == site.content
    assert site.asked == [None]


def test_a_server_that_gives_no_length(site):
    site.length = False
    assert data_cache.find(site.url).read_bytes() == site.content


def test_without_a_length_hdf5_itself_tells_that_the_end_is_missing(site, cache):
    site.length, site.sends = False, 300_000
    refused(site.url, "is cut short", site.url)
    assert trusted(cache) == []


# Kills, and several at once.


def test_killed_again_and_again_it_still_ends_with_the_right_file(site, cache, monkeypatch):
    monkeypatch.setenv("IQL_DOWNLOAD_TIMEOUT", "20")
    part = cache / "some-v1.hdf5.part"
    site.stalls = True
    for sends in (70_000, 200_000, 330_000):
        site.sends, had = sends, size(part)
        process = finder(site.url)
        wait_until(lambda had=had: size(part) > had)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert trusted(cache) == []
    site.sends, had = None, size(part)
    assert data_cache.find(site.url).read_bytes() == site.content
    assert site.asked[0] is None
    assert site.asked[-1] == f"bytes={had}-"
    assert sorted(site.sent_from) == site.sent_from
    assert site.sent_from[-1] == had


def test_killed_between_the_last_byte_and_the_renaming(site, cache):
    site.sends = 300_000
    refused(site.url)
    (cache / "some-v1.hdf5.part").write_bytes(site.content)
    assert data_cache.find(site.url).read_bytes() == site.content
    assert site.asked == [None]


def test_two_that_start_together_download_once(site, cache, monkeypatch):
    monkeypatch.setenv("IQL_DOWNLOAD_TIMEOUT", "20")
    site.sends, site.stalls = 300_000, True
    first = finder(site.url)
    wait_until(lambda: size(cache / "some-v1.hdf5.part") > 0)
    second = finder(site.url)
    waiting = second.stderr.readline()
    site.go.set()
    printed = {process.communicate(timeout=20)[0].strip() for process in (first, second)}
    assert "another process downloads some-v1.hdf5" in waiting
    assert printed == {str(cache / "some-v1.hdf5")}
    assert (cache / "some-v1.hdf5").read_bytes() == site.content
    assert len(site.asked) == 1


def test_the_second_takes_over_from_a_killed_first(site, cache, monkeypatch):
    monkeypatch.setenv("IQL_DOWNLOAD_TIMEOUT", "20")
    site.sends, site.stalls = 300_000, True
    first = finder(site.url)
    wait_until(lambda: size(cache / "some-v1.hdf5.part") > 0)
    second = finder(site.url)
    second.stderr.readline()  # it waits
    site.sends = None
    first.kill()
    first.communicate()
    assert second.communicate(timeout=20)[0].strip() == str(cache / "some-v1.hdf5")
    assert (cache / "some-v1.hdf5").read_bytes() == site.content


# The disk.


def in_namespace(cache: Path, mount: str, url: str) -> tuple[subprocess.CompletedProcess, list[str]]:
    """find(url) where `mount` was done to the cache, and the names in the cache afterwards."""
    cache.mkdir(exist_ok=True)
    code = (
        "import sys; from iql.errors import UserError; from iql.system.data_cache import find\n"
        "try: find(sys.argv[1])\n"
        "except UserError as error: sys.exit(str(error))\n"
    )
    script = f'{mount}\n"$PYTHON" -c "$CODE" "$URL"\nstatus=$?\nls -A "$CACHE"\nexit $status'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], cwd=ROOT, text=True, capture_output=True,
        env={**os.environ, "PYTHON": sys.executable, "CODE": code, "URL": url, "CACHE": str(cache)},
    )  # fmt: skip
    return done, done.stdout.split()


@mounts
@pytest.mark.parametrize("length", [True, False], ids=["foreseen", "while writing"])
def test_a_full_disk_is_named_and_left_as_it_was(site, cache, length):
    site.length = length
    done, left = in_namespace(cache, 'mount -t tmpfs -o size=200k tmpfs "$CACHE" || exit 99', site.url)
    assert done.returncode == 1
    assert re.fullmatch(rf"no space left in {cache} \(.*\); make room, or set IQL_DATA_DIR .*\n", done.stderr)
    assert [name for name in left if not name.endswith(".lock")] == []


READ_ONLY = 'mount --bind "$CACHE" "$CACHE" && mount -o remount,ro,bind "$CACHE" || exit 99'


@mounts
def test_a_read_only_cache_is_named(site, cache):
    done, left = in_namespace(cache, READ_ONLY, site.url)
    assert done.returncode == 1
    assert re.fullmatch(rf"cannot write to {cache}: Read-only file system; set IQL_DATA_DIR .*\n", done.stderr)
    assert left == []
    assert site.asked == []


@mounts
def test_a_read_only_cache_that_has_the_file_will_do(site, cache):
    cache.mkdir()
    (cache / "some-v1.hdf5").write_bytes(site.content)
    done, left = in_namespace(cache, READ_ONLY, site.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert left == ["some-v1.hdf5"]


def test_a_cache_whose_place_is_taken_by_a_file(site, cache):
    cache.write_text("")
    refused(site.url, f"cannot write to {cache}")


def test_finding_a_file_loads_neither_torch_nor_the_network(tmp_path):
    code = "import sys, iql.tasks.d4rl; print([m for m in ('torch', 'requests', 'mujoco') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_digest_of_an_unchanged_file_is_computed_once(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert data_cache.sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    monkeypatch.setattr(data_cache.hashlib, "sha256", None)
    assert data_cache.sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.usefixtures("homeless")
def test_without_a_home_directory_the_cache_has_to_be_named():
    with pytest.raises(UserError, match=r"~/\.cache/iql: .*no home directory; .* set IQL_DATA_DIR to a folder$"):
        data_cache.cache_dir()
    with pytest.raises(UserError, match="set HOME, or name it without ~"):
        data_cache.find(None, "~/my.hdf5")
    assert data_cache.their_dirs("some-v1.hdf5") == data_cache.their_dirs("some-v0.npz") == []
