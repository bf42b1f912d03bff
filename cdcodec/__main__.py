"""`python -m cdcodec`: the command line."""

import sys

from cdcodec.cli.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
