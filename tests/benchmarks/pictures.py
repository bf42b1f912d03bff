"""Make the README's pictures: `python -m tests.benchmarks.pictures docs/pictures`.

For each photograph of scikit-image's wheel: the original, WebP's smallest file and cdcodec's at
0.05 bpp, cut to the same square and stored as WebP of high quality. Prints the real sizes.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image
from skimage import data

from cdcodec import api

SQUARES = {"coffee": (130, 20), "astronaut": (60, 0), "chelsea": (75, 0)}
"""Left and top of the square that is shown."""
SIDE = 300  # pixels
BPP = 0.05


def webp(picture: Image.Image) -> bytes:
    """Return the smallest file that WebP makes of a picture."""
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=0, method=6)
    return file.getvalue()


def main(folder: Path) -> None:
    """Write NAME-original, NAME-webp and NAME-cdcodec for each photograph."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (left, top) in SQUARES.items():
        original = Image.fromarray(getattr(data, name)())
        smallest = webp(original)
        encoded = api.encode(original, bpp=BPP).data
        shown = {
            "original": original,
            "webp": Image.open(io.BytesIO(smallest)),
            "cdcodec": api.decode(encoded).image,
        }
        for kind, picture in shown.items():
            square = picture.crop((left, top, left + SIDE, top + SIDE))
            square.save(folder / f"{name}-{kind}.webp", quality=92, method=6)
        pixels = original.width * original.height
        for kind, file in (("WebP", smallest), ("cdcodec", encoded)):
            sys.stdout.write(
                f"{name} {kind}: {len(file)} bytes, {8 * len(file) / pixels:.3f} bpp\n"
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
