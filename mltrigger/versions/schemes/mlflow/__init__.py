"""Models of an MLflow registry."""
