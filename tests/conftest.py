"""Settings that must be there before numpy and torch are imported."""

import os
from collections.abc import Iterator

import pytest

# Tests run small networks, often beside other work: threads that wait for each other cost more
# than they bring. What must not depend on their number has tests that set it themselves.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep out of the tests what their user has fetched and converted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CDCODEC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
