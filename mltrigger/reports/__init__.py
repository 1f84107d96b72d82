"""Every question a bus answers, as frames. Nothing here changes anything but dead letters."""
