"""container.ksy describes the files that cdcodec.bitstream writes, field by field.

The Kaitai compiler isn't a Python package, so a small interpreter walks the description. It knows
the constructs that container.ksy uses, and fails on any other.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from cdcodec.bitstream import (
    FORMAT_VERSION,
    MAGIC,
    MAX_SIDE,
    MAX_STEPS,
    Chunk,
    ChunkType,
    Container,
    Header,
    pack_metadata,
    read,
    write,
)
from cdcodec.errors import CdcError

FORMATS = Path(__file__).resolve().parent.parent / "formats"
KSY: dict[str, Any] = yaml.safe_load((FORMATS / "container.ksy").read_text(encoding="utf-8"))
INTEGER_BYTES = {"u1": 1, "u4": 4}
FIELD_KEYS = {
    *{"id", "type", "enum", "size", "contents", "valid"},
    *{"repeat", "repeat-until"},
}
TYPE_KEYS = {"doc", "seq", "instances"}

EVERY_TYPE: dict[int, bytes] = dict.fromkeys(ChunkType, b"\x00\x7f")
EVERY_TYPE |= dict.fromkeys((ChunkType.ICC, ChunkType.EXIF, ChunkType.XMP), pack_metadata(b"raw"))
EVERY_TYPE |= {ChunkType.COLOUR: b"\x01", 0xFF: b"from the future"}

headers = st.builds(
    Header,
    family=st.integers(1, 255),
    model_id=st.binary(min_size=4, max_size=4),
    width=st.integers(1, MAX_SIDE),
    height=st.integers(1, 2730),
    point=st.integers(0, 255),
    steps=st.integers(0, MAX_STEPS),
)
unknown_chunks = st.builds(Chunk, st.integers(0x85, 0xFF), st.binary(max_size=300))
containers = st.builds(
    lambda header, latents, others: Container(
        header, (*others, Chunk(ChunkType.LATENTS, latents), *others)
    ),
    headers,
    st.binary(max_size=20_000),
    st.lists(unknown_chunks, max_size=3),
)


class Refused(Exception):
    """The description does not match the data."""


class EnumValue(int):
    """A number that the description gives a name."""

    @property
    def to_i(self) -> int:
        return int(self)


class Items(list[Any]):
    """A repeated field, with Kaitai's names for its properties."""

    @property
    def size(self) -> int:
        return len(self)

    @property
    def last(self) -> Any:
        return self[-1]


class Stream:
    def __init__(self, data: bytes) -> None:
        self.data, self.pos, self.size = data, 0, len(data)

    def take(self, count: int) -> bytes:
        if not 0 <= count <= self.size - self.pos:
            raise Refused(f"{count} bytes wanted, {self.size - self.pos} left")
        self.pos += count
        return self.data[self.pos - count : self.pos]


class Node:
    """One user-defined type, read from a stream; fields and instances are attributes."""

    def __init__(self, spec: dict[str, Any], stream: Stream) -> None:
        self.instances: dict[str, Any] = spec.get("instances", {})
        self.fields: dict[str, Any] = {"_io": stream}
        for field in spec["seq"]:
            assert set(field) <= FIELD_KEYS, f"unknown construct in {field}"
            self.fields[field["id"]] = self._repeated(field, stream)

    def __getattr__(self, name: str) -> Any:
        if name in self.fields:
            return self.fields[name]
        if name in self.instances:
            return self.evaluate(self.instances[name]["value"])
        raise AttributeError(name)

    def evaluate(self, expression: int | str, **more: Any) -> Any:
        """Evaluate a Kaitai expression; its ternary is the only thing that isn't Python too."""
        if isinstance(expression, int):
            return expression
        python = re.sub(r"\(([^()?]+)\?([^:]+):([^()]+)\)", r"(\2 if \1 else \3)", expression)
        names = set(re.findall(r"(?<![\w.])[a-z]\w*", python)) - {"if", "else", "not", "and", "or"}
        scope = {name: getattr(self, name) for name in names if not name.startswith("0x")}
        return eval(python, {"__builtins__": {}}, {"_io": self._io, **scope, **more})

    def _repeated(self, field: dict[str, Any], stream: Stream) -> Any:
        match field.get("repeat"):
            case None:
                return self._value(field, stream)
            case "eos":
                items = Items()
                while stream.pos < stream.size:
                    items.append(self._value(field, stream))
                return items
            case "until":
                items = Items([self._value(field, stream)])
                while not self.evaluate(field["repeat-until"], _=items[-1]):
                    items.append(self._value(field, stream))
                return items
        raise AssertionError(f"unknown repeat in {field}")

    def _value(self, field: dict[str, Any], stream: Stream) -> Any:
        value = self._unchecked(field, stream)
        valid = field.get("valid", {})
        for key, bound in valid.items() if isinstance(valid, dict) else [("eq", valid)]:
            if not self._holds(key, bound, value):
                raise Refused(f"{field['id']} is not valid")
        return value

    def _holds(self, rule: str, bound: Any, value: Any) -> bool:
        match rule:
            case "eq":
                return bool(value == bound)
            case "max":
                return bool(value <= bound)
            case "expr":
                return bool(self.evaluate(bound, _=value))
        raise AssertionError(f"unknown rule {rule}")

    def _unchecked(self, field: dict[str, Any], stream: Stream) -> Any:
        kind = field.get("type")
        if "contents" in field:
            if stream.take(len(field["contents"])) != bytes(field["contents"]):
                raise Refused("wrong contents")
            return bytes(field["contents"])
        if kind in INTEGER_BYTES:
            assert KSY["meta"]["endian"] == "le"
            number = int.from_bytes(stream.take(INTEGER_BYTES[kind]), "little")
            return EnumValue(number) if field.get("enum") in KSY["enums"] else number
        if "size" in field:
            data = stream.take(self.evaluate(field["size"]))
            return data if kind is None else Node(KSY["types"][kind], Stream(data))
        return Node(KSY["types"][kind], stream)


def walk(data: bytes) -> Node:
    stream = Stream(data)
    root = Node(KSY, stream)
    if stream.pos != stream.size:
        raise Refused("bytes are left over")
    return root


def check_same(container: Container, data: bytes) -> None:
    root = walk(data)
    header = container.header
    assert root.magic == MAGIC
    assert root.version == FORMAT_VERSION
    assert (root.family, root.model_id) == (header.family, header.model_id)
    assert (root.width.value, root.height.value) == (header.width, header.height)
    assert (root.point, root.steps) == (header.point, header.steps)
    assert [(item.code, item.payload, item.is_ancillary) for item in root.chunks.items] == [
        (chunk.type, chunk.payload, chunk.ancillary) for chunk in container.chunks
    ]
    assert root.crc32 == zlib.crc32(data[:-4])


@given(header=headers)
def test_the_description_reads_every_type_of_chunk(header: Header) -> None:
    chunks = tuple(Chunk(kind, payload) for kind, payload in EVERY_TYPE.items())
    container = Container(header, chunks)
    check_same(container, write(container))


@given(container=containers)
def test_the_description_reads_any_file(container: Container) -> None:
    check_same(container, write(container))


def test_chunk_types_have_the_same_names_and_numbers() -> None:
    assert KSY["enums"]["chunk_type"] == {int(kind): kind.name.lower() for kind in ChunkType}


def test_family_ids_are_frozen() -> None:
    families = {1: "cdc", 2: "rdeic", 3: "diffeic", 4: "cgdm", 5: "palette"}
    assert KSY["enums"]["family"] == families


def test_the_description_holds_nothing_that_the_interpreter_ignores() -> None:
    assert set(KSY) == {"meta", "enums", "types", *TYPE_KEYS - {"instances"}}
    for spec in KSY["types"].values():
        assert set(spec) <= TYPE_KEYS
        for instance in spec.get("instances", {}).values():
            assert set(instance) == {"value"}


WHOLE = "cd4443 01 01 00000000 03 02 00 05 01 00"


@pytest.mark.parametrize(
    ("field", "hexadecimal"),
    [
        ("magic", "cd4444 01 01 00000000 03 02 00 05 01 00"),
        ("version", "cd4443 02 01 00000000 03 02 00 05 01 00"),
        ("width", "cd4443 01 01 00000000 00 02 00 05 01 00"),
        ("width", "cd4443 01 01 00000000 808004 02 00 05 01 00"),
        ("width", "cd4443 01 01 00000000 8100 02 00 05 01 00"),
        ("height", "cd4443 01 01 00000000 03 808080808001 00 05 01 00"),
        ("steps", "cd4443 01 01 00000000 03 02 00 fb 01 00"),
        ("length", "cd4443 01 01 00000000 03 02 00 05 01 8000"),
        ("payload", "cd4443 01 01 00000000 03 02 00 05 01 05 616263"),
        ("header", "cd4443 01 01 00000000 03 02"),
    ],
)
def test_the_description_refuses_what_the_reader_refuses(field: str, hexadecimal: str) -> None:
    signed = [
        body + zlib.crc32(body).to_bytes(4, "little")
        for body in (bytes.fromhex(WHOLE), bytes.fromhex(hexadecimal))
    ]
    check_same(read(signed[0]), signed[0])
    with pytest.raises(CdcError):
        read(signed[1])
    with pytest.raises(Refused):
        walk(signed[1])


def test_the_page_names_every_chunk_type_and_number() -> None:
    page = (FORMATS / "container.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| 0x([0-9a-f]{2}) \| (\w+) \|", page, re.MULTILINE)
    assert {int(code, 16): name for code, name in rows} == KSY["enums"]["chunk_type"]
    assert " ".join(f"{byte:02x}" for byte in MAGIC) in page
