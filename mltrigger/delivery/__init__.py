"""The loop: lease, invoke, record, settle."""
