import functools
import hashlib
import http.server
import io
import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cdcodec import weights
from cdcodec.cli.__main__ import main
from cdcodec.errors import WeightsError
from cdcodec.weights import WeightFile, WeightSet, download, places

CONTENT = {"a.safetensors": b"first file " * 200_000, "b.safetensors": b"second file"}
HUB = "https://hub.example/models/resolve/0123abcd/"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def remote_file(name, **changes):
    data = CONTENT[name]
    return replace(WeightFile(name, sha256(data), len(data), HUB + name), **changes)


def weight_set(name="hub-set", files=None, **changes):
    files = tuple(remote_file(each) for each in CONTENT) if files is None else files
    described = WeightSet(name, "cdc", "nano", "MIT", "a hub", "0badcafe", files)
    return replace(described, **changes)


def registry_of(*sets):
    return {each.name: each for each in sets}


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files, from the byte that is asked for on, and as its server's `hub` says."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        hub = self.server.hub
        hub.asked.append((self.path, self.headers["Range"]))
        path = hub.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        data, start = path.read_bytes(), 0
        if self.headers["Range"] and hub.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
            if start >= len(data):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        end = len(data) if hub.cut is None else start + hub.cut
        self.wfile.write(data[start:end])


class Hub:
    """An opener that finds addresses under HUB in a folder, through a server on this machine.

    Attributes:
        folder: What is served.
        ranges: Whether the server knows Range.
        cut: After how many bytes it closes the connection, or None.
        asked: Paths and Range headers of all requests.
    """

    def __init__(self, folder):
        self.folder, self.ranges, self.cut, self.asked = folder, True, None, []
        self.port = 0

    def __call__(self, url, start):
        assert url.startswith(HUB)
        address = f"http://127.0.0.1:{self.port}/" + url.removeprefix(HUB)
        request = urllib.request.Request(address)
        if start:
            request.add_header("Range", f"bytes={start}-")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return opener.open(request, timeout=10)


@pytest.fixture
def hub(tmp_path):
    hub = Hub(tmp_path / "hub")
    hub.folder.mkdir()
    for name, data in CONTENT.items():
        (hub.folder / name).write_bytes(data)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.hub, hub.port = hub, server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield hub
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CDCODEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CDCODEC_OFFLINE", raising=False)
    return tmp_path / "cache"


def no_network(url, start):
    raise AssertionError(f"{url} was opened")


def stored(cache):
    return sorted(path.name for path in cache.rglob("*") if path.is_file())


# Fetching


def test_a_fetched_set_lies_in_the_cache_by_its_hashes(hub, cache):
    paths = weights.fetch("hub-set", registry=registry_of(weight_set()), opener=hub)
    assert [path.read_bytes() for path in paths] == list(CONTENT.values())
    assert paths == [cache / "sha256" / sha256(data) for data in CONTENT.values()]
    assert stored(cache) == sorted(sha256(data) for data in CONTENT.values())


def test_what_is_in_the_cache_is_not_fetched_again(hub):
    registry = registry_of(weight_set())
    paths = weights.resolve("hub-set", registry=registry, opener=hub)
    assert weights.resolve("hub-set", registry=registry, opener=no_network) == paths
    assert weights.resolve("hub-set", registry=registry, offline=True) == paths
    assert weights.fetch("hub-set", registry=registry, opener=no_network) == paths
    assert weights.verify("hub-set", registry=registry) == paths


def test_progress_counts_bytes_over_all_files(hub):
    seen = []
    weights.fetch(
        "hub-set",
        lambda done, total: seen.append((done, total)),
        registry=registry_of(weight_set()),
        opener=hub,
    )
    total = sum(map(len, CONTENT.values()))
    assert len(seen) >= 4  # 2.2 MB in pieces, and the small file
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)
    assert {each for _, each in seen} == {total}


def test_a_missing_file_on_the_hub_is_a_weights_error(hub, cache):
    (hub.folder / "b.safetensors").unlink()
    with pytest.raises(WeightsError, match="cannot download .*HTTP status 404"):
        weights.fetch("hub-set", registry=registry_of(weight_set()), opener=hub)
    assert stored(cache) == [sha256(CONTENT["a.safetensors"])]


@pytest.mark.parametrize(
    "data", [b"", CONTENT["a.safetensors"][:-1], CONTENT["a.safetensors"] + b"!", b"F" * 2_200_000]
)
def test_nothing_is_kept_of_a_file_with_another_content(hub, cache, data):
    (hub.folder / "a.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match="does not hold the registered a.safetensors"):
        weights.fetch("hub-set", registry=registry_of(weight_set()), opener=hub)
    assert stored(cache) == []


def test_a_download_stops_when_it_is_longer_than_registered():
    class Endless(io.RawIOBase):
        given = 0

        def read(self, size=-1):
            Endless.given += size
            return bytes(size)

    with pytest.raises(WeightsError, match="does not hold the registered"):
        weights.fetch(
            "hub-set", registry=registry_of(weight_set()), opener=lambda url, start: Endless()
        )
    assert Endless.given < 5_000_000


def test_a_connection_that_breaks_at_once_leaves_nothing(cache):
    class Broken(io.RawIOBase):
        def read(self, size=-1):
            raise ConnectionResetError(104, "Connection reset by peer")

    with pytest.raises(WeightsError, match="Connection reset by peer") as caught:
        weights.fetch(
            "hub-set", registry=registry_of(weight_set()), opener=lambda url, start: Broken()
        )
    assert "try again" in caught.value.hint
    assert stored(cache) == []


# Resuming

FIRST = sha256(CONTENT["a.safetensors"])


def cut_off(hub, after=1_500_000):
    """Fetch with a connection that breaks."""
    hub.cut = after
    with pytest.raises(WeightsError, match="cannot download .*: ") as caught:
        weights.fetch("hub-set", registry=registry_of(weight_set()), opener=hub)
    assert "what came already is kept" in caught.value.hint
    hub.cut = None


def test_a_download_goes_on_where_it_was_cut_off(hub, cache):
    cut_off(hub)
    assert stored(cache) == [f"{FIRST}.part"]
    assert (cache / "sha256" / f"{FIRST}.part").stat().st_size == 1_500_000
    cut_off(hub, 100_000)
    seen = []
    paths = weights.fetch(
        "hub-set",
        lambda done, total: seen.append(done),
        registry=registry_of(weight_set()),
        opener=hub,
    )
    assert [path.read_bytes() for path in paths] == list(CONTENT.values())
    assert stored(cache) == sorted(sha256(data) for data in CONTENT.values())
    ranges = [None, "bytes=1500000-", "bytes=1600000-", None]
    assert [each for _, each in hub.asked] == ranges
    assert seen[0] > 1_600_000
    assert seen[-1] == sum(map(len, CONTENT.values()))


def test_a_server_that_ignores_ranges_sends_all_again(hub, cache):
    cut_off(hub)
    hub.ranges = False
    paths = weights.fetch("hub-set", registry=registry_of(weight_set()), opener=hub)
    assert [path.read_bytes() for path in paths] == list(CONTENT.values())
    assert hub.asked[1][1] == "bytes=1500000-"
    assert not list(cache.rglob("*.part"))


def test_an_interrupted_download_goes_on_later(hub, cache):
    def interrupt(done, total):
        raise KeyboardInterrupt

    registry = registry_of(weight_set())
    with pytest.raises(KeyboardInterrupt):
        weights.fetch("hub-set", interrupt, registry=registry, opener=hub)
    assert stored(cache) == [f"{FIRST}.part"]
    paths = weights.fetch("hub-set", registry=registry, opener=hub)
    assert paths[0].read_bytes() == CONTENT["a.safetensors"]
    assert hub.asked[1][1].startswith("bytes=")


@pytest.mark.parametrize("left", [b"x" * 1000, b"x" * 2_200_000, b"x" * 2_300_000])
def test_what_is_left_of_another_file_is_thrown_away(hub, cache, left):
    part = cache / "sha256" / f"{FIRST}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(left)
    paths = weights.fetch("hub-set", registry=registry_of(weight_set()), opener=hub)
    assert [path.read_bytes() for path in paths] == list(CONTENT.values())
    assert not list(cache.rglob("*.part"))


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("data", [b"F" * 2_200_000, b"first file", b"", b"F" * 2_300_000])
def test_a_file_that_was_replaced_after_the_cut_is_refused(hub, cache, ranges, data):
    cut_off(hub)
    hub.ranges = ranges
    (hub.folder / "a.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match="does not hold the registered a.safetensors"):
        weights.fetch("hub-set", registry=registry_of(weight_set()), opener=hub)
    assert stored(cache) == []


def test_the_part_of_a_process_that_lives_is_left_to_it_and_that_of_a_dead_one_is_not(hub, cache):
    part = cache / "sha256" / f"{FIRST}.{'0' * 32}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT["a.safetensors"][:1000])
    registry = registry_of(weight_set())
    weights.fetch("hub-set", registry=registry, opener=hub)
    assert hub.asked[0][1] is None
    assert part.stat().st_size == 1000
    (cache / "sha256" / FIRST).unlink()
    os.utime(part, (0, 0))
    weights.fetch("hub-set", registry=registry, opener=hub)
    assert hub.asked[2][1] == "bytes=1000-"
    assert not part.exists()


def test_many_fetch_at_once_and_all_get_the_right_files(hub, cache):
    cut_off(hub)
    registry = registry_of(weight_set())
    with ThreadPoolExecutor(8) as pool:
        runs = [
            pool.submit(weights.fetch, "hub-set", registry=registry, opener=hub) for _ in range(8)
        ]
    for run in runs:
        assert [path.read_bytes() for path in run.result()] == list(CONTENT.values())
    assert stored(cache) == sorted(sha256(data) for data in CONTENT.values())


def test_files_of_one_name_in_several_folders_are_told_apart(hub, cache):
    files = []
    for part, data in [("unet", b"U" * 1_200_000), ("vae", b"V" * 900)]:
        place = f"{part}/diffusion_pytorch_model.safetensors"
        (hub.folder / part).mkdir()
        (hub.folder / place).write_bytes(data)
        files.append(WeightFile(f"{part}.safetensors", sha256(data), len(data), HUB + place, place))
    registry = registry_of(weight_set(files=tuple(files)))
    hub.cut = 1_100_000
    with pytest.raises(WeightsError, match="unet/diffusion_pytorch_model"):
        weights.fetch("hub-set", registry=registry, opener=hub)
    paths = weights.fetch("hub-set", registry=registry, opener=hub)
    assert [path.stat().st_size for path in paths] == [1_200_000, 900]
    assert [path for path, _ in hub.asked][1:] == [
        "/unet/diffusion_pytorch_model.safetensors",
        "/vae/diffusion_pytorch_model.safetensors",
    ]


def test_https_is_asked_for_a_range(monkeypatch):
    asked = []

    def record(self, request, timeout):
        asked.append(request.get_header("Range"))

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", record)
    download.open_https("https://hub.example/a")
    download.open_https("https://hub.example/a", 17)
    assert asked == [None, "bytes=17-"]


def test_a_cache_that_cannot_be_written_is_a_weights_error(hub, cache):
    cache.write_bytes(b"a file where the folder belongs")
    with pytest.raises(WeightsError, match="cannot write to the cache") as caught:
        weights.fetch("hub-set", registry=registry_of(weight_set()), opener=hub)
    assert "CDCODEC_CACHE" in caught.value.hint


# Offline


def test_offline_nothing_is_fetched_and_the_hint_says_what_to_run():
    with pytest.raises(WeightsError, match="fetching is switched off") as caught:
        weights.resolve(
            "hub-set", offline=True, registry=registry_of(weight_set()), opener=no_network
        )
    assert "cdcodec weights fetch hub-set" in caught.value.hint


@pytest.mark.parametrize("action", [weights.resolve, weights.fetch])
@pytest.mark.parametrize("value", ["1", "true", "yes"])
def test_the_environment_switches_fetching_off(monkeypatch, action, value):
    monkeypatch.setenv("CDCODEC_OFFLINE", value)
    with pytest.raises(WeightsError, match="fetching is switched off"):
        action("hub-set", registry=registry_of(weight_set()), opener=no_network)


@pytest.mark.parametrize("value", ["", "0", "false", "no"])
def test_the_environment_may_also_say_online(monkeypatch, hub, value):
    monkeypatch.setenv("CDCODEC_OFFLINE", value)
    assert weights.resolve("hub-set", registry=registry_of(weight_set()), opener=hub)


# Only https, only with a hash


def test_plain_http_is_refused():
    with pytest.raises(WeightsError, match="not an https address"):
        download.open_https("http://127.0.0.1/a.safetensors")
    with pytest.raises(WeightsError, match="not bundled, local, an https address or a full path"):
        remote_file("a.safetensors", location="http://hub.example/a.safetensors")
    with pytest.raises(WeightsError, match="not bundled, local, an https address or a full path"):
        remote_file("a.safetensors", location="file:///etc/passwd")


def test_a_redirect_out_of_https_is_refused():
    handler = download._HttpsRedirects()
    request = urllib.request.Request("https://hub.example/a")
    step = functools.partial(handler.redirect_request, request, io.BytesIO(), 302, "Found", {})
    assert step("https://cdn.example/a").full_url == "https://cdn.example/a"
    for address in ("http://cdn.example/a", "ftp://cdn.example/a", "file:///etc/passwd"):
        with pytest.raises(WeightsError, match="not an https address"):
            step(address)


@pytest.mark.parametrize("action", [weights.resolve, weights.fetch, weights.verify])
def test_a_file_without_a_hash_is_neither_fetched_nor_used(action):
    registry = registry_of(weight_set(files=(remote_file("a.safetensors", sha256=""),)))
    options = {} if action is weights.verify else {"opener": no_network}
    with pytest.raises(WeightsError, match="no sha256"):
        action("hub-set", registry=registry, **options)


@pytest.mark.parametrize("name", ["../a", "a/b", "a\\b", "..", ".hidden", "", "/a", "C:a", "a\0"])
def test_names_cannot_lead_out_of_their_folder(name):
    with pytest.raises(WeightsError, match="no plain file name"):
        WeightFile(name, "0" * 64, 1, weights.BUNDLED)
    with pytest.raises(WeightsError, match="no plain name"):
        weight_set(name)


@pytest.mark.parametrize("digest", ["../../x", "0" * 63, "G" * 64, "A" * 64, "0" * 64 + "\n"])
def test_hashes_are_hashes(digest):
    with pytest.raises(WeightsError, match="64 lower-case hex digits"):
        remote_file("a.safetensors", sha256=digest)


# Damage


def damage(path, *, length_changes):
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data + b"!" * length_changes)


@pytest.mark.parametrize("length_changes", [False, True])
def test_a_damaged_file_in_the_cache_is_found_and_fetched_anew(hub, length_changes):
    registry = registry_of(weight_set())
    paths = weights.fetch("hub-set", registry=registry, opener=hub)
    damage(paths[0], length_changes=length_changes)
    for action in (weights.resolve, weights.verify):
        with pytest.raises(WeightsError, match="cached weights are damaged") as caught:
            action("hub-set", registry=registry)
        assert caught.value.hint == "run: cdcodec weights fetch hub-set"
    weights.fetch("hub-set", registry=registry, opener=hub)
    assert weights.verify("hub-set", registry=registry) == paths


def test_verify_names_what_is_missing(cache):
    with pytest.raises(WeightsError, match="a.safetensors of hub-set is missing") as caught:
        weights.verify("hub-set", registry=registry_of(weight_set()))
    assert str(cache) in str(caught.value)
    assert "cdcodec weights fetch hub-set" in caught.value.hint


@contextmanager
def bundled_set(monkeypatch, tmp_path, data=CONTENT["b.safetensors"]):
    (tmp_path / "bundled").mkdir()
    path = tmp_path / "bundled" / "b.safetensors"
    path.write_bytes(data)
    monkeypatch.setattr(places, "PACKAGE", tmp_path)
    yield (
        path,
        registry_of(weight_set("ours", (remote_file("b.safetensors", location=weights.BUNDLED),))),
    )


def test_a_bundled_set_is_there_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setenv("CDCODEC_OFFLINE", "1")
    with bundled_set(monkeypatch, tmp_path) as (path, registry):
        for action in (weights.resolve, weights.verify, weights.fetch):
            assert action("ours", registry=registry) == [path]


@pytest.mark.parametrize("length_changes", [False, True])
def test_a_damaged_bundled_file_says_so(monkeypatch, tmp_path, length_changes):
    with bundled_set(monkeypatch, tmp_path) as (path, registry):
        damage(path, length_changes=length_changes)
        for action in (weights.resolve, weights.verify):
            with pytest.raises(WeightsError, match="bundled weights are damaged") as caught:
                action("ours", registry=registry)
            assert caught.value.hint == "reinstall cdcodec"


def test_a_missing_bundled_file_says_so(monkeypatch, tmp_path):
    with bundled_set(monkeypatch, tmp_path) as (path, registry):
        path.unlink()
        with pytest.raises(WeightsError, match="missing from the installation") as caught:
            weights.resolve("ours", registry=registry)
        assert caught.value.hint == "reinstall cdcodec"


# Files of the user


def test_a_file_of_the_user_is_never_looked_for():
    file = remote_file("a.safetensors", location=weights.LOCAL)
    registry = registry_of(weight_set("theirs", (file,)))
    for action in (weights.resolve, weights.verify, weights.fetch):
        with pytest.raises(WeightsError, match="yours to provide") as caught:
            action("theirs", registry=registry)
        assert "a hub" in caught.value.hint


def test_a_file_of_the_user_is_compared_with_the_registry(tmp_path):
    expected = remote_file("a.safetensors", location=weights.LOCAL)
    path = tmp_path / "any name"
    with pytest.raises(WeightsError, match="cannot read"):
        weights.verify_file(path, expected)
    path.write_bytes(CONTENT["a.safetensors"])
    weights.verify_file(path, expected)
    damage(path, length_changes=False)
    with pytest.raises(WeightsError, match="its sha256 is"):
        weights.verify_file(path, expected)
    path.write_bytes(b"short")
    with pytest.raises(WeightsError, match="5 bytes instead of 2,200,000"):
        weights.verify_file(path, expected)


def local_set(*names):
    return weight_set("theirs", tuple(remote_file(n, location=weights.LOCAL) for n in names))


def test_a_file_that_the_user_adds_is_found_from_then_on(tmp_path, cache):
    registry = registry_of(local_set("a.safetensors"))
    path = tmp_path / "any name"
    path.write_bytes(CONTENT["a.safetensors"])
    kept = weights.add("theirs", path, registry=registry)
    assert kept == cache / "sha256" / sha256(CONTENT["a.safetensors"])
    path.unlink()
    for action in (weights.resolve, weights.verify, weights.fetch):
        assert action("theirs", registry=registry) == [kept]
    assert stored(cache) == [kept.name]


def test_files_of_a_set_are_added_one_by_one_by_their_names(tmp_path):
    registry = registry_of(local_set(*CONTENT))
    for name, data in CONTENT.items():
        with pytest.raises(WeightsError, match="yours to provide") as caught:
            weights.resolve("theirs", registry=registry)
        assert "cdcodec weights add theirs FILE" in caught.value.hint
        (tmp_path / name).write_bytes(data)
        weights.add("theirs", tmp_path / name, registry=registry)
    assert [p.read_bytes() for p in weights.resolve("theirs", registry=registry)] == list(
        CONTENT.values()
    )


def test_another_file_than_the_registered_is_not_added(tmp_path, cache):
    registry = registry_of(local_set("a.safetensors"))
    path = tmp_path / "a.safetensors"
    with pytest.raises(WeightsError, match="cannot read"):
        weights.add("theirs", path, registry=registry)
    path.write_bytes(CONTENT["a.safetensors"])
    damage(path, length_changes=False)
    with pytest.raises(WeightsError, match="is not a.safetensors: its sha256 is"):
        weights.add("theirs", path, registry=registry)
    assert stored(cache) == []


def test_a_file_of_unknown_hash_is_held_to_the_one_that_was_added(tmp_path, cache):
    path = tmp_path / "dists.safetensors"
    path.write_bytes(CONTENT["a.safetensors"])
    with pytest.raises(WeightsError, match="no sha256 of dists.safetensors"):
        weights.resolve("dists")
    kept = weights.add("dists", path)
    assert kept.read_bytes() == CONTENT["a.safetensors"]
    assert weights.resolve("dists") == [kept]
    damage(path, length_changes=False)
    with pytest.raises(WeightsError, match="is not dists.safetensors: its sha256 is"):
        weights.add("dists", path)


def sd_like_set(known):
    """A set whose files have one name in several folders, of which it knows the hash or doesn't."""
    files = []
    for part, data in {"unet": b"U" * 100, "vae": b"V" * 90, "text": b"T" * 80}.items():
        place = f"{part}/model.safetensors" if part != "text" else "text.safetensors"
        expected = (sha256(data), len(data)) if known else ("", 0)
        files.append(WeightFile(f"{part}.safetensors", *expected, weights.LOCAL, place))
    return weight_set("theirs", tuple(files))


def sd_like_folder(folder):
    for place, data in [
        ("unet/model.safetensors", b"U" * 100),
        ("vae/model.safetensors", b"V" * 90),
        ("text.safetensors", b"T" * 80),
    ]:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(data)
    return folder


@pytest.mark.parametrize("known", [True, False])
def test_a_folder_adds_all_files_that_it_has(tmp_path, monkeypatch, known):
    described = sd_like_set(known)
    weights.register(tmp_path / "weights.toml", described)
    monkeypatch.setattr(places, "registry_path", lambda: tmp_path / "weights.toml")
    assert weights.find("theirs") == described
    folder = sd_like_folder(tmp_path / "copy")
    (folder / "vae" / "model.safetensors").unlink()
    assert len(weights.add_folder("theirs", folder)) == 2
    with pytest.raises(WeightsError):
        weights.resolve("theirs")
    kept = weights.add_folder("theirs", sd_like_folder(tmp_path / "copy"))
    assert weights.resolve("theirs") == kept
    assert [path.stat().st_size for path in kept] == [100, 90, 80]
    with pytest.raises(WeightsError, match="has no file of theirs") as caught:
        weights.add_folder("theirs", tmp_path / "hub")
    assert "vae/model.safetensors" in caught.value.hint


@pytest.mark.parametrize("known", [True, False])
def test_a_file_is_known_by_its_place_and_never_taken_for_another(tmp_path, monkeypatch, known):
    weights.register(tmp_path / "weights.toml", sd_like_set(known))
    monkeypatch.setattr(places, "registry_path", lambda: tmp_path / "weights.toml")
    folder = sd_like_folder(tmp_path / "copy")
    monkeypatch.chdir(folder / "vae")
    assert weights.add("theirs", Path("model.safetensors")).stat().st_size == 90
    assert weights.add("theirs", folder / "unet" / "model.safetensors").stat().st_size == 100
    monkeypatch.chdir(tmp_path)
    Path("model.safetensors").write_bytes(b"T" * 80)
    with pytest.raises(WeightsError, match="theirs has no file model.safetensors") as caught:
        weights.add("theirs", Path("model.safetensors"))
    assert "text.safetensors" in caught.value.hint


@pytest.mark.parametrize("place", ["/a", "../a", "a/../b", "a//b", "a\\b", "a/"])
def test_places_in_a_repository_cannot_lead_out_of_it(place):
    with pytest.raises(WeightsError, match="path of a.safetensors"):
        remote_file("a.safetensors", path=place)


def test_files_are_added_to_sets_of_the_user_only(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(CONTENT["a.safetensors"])
    with pytest.raises(WeightsError, match="no file of hub-set is yours to provide"):
        weights.add("hub-set", path, registry=registry_of(weight_set()))


def test_an_added_file_that_was_damaged_says_how_to_add_it_again(tmp_path):
    registry = registry_of(local_set("a.safetensors"))
    path = tmp_path / "a.safetensors"
    path.write_bytes(CONTENT["a.safetensors"])
    damage(weights.add("theirs", path, registry=registry), length_changes=True)
    for action in (weights.resolve, weights.verify):
        with pytest.raises(WeightsError, match="added weights are damaged") as caught:
            action("theirs", registry=registry)
        assert caught.value.hint == "run: cdcodec weights add theirs FILE"
    weights.add("theirs", path, registry=registry)
    assert weights.verify("theirs", registry=registry)


def test_a_cache_without_room_for_an_added_file_is_a_weights_error(tmp_path, cache):
    cache.write_bytes(b"a file where the folder should be")
    path = tmp_path / "a.safetensors"
    path.write_bytes(CONTENT["a.safetensors"])
    with pytest.raises(WeightsError, match="cannot write to the cache"):
        weights.add("theirs", path, registry=registry_of(local_set("a.safetensors")))


# Looking up


def test_an_unknown_name_is_a_weights_error_with_the_nearest():
    registry = registry_of(weight_set("cdc-nano"), weight_set("rdeic-nano"))
    for action in (weights.find, weights.resolve, weights.verify, weights.fetch):
        with pytest.raises(WeightsError, match="unknown weight set 'cdc-nanno'") as caught:
            action("cdc-nanno", registry=registry)
        assert caught.value.hint == "did you mean cdc-nano?"
    with pytest.raises(WeightsError) as caught:
        weights.find("!", registry=registry)
    assert caught.value.hint == "known are cdc-nano, rdeic-nano"


def test_a_set_is_found_by_its_model_id():
    one, other = weight_set("one", model_id="00000001"), weight_set("other", model_id="000000ff")
    registry = registry_of(weight_set("none", model_id=""), one, other, replace(one, name="same"))
    assert weights.by_model_id(b"\0\0\0\xff", registry=registry) is other
    assert weights.by_model_id(b"\0\0\0\x01", registry=registry) is one
    with pytest.raises(WeightsError, match="model id 00000002") as caught:
        weights.by_model_id(b"\0\0\0\x02", registry=registry)
    assert "one (00000001), other (000000ff)" in caught.value.hint
    with pytest.raises(WeightsError):
        weights.by_model_id(b"", registry=registry)


def test_the_cache_is_where_the_platform_keeps_caches(monkeypatch):
    assert weights.cache_dir() == Path(os.environ["CDCODEC_CACHE"])
    monkeypatch.delenv("CDCODEC_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert weights.cache_dir() == Path("/somewhere/cdcodec")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights.cache_dir() == Path.home() / ".cache" / "cdcodec"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert weights.cache_dir() == Path.home() / "Library" / "Caches" / "cdcodec"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert weights.cache_dir() == Path("/local/cdcodec")


# The registry file


def test_the_registry_of_this_installation_is_sound():
    registry = weights.load_registry()
    assert {"cdc-nano", "lpips-squeeze", "sd21-base"} <= set(registry)
    ids = [each.model_id for each in registry.values()]
    for each in registry.values():
        assert each.licence
        assert each.source
        for file in each.files:
            assert file.bytes or not file.sha256
    assert all(ids.count(each) == 1 for each in ids if each)


def test_registering_what_is_registered_changes_no_byte(tmp_path):
    path = tmp_path / "weights.toml"
    text = weights.registry_path().read_bytes()
    path.write_bytes(text)
    for each in weights.load_registry(path).values():
        weights.register(path, each)
    assert path.read_bytes() == text
    assert stored(tmp_path) == ["weights.toml"]


def test_registered_sets_are_read_back_in_order(tmp_path):
    path = tmp_path / "weights.toml"
    path.write_text("# a head\n\n# of two parts\n")
    first = weight_set("first", source='a "quoted"\\ \n\x7f\x00 ünï', measured={"kodak_bpp": 0.1})
    files = remote_file("a.safetensors", path="unet/a.safetensors"), remote_file("b.safetensors")
    second = weight_set("b.2", files, model_id="", measured={"x y": 1e-9, "n": 3})
    weights.register(path, first)
    weights.register(path, second)
    assert list(weights.load_registry(path).items()) == [("first", first), ("b.2", second)]
    changed = replace(first, model_id="11111111", measured={})
    weights.register(path, changed)
    assert list(weights.load_registry(path).values()) == [changed, second]
    assert path.read_text().startswith("# a head\n\n# of two parts\n\n[first]\n")


def test_a_set_may_name_the_one_whose_pictures_it_works_on(tmp_path):
    path = tmp_path / "weights.toml"
    plain, on_top = weight_set("plain"), weight_set("on-top", base="plain")
    weights.register(path, plain)
    weights.register(path, on_top)
    assert path.read_text().count("base = ") == 1
    assert weights.load_registry(path) == registry_of(plain, on_top)
    assert weights.load_registry(path)["plain"].base == ""


def test_only_the_files_of_the_set_itself_are_resolved(hub):
    base = weight_set("base", (remote_file("a.safetensors"),))
    on_top = weight_set("on-top", (remote_file("b.safetensors"),), base="base")
    (path,) = weights.resolve("on-top", registry=registry_of(base, on_top), opener=hub)
    assert path.read_bytes() == CONTENT["b.safetensors"]


def test_a_set_is_not_its_own_base():
    with pytest.raises(WeightsError, match="its own base"):
        weight_set("ouroboros", base="ouroboros")


def test_a_base_is_shown(monkeypatch, tmp_path, capsys):
    path = tmp_path / "weights.toml"
    weights.register(path, weight_set("plain"))
    weights.register(path, weight_set("on-top", base="plain"))
    monkeypatch.setattr(places, "registry_path", lambda: path)
    assert main(["weights", "show", "on-top"]) == 0
    assert ["base", "plain"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    assert main(["weights", "show", "plain"]) == 0
    assert "base" not in capsys.readouterr().out
    assert main(["weights", "show", "on-top", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["base"] == "plain"
    assert main(["weights", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["weights"]
    assert [each["base"] for each in listed] == ["", "plain"]


SOUND = """
[x]
family = "cdc"
preset = "nano"
licence = "MIT"
source = "us"
model_id = "00000000"
[[x.files]]
name = "x.safetensors"
sha256 = ""
bytes = 0
location = "bundled"
"""


@pytest.mark.parametrize(
    ("before", "after", "message", "hint"),
    [
        ("licence", "license", "unknown key 'license'", "did you mean licence?"),
        ("sha256 =", "sha265 =", "unknown key 'sha265'", "did you mean sha256?"),
        ('family = "cdc"\n', "", "lacks family", None),
        ('"MIT"', "3", "licence of weight set x is not of type str", None),
        ("bytes = 0", "bytes = -1", "negative", None),
        ("bytes = 0", "bytes = true", "not of type int", None),
        ('"00000000"', '"0000000"', "8 lower-case hex digits", None),
        ("[[x.files]]", "[x.files]", "not of type list", None),
        ("[x", '["../x"', "no plain name", None),
        ("[x]", "[x", "cannot read the registry", None),
        (SOUND, "x = 1", "not a table", None),
        ('"us"', '"us"\nbase = "../x"', "no plain name", None),
        ('"us"', '"us"\nbase = 1', "base of weight set x is not of type str", None),
        ('"us"', '"us"\nbases = "y"', "unknown key 'bases'", "did you mean base?"),
        ('"us"', '"us"\nmeasured = {a = "b"}', "not a number", None),
        ('"us"', '"us"\nmeasured = {a = true}', "not a number", None),
        ('"us"', '"us"\nmeasured = {a = nan}', "not finite", None),
        ('"us"', '"us"\nmeasured = {a = {b = 1}}', "not a number", None),
    ],
)
def test_a_registry_that_says_what_it_may_not_is_a_weights_error(
    tmp_path, before, after, message, hint
):
    path = tmp_path / "weights.toml"
    path.write_text(SOUND)
    assert list(weights.load_registry(path)) == ["x"]
    assert before in SOUND
    path.write_text(SOUND.replace(before, after))
    with pytest.raises(WeightsError, match=message) as caught:
        weights.load_registry(path)
    assert caught.value.hint == hint


def test_a_missing_registry_is_a_weights_error(monkeypatch, tmp_path):
    with pytest.raises(WeightsError, match="cannot read the registry"):
        weights.load_registry(tmp_path / "none.toml")
    monkeypatch.setattr(places, "PACKAGE", tmp_path / "package")
    with pytest.raises(WeightsError, match="missing from the installation"):
        weights.load_registry()


def test_neither_weights_nor_image_import_torch():
    script = "import sys, cdcodec.weights, cdcodec.image; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
