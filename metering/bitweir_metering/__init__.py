"""Bits to gate: ledger, frames, slots and meters. Standard library only. Nothing here yet; see docs/concepts.md."""
