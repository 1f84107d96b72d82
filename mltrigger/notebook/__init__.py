"""What only a notebook shows: charts as inline SVG, and the live dashboard.

Nothing here is loaded before it is asked for. ``sub.dashboard()`` loads anywidget, ``import
mltrigger`` does not.
"""
