"""Leave out a costly import. ``-p tests.helpers.light`` does so before other plugins are loaded."""

import sys

# jsonschema would import it, which takes seconds, for a format that no test asks for.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
