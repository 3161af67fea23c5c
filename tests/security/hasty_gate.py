"""A gate that sends first and reserves later: what the tests of the real one must find. Arguments as of gate.py."""

from collections.abc import Sequence

from bitweir_metering.cosigned import CosignedLedger
from bitweir_metering.entries import Lease, Reservation
from bitweir_metering.errors import BudgetError
from bitweir_metering.gate import main

LATER = 40
"""Leases that are granted before the first of them is written."""


class HastyLedger(CosignedLedger):
    """Grants at once; writes what it granted when so many are waiting."""

    def reserve(self, requests: Sequence[Reservation]) -> list[BudgetError | None]:
        """Grant, and remember."""
        self._unwritten = [*getattr(self, "_unwritten", []), *requests]
        self._waiting += [Lease(0, request) for request in requests]
        if len(self._unwritten) >= LATER:
            self._ledger.reserve(self._unwritten)
            self._unwritten.clear()
        return [None for _ in requests]

    @property
    def is_behind(self) -> bool:
        """Whether leases or signatures wait."""
        return bool(self._waiting) or super().is_behind


if __name__ == "__main__":
    import bitweir_metering.gate as gate_module

    gate_module.CosignedLedger = HastyLedger  # type: ignore[misc]
    main()
