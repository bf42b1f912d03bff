"""Compress a photograph to 0.05 bits per pixel and decode it again; `make demo` runs this."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

import skimage.data
from PIL import Image

from cdcodec import api
from cdcodec.codec import Decoding
from cdcodec.errors import InputError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("demo"))
    parser.add_argument("--bpp", type=float, default=0.05)
    parser.add_argument("--steps", type=int, help="default: what the file asks for")
    options = parser.parse_args()

    options.folder.mkdir(parents=True, exist_ok=True)
    original = options.folder / "coffee.png"
    compressed = options.folder / "coffee.cdc"
    again = options.folder / "coffee-decoded.png"

    photograph = Image.fromarray(skimage.data.coffee())  # type: ignore[no-untyped-call]
    photograph.save(original)
    try:
        encoded = api.encode(photograph, bpp=options.bpp)
    except InputError as error:  # less than the model can do
        print(f"{error.message}: taking the smallest file")
        encoded = api.encode(photograph, quality=0)
    compressed.write_bytes(encoded.data)
    decoded = api.decode(compressed, Decoding(steps=options.steps))
    decoded.image.save(again)

    pixels = photograph.width * photograph.height
    for path, remark in (
        (original, f"the original, {photograph.width}x{photograph.height} pixels"),
        (compressed, f"by {encoded.model} in {sum(encoded.seconds.values()):.1f} s"),
        (again, f"after {decoded.steps} steps, in {sum(decoded.seconds.values()):.1f} s"),
    ):
        size = path.stat().st_size
        print(f"{path!s:24} {size:>9,} bytes  {8 * size / pixels:8.4f} bpp   {remark}")

    # The environment that `make demo` made is not on the PATH.
    found = shutil.which("cdcodec", path=os.path.dirname(sys.executable))
    command = os.path.relpath(found) if found else "cdcodec"
    print(f"\nOpen {again} beside {original}.")
    print(f"Next, with a photograph of your own: {command} encode PHOTO.jpg --bpp {options.bpp:g}")


if __name__ == "__main__":
    main()
