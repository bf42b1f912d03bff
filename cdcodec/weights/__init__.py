"""Weights: from a name in `weights.toml` to verified files on this machine.

The module registry has what is known of each set; cache its files, fetched where they are missing;
download one file over https; provided those that the user adds. The other modules are what these
share.
"""

from cdcodec.weights.cache import Progress, fetch, resolve, verify
from cdcodec.weights.hashes import sha256_of, verify_file
from cdcodec.weights.places import bundled_dir, cache_dir, own_registry_path, registry_path
from cdcodec.weights.provided import add, add_folder
from cdcodec.weights.registry import (
    BUNDLED,
    LOCAL,
    Registry,
    WeightFile,
    WeightSet,
    by_model_id,
    check_name,
    find,
    load_registry,
    register,
)

__all__ = [
    "BUNDLED",
    "LOCAL",
    "Progress",
    "Registry",
    "WeightFile",
    "WeightSet",
    "add",
    "add_folder",
    "by_model_id",
    "bundled_dir",
    "cache_dir",
    "check_name",
    "fetch",
    "find",
    "load_registry",
    "own_registry_path",
    "register",
    "registry_path",
    "resolve",
    "sha256_of",
    "verify",
    "verify_file",
]
