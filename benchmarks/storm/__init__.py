"""The kill storm: processes die at random moments, and the ledger says what became of every event."""
