"""Was this output forced by its seed? Scores, bounds and audits. Nothing here yet; see docs/concepts.md."""
