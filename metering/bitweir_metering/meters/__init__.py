"""Meters on the receiving side, each by another mechanism. reading.py says what all of them report."""
