"""The exact weak model: the same integer frequencies on every machine, batch size, thread count and cache layout.

    quantise.py    a Hugging Face folder -> exact.safetensors     sources.py, tables.py, bounds.py help
    format.py      the file: container, header (schema.py), fingerprint, typed errors
    arithmetic.py  the few operations, each with its bound        allowlist.py holds them to it
    model.py       the forward pass, batched, with an integer cache (cache.py)
    predictor.py   what the coder sees: admit, step, commit, release; integer frequencies
    certify.py     the proof on this machine against frozen vectors

docs/reference/exact-format.md specifies the file and every arithmetic step; it changes together with this package.
Importing the package loads nothing: import the module you need.
"""
