"""`python -m advantage` is `advantage`."""

import sys

from advantage.cli import main

sys.exit(main())
