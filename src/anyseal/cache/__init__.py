"""The encrypted cache."""
