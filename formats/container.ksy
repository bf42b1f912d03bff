meta:
  id: cdc
  title: cdcodec compressed image, format version 1
  file-extension: cdc
  license: MIT
  ks-version: "0.9"
  endian: le
doc: |
  One image: header, chunks, CRC-32 of everything before it.
  container.md is normative, also where this file can't say it: the CRC's value, repeated chunks,
  limits of payloads.
seq:
  - id: magic
    contents: [0xcd, 0x44, 0x43]
  - id: version
    type: u1
    valid: 1
  - id: family
    type: u1
    enum: family
  - id: model_id
    size: 4
  - id: width
    type: varint
    valid:
      expr: _.is_canonical and _.value >= 1 and _.value <= 65535
  - id: height
    type: varint
    valid:
      expr: _.is_canonical and _.value >= 1 and _.value <= 65535
  - id: point
    type: u1
  - id: steps
    type: u1
    valid:
      max: 250
  - id: chunks
    type: chunk_list
    size: _io.size - _io.pos - 4
  - id: crc32
    type: u4
types:
  chunk_list:
    seq:
      - id: items
        type: chunk
        repeat: eos
  chunk:
    seq:
      - id: code
        type: u1
        enum: chunk_type
      - id: length
        type: varint
        valid:
          expr: _.is_canonical
      - id: payload
        size: length.value
    instances:
      is_ancillary:
        value: (code.to_i & 0x80) != 0
  varint:
    doc: Unsigned LEB128, at most five bytes, in its shortest form.
    seq:
      - id: groups
        type: group
        repeat: until
        repeat-until: not _.has_next
    instances:
      is_canonical:
        value: groups.size <= 5 and (groups.size == 1 or groups.last.byte != 0)
      value:
        value: >-
          groups[0].low
          + (groups.size >= 2 ? groups[1].low << 7 : 0)
          + (groups.size >= 3 ? groups[2].low << 14 : 0)
          + (groups.size >= 4 ? groups[3].low << 21 : 0)
          + (groups.size >= 5 ? groups[4].low << 28 : 0)
  group:
    seq:
      - id: byte
        type: u1
    instances:
      has_next:
        value: (byte & 0x80) != 0
      low:
        value: byte & 0x7f
enums:
  family:
    1: cdc
    2: rdeic
    3: diffeic
    4: cgdm
    5: palette
  chunk_type:
    0x01: latents
    0x02: clut
    0x03: syntax
    0x04: alpha
    0x05: colour
    0x81: icc
    0x82: exif
    0x83: xmp
    0x84: text
