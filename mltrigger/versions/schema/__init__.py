"""Schemas of a model: from hints and classes, and which data do not fit."""
