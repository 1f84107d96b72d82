"""The code of a version: which it is, and which files and values belong to it."""
