"""Programs as models: JSON lines on stdin and stdout."""
