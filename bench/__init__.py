"""What sealing costs, and what it costs with others, measured in one run: ``make bench``.

Every comparison alternates between ours and the rival's in one process; the result is the median
of the paired ratios. ``bench_values.py`` is apart from this: micro-benchmarks of our own calls,
``pytest bench/bench_values.py``.
"""
