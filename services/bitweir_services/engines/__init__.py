"""Engines turn committed tokens into logits; a chooser turns logits into tokens; the scheduler runs requests over both.

Nobody assumes that the engine samples alone: the strong model, the weak model, a verifier that forces tokens and a
scripted stand-in all fit behind `Engine`. Importing this package loads no torch; `engines.hf` does.
"""
