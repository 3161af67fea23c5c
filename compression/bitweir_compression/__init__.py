"""Tokens to few bits: keyed noise, models, coders. Pure: no sockets, no clock, no threads.

Importing this package loads neither torch nor transformers; the modules that need them say so in their first line.
"""
