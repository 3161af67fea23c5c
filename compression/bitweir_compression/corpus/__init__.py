"""Text the project makes or finds, never downloads: a procedural tutor, and documentation of installed packages.

Rules:
1. An item is a function of (corpus, family, key); the key names the problem, not its wording.
2. `split_of` depends on (corpus, family, key) alone, so all wordings of one problem fall on the same side, and training
   and evaluation prompts are disjoint by construction.
3. Nothing here reads the network, the clock or a global random generator: the same seed gives the same items.
"""

from bitweir_compression.corpus.items import EVAL_SHARE, Item, Split, split_of

__all__ = ["EVAL_SHARE", "Item", "Split", "split_of"]
