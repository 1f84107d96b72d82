"""Publishing, and the outcomes of fired samples."""

from mltrigger.run.fired import Run
from mltrigger.run.publisher import Publisher

__all__ = ["Publisher", "Run"]
