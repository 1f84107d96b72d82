"""What only a notebook shows: charts as inline SVG, and the live dashboard.

Thin, over what the log and the broker answer.

Nothing here is imported before it is asked for: ``sub.dashboard()`` loads anywidget, ``import
mltrigger`` does not.
"""
