"""``python -m mltrigger`` is the command ``mltrigger``."""

import sys

from mltrigger.cli import main

sys.exit(main())
