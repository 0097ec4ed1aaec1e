"""Intervals, tests, measures of classification and of information."""
