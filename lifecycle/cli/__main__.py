"""``python -m lifecycle.cli``: the command line without its console script."""

import sys

from lifecycle.cli import main

if __name__ == "__main__":
    sys.exit(main())
