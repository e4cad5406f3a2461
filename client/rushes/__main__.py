"""`python -m rushes`: the same as the `rushes` command."""

import sys

from rushes.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
