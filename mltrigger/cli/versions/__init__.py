"""The commands about versions in production."""
