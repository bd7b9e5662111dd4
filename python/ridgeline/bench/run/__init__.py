"""Measure: arguments of calls, checks of their results, rounds, the memory roof."""
