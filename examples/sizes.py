"""Encode a picture at several rates without touching the disk, and say what each file holds.

python examples/sizes.py photo.jpg 0.05 0.1 0.2
"""

from __future__ import annotations

import sys
from pathlib import Path

import cdcodec


def main() -> None:
    photograph = Path(sys.argv[1])
    for bpp in map(float, sys.argv[2:] or ["0.1", "0.2", "0.3"]):
        try:
            data = cdcodec.encode(photograph, bpp=bpp)
        except cdcodec.CdcError as error:  # most often: less than the model can do
            print(f"{bpp:.3f} asked, {error.message}")
            continue
        said = cdcodec.info(data, verify=True)
        shares = ", ".join(f"{name} {bits / 8:,.0f}" for name, bits in said.bits.items())
        print(f"{bpp:.3f} asked, {said.bpp:.4f} used, {said.file_bytes:,} bytes ({shares})")


if __name__ == "__main__":
    main()
