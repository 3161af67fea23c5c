"""Write noise.json from the definition in noise.py: `python tests/vectors/make_noise.py`. A change of any value breaks
every stored output, so regenerate only together with a new `bitweir noise v…` label in noise.py."""

import hashlib
import json
from pathlib import Path

import numpy as np

from bitweir_compression import noise
from bitweir_compression.noise import NoiseStream


def position(key: bytes, candidate: int, stream: NoiseStream, index: int, vocabulary_size: int) -> dict[str, object]:
    """Return one position's vector."""
    philox_key = noise.position_key(key, candidate, stream, index)
    words = noise.words(philox_key, vocabulary_size)
    values = noise.gumbel(words)
    return {
        "key": key.hex(),
        "candidate": candidate,
        "stream": int(stream),
        "position": index,
        "vocabulary_size": vocabulary_size,
        "philox_key": [f"{k:016x}" for k in philox_key],
        "first_words": [f"{int(w):016x}" for w in words[:4]],
        "first_gumbel": values[:4].tolist(),
        "gumbel_sha256": hashlib.sha256(values.astype("<i8").tobytes()).hexdigest(),
    }


def main() -> None:
    """Write the file."""
    key = bytes(range(32))
    tables = np.concatenate([noise.log2_table(), noise.curvature_table()])
    seeded = [("lab", 7, "Hello"), ("lab", -1, "Hello"), ("other", 7, "Hello")]
    content = {
        "made_by": "tests/vectors/make_noise.py",
        "units": "gumbel: 2**-24 bits; words and Philox keys: hexadecimal",
        "tables_sha256": hashlib.sha256(tables.astype("<i8").tobytes()).hexdigest(),
        "request_keys": [{"request": r, "key": noise.request_key(key, r).hex()} for r in (0, 1, 2**64 - 1)],
        "seeded_keys": [
            {"tenant": t, "seed": s, "prompt": p, "key": noise.seeded_request_key(key, t, s, p.encode()).hex()}
            for t, s, p in seeded
        ],
        "positions": [
            position(key, 0, NoiseStream.VISIBLE, 0, 4096),
            position(key, 0, NoiseStream.HIDDEN, 0, 4096),
            position(key, 3, NoiseStream.VISIBLE, 1000, 151936),
            position(bytes(32), 2**32 - 1, NoiseStream.HIDDEN, 2**64 - 1, 5),
        ],
    }
    Path(__file__).with_name("noise.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
