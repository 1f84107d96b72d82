"""The commands that read a bus: nothing here changes anything."""
