"""A lane: many interleaved token streams through one coder, mirrored at both ends. Sans-I/O, no torch.

events.py    what outer sends down: grants, cancels, acknowledgements, restarts
codecs.py    how the tokens of one step are coded
numbers.py   adaptive codes of the small numbers a frame holds
lane.py      the state both ends share, and how it is taken back
frame.py     one frame, in either direction
sender.py    inner: tokens in, frames out, recovery
receiver.py  outer: frames in, tokens out, recovery
errors.py    the errors of all this
"""
