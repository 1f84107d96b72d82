"""Charts with matplotlib: each function draws figures on Axes, and returns them.

The numbers come from columns of frames. A million attempts are a few hundred points. The style is
in :mod:`mltrigger.notebook.plotting.style`, and changes no setting of the user.
"""

from mltrigger.notebook.plotting.bars import outcomes
from mltrigger.notebook.plotting.comparison import agreement
from mltrigger.notebook.plotting.latency import latency
from mltrigger.notebook.plotting.over_time import throughput, timeline
from mltrigger.notebook.plotting.trace import trace

__all__ = ["agreement", "latency", "outcomes", "throughput", "timeline", "trace"]
