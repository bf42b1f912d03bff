import functools
import hashlib
import http.server
import io
import os
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cdcodec import weights
from cdcodec.errors import WeightsError
from cdcodec.weights import WeightFile, WeightSet

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


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path):
    """An opener that finds addresses under HUB in a folder, through a server on this machine."""
    folder = tmp_path / "hub"
    folder.mkdir()
    for name, data in CONTENT.items():
        (folder / name).write_bytes(data)
    handler = functools.partial(QuietHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()

        def open_here(url):
            assert url.startswith(HUB)
            address = f"http://127.0.0.1:{server.server_port}/" + url.removeprefix(HUB)
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            return opener.open(address, timeout=10)

        open_here.folder = folder
        yield open_here
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CDCODEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CDCODEC_OFFLINE", raising=False)
    return tmp_path / "cache"


def no_network(url):
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
        weights.fetch("hub-set", registry=registry_of(weight_set()), opener=lambda url: Endless())
    assert Endless.given < 5_000_000


def test_a_broken_connection_leaves_nothing(cache):
    class Broken(io.RawIOBase):
        def read(self, size=-1):
            raise ConnectionResetError(104, "Connection reset by peer")

    with pytest.raises(WeightsError, match="Connection reset by peer") as caught:
        weights.fetch("hub-set", registry=registry_of(weight_set()), opener=lambda url: Broken())
    assert "try again" in caught.value.hint
    assert stored(cache) == []


def test_an_interrupted_download_leaves_nothing(hub, cache):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        weights.fetch("hub-set", interrupt, registry=registry_of(weight_set()), opener=hub)
    assert stored(cache) == []


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
        weights.open_https("http://127.0.0.1/a.safetensors")
    with pytest.raises(WeightsError, match="not bundled, local, an https address or a full path"):
        remote_file("a.safetensors", location="http://hub.example/a.safetensors")
    with pytest.raises(WeightsError, match="not bundled, local, an https address or a full path"):
        remote_file("a.safetensors", location="file:///etc/passwd")


def test_a_redirect_out_of_https_is_refused():
    handler = weights._HttpsRedirects()
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
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "weights.py"))
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
    assert {"cdc-nano", "lpips-squeeze"} <= set(registry)
    ids = [each.model_id for each in registry.values()]
    for each in registry.values():
        assert each.licence
        assert each.source
        for file in each.files:
            assert bool(file.sha256) == bool(file.bytes)
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
    second = weight_set("b.2", model_id="", measured={"x y": 1e-9, "n": 3})
    weights.register(path, first)
    weights.register(path, second)
    assert list(weights.load_registry(path).items()) == [("first", first), ("b.2", second)]
    changed = replace(first, model_id="11111111", measured={})
    weights.register(path, changed)
    assert list(weights.load_registry(path).values()) == [changed, second]
    assert path.read_text().startswith("# a head\n\n# of two parts\n\n[first]\n")


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
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "package" / "weights.py"))
    with pytest.raises(WeightsError, match="missing from the installation"):
        weights.load_registry()


def test_neither_weights_nor_image_import_torch():
    script = "import sys, cdcodec.weights, cdcodec.image; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
