"""Where a cache's sealed entries are kept."""
