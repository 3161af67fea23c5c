"""A process that reserves and sends, in this order or in the wrong one, for tests that take its machine away.

    python -m tests.security.ledger_sender LEDGER ORDER SYNCHRONOUS COUNT

It makes the ledger if there is none, and sends by writing to descriptor 1: SENT, SEND_BITS each. An error of the ledger
ends it; then it says on stderr whether a second try was refused too.
"""

import os
import sys
from pathlib import Path

from bitweir_metering import ledger as ledger_module
from bitweir_metering import ledger_file
from bitweir_metering.errors import LedgerError
from bitweir_metering.frame import TrafficClass
from bitweir_metering.ledger import Ledger
from tests.unit.metering.example_ledger import created, model, opened
from tests.unit.metering.example_policy import policy

SEND_BITS = 1_000
SENT = b"\x01" * 8
# Close, reopen and move the log often, so that a cut of the power falls into all of it.
SENDS_OF_ONE_OPENING = 60
CHECKPOINT_ENTRIES = 16
ROOMY = policy(class_limits=dict.fromkeys(TrafficClass, 8 * 10**9))


def send(ledger: Ledger, descriptor: int, order: str) -> None:
    """Reserve, then send; or what the oracles must find."""
    if order == "send-first":
        os.write(descriptor, SENT)
    ledger.reserve([model(SEND_BITS)])
    if order == "reserve-first":
        os.write(descriptor, SENT)


def main(path: Path, order: str, synchronous: str, count: int) -> None:
    """Send so many times."""
    ledger_module.CHECKPOINT_ENTRIES = CHECKPOINT_ENTRIES  # type: ignore[misc]
    read_back = {"FULL": 2, "NORMAL": 1, "OFF": 0}[synchronous]
    weakened = ("synchronous", synchronous, read_back)
    ledger_file.SETTINGS = tuple(  # type: ignore[misc]
        weakened if setting[0] == "synchronous" else setting for setting in ledger_file.SETTINGS
    )
    ledger = opened(path) if path.exists() else created(path, ROOMY)
    try:
        for number in range(1, count + 1):
            send(ledger, 1, order)
            if number % SENDS_OF_ONE_OPENING == 0:
                ledger.close()
                ledger = opened(path)
    except LedgerError as first:
        try:
            ledger.reserve([model(SEND_BITS)])
            second = "granted"
        except LedgerError as error:
            second = str(error)
        sys.stderr.write(f"{first}\n{second}\n")
    # As a machine that loses power does: nothing is closed.
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
