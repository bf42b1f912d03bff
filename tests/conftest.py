"""Settings that must be there before numpy and torch are imported."""

import os

# Tests run small networks, often beside other work: threads that wait for each other cost more
# than they bring. What must not depend on their number has tests that set it themselves.
os.environ.setdefault("OMP_NUM_THREADS", "1")
