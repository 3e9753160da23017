"""`python -m leyline.cli` is `leyline`."""

import sys

from leyline.cli import main

sys.exit(main())
