"""``python -m fewjump`` is the ``fewjump`` command."""

import sys

from fewjump.cli import main

if __name__ == "__main__":
    sys.exit(main())
