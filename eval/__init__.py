"""Evaluation: the rows every model answers, the metrics, the comparison and the report."""
