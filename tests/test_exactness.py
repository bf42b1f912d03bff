"""The same file gives the same symbols whatever the machine's libraries make of their sums."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cdcodec import api, families
from cdcodec.bitstream import container as box
from cdcodec.codec import Decoding
from tests.make_vectors import FOLDER, PIXELS_PSNR_DB
from tests.test_vectors import EXPECTED, psnr

NAME = "highest-point"
FILE = FOLDER / f"{NAME}.cdc"
NAMES = (NAME, "palette-86x70")

# What numpy multiplies and sums with. Values that a platform doesn't know are passed over by it.
NUMPY_SETTINGS: dict[str, dict[str, str]] = {
    "one thread": {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    "two threads": {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"},
    "kernels without AVX": {"OPENBLAS_CORETYPE": "Prescott"},
    "kernels with AVX2": {"OPENBLAS_CORETYPE": "Haswell"},
    "numpy without SIMD": {"NPY_DISABLE_CPU_FEATURES": "all there are"},
}

# What torch does with the networks around the walk: the opposite of what it does by itself.
TORCH_SETTINGS = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",  # of no effect beside the switch in DECODE, but for its helpers
    "OMP_NUM_THREADS": "2",
}

DECODE = """
import json, sys
import numpy as np
import torch

torch.backends.mkldnn.set_flags(False)  # no environment variable turns oneDNN off
from tests.test_exactness import decode

symbols, latents, pixels = decode(sys.argv[1])
np.savez(sys.argv[2], pixels=pixels, **latents)
print(json.dumps({"symbols": symbols, "capability": torch.backends.cpu.get_cpu_capability()}))
"""


def decode(path: str) -> tuple[str | None, dict[str, np.ndarray], np.ndarray]:
    """Return the digest of all symbols, the latents that the networks got, and their pixels."""
    model = api.info(path).model
    assert model is not None
    latents, reader = api.read_latents(box.read(Path(path).read_bytes()), families.load_walk(model))
    pixels = api.decode(path, Decoding(steps=2, device="cpu")).picture.pixels
    # Once more, now that torch has started its threads and set up the processor as it likes.
    again = api.info(path, verify=True).symbols_sha256
    assert again == reader.digest()
    return again, dict(latents), pixels


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with the settings, of which it has none itself."""
    ours = {key for table in (TORCH_SETTINGS, *NUMPY_SETTINGS.values()) for key in table}
    inherited = {key: value for key, value in os.environ.items() if key not in ours}
    settings = dict(settings)
    if "NPY_DISABLE_CPU_FEATURES" in settings:
        settings["NPY_DISABLE_CPU_FEATURES"] = " ".join(numpy_features())
    return {**inherited, **settings}


def numpy_features() -> list[str]:
    """Return the instruction sets that numpy has code for and finds on this machine."""
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    return [name for name in found if name]


def start(settings: Mapping[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    report: dict[str, Any] = json.loads(out)
    return report


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("setting", NUMPY_SETTINGS)
def test_info_verify_prints_the_same_sha256(setting: str, name: str) -> None:
    file = str(FOLDER / f"{name}.cdc")
    process = start(NUMPY_SETTINGS[setting], "-m", "cdcodec", "info", "--verify", "--json", file)
    assert result(process)["symbols_sha256"] == EXPECTED[name]["symbols_sha256"]


@pytest.mark.parametrize("name", NAMES)
def test_a_decode_is_the_same_with_other_kernels_but_for_rounding_of_pixels(
    name: str, tmp_path: Path
) -> None:
    arrays, file = tmp_path / "arrays.npz", str(FOLDER / f"{name}.cdc")
    process = start(TORCH_SETTINGS, "-c", DECODE, file, str(arrays))
    symbols, latents, pixels = decode(file)
    report = result(process)
    assert report["capability"] in ("DEFAULT", "NO AVX")
    assert report["symbols"] == symbols == EXPECTED[name]["symbols_sha256"]
    with np.load(arrays) as other:
        assert set(other) == {*latents, "pixels"}
        for name, values in latents.items():
            np.testing.assert_array_equal(other[name], values)
        assert psnr(other["pixels"], pixels) >= PIXELS_PSNR_DB


def test_this_file_puts_sums_to_the_test() -> None:
    """A photograph at the last rate point has symbols of many tables, hence of many sums."""
    assert EXPECTED[NAME]["bits"]["y"] > 4000
    assert Path(FILE).stat().st_size > 500
