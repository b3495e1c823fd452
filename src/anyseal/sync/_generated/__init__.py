"""The cache for threads, made from ``anyseal.cache``."""
