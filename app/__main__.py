"""`python -m app`: opens the page."""

import sys

from app.server import main

if __name__ == "__main__":
    sys.exit(main())
