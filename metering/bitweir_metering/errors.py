"""Every error this package raises on purpose. Each says what is wrong and what to do next.

MeteringError
├── UnitError      a number that is no amount, a text that is no size or rate
├── SizeError      a payload that no frame holds
├── FormError      bytes that are not a canonical frame
├── PolicyError    a policy nobody can run by, or not signed by enough of those who must
├── BudgetError    a charge that does not fit what the policy allows
├── KeyFileError   a key file that is missing, open to others, or no Ed25519 key
├── WeightsError   a checkpoint folder whose weights cannot be measured
├── ClockError     a clock that was set back
├── RefusedError   a payload the gate does not take
│   └── FullError      one it may take later
├── ControlError   a message to the gate that is damaged, forged or old
├── TunnelError    what no end of a tunnel would say: its streams end
├── LabError       namespaces that cannot be made, or a process of theirs that does not start
├── MeterError     a meter that does not answer, cannot tell, or is alone
├── StatusError    what is no status of a link: whoever shows it shows nothing
├── SocketError    a local socket that cannot be made
├── LedgerError    a ledger that is missing, unsound, in use elsewhere, or closed by an error
├── TrippedError   a link that was taken down for good
├── ProofError     a Merkle proof that does not show what it should
├── CheckpointError  bytes that are no checkpoint, or no message to a witness
└── WitnessError   a witness that cannot run or does not answer, or too few that agree
    └── CosignError  a checkpoint that a witness refuses to sign
"""


class MeteringError(Exception):
    """Base of all errors of this package.

    Args:
        message: one line saying what is wrong.
        remedy: one line saying what the reader can do about it; may be empty.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class UnitError(MeteringError):
    """A number that is no amount of bits or bytes, or a text that is no size or rate."""


class SizeError(MeteringError):
    """A payload that no frame holds."""


class FormError(MeteringError):
    """Bytes that are not a canonical frame: dropped, and counted as damage."""


class PolicyError(MeteringError):
    """A policy that nobody can run by, or that is not signed by enough of those who must sign it."""


class BudgetError(MeteringError):
    """A charge that does not fit what the policy allows, or that is none; nothing was charged."""


class KeyFileError(MeteringError):
    """A key file that is missing, that others could read, or that holds no Ed25519 key."""


class WeightsError(MeteringError):
    """A checkpoint folder that holds no weights, or whose weights cannot be read."""


class ClockError(MeteringError):
    """A clock that was set back: nothing leaves."""


class RefusedError(MeteringError):
    """A payload the gate does not take; nothing of it was kept or charged."""


class FullError(RefusedError):
    """A payload the gate does not take now, because too many are waiting."""


class ControlError(MeteringError):
    """A message from outside to the gate that is damaged, forged or older than another: ignored, and counted."""


class TunnelError(MeteringError):
    """What an honest other end of a tunnel would not say, or a stream that cannot go on: it ends."""


class LabError(MeteringError):
    """Namespaces that cannot be made, or a process in them that does not start."""


class MeterError(MeteringError):
    """A meter that does not answer or cannot tell, or too few of them: no permit."""


class StatusError(MeteringError):
    """A status file that is missing, damaged or of another link, or a status that cannot be: nothing is shown of it."""


class SocketError(MeteringError):
    """A local socket that cannot be made."""


class LedgerError(MeteringError):
    """A ledger that is missing, unsound, in use elsewhere or closed by an error: nothing may leave."""


class TrippedError(MeteringError):
    """A link that was taken down for good: nothing leaves until people have signed a reset."""


class ProofError(MeteringError):
    """A Merkle proof that does not show what it should, or a hash that is none."""


class CheckpointError(MeteringError):
    """Bytes that are no checkpoint, or no message to or from a witness."""


class WitnessError(MeteringError):
    """A witness that cannot run or does not answer, or too few that agree: nothing may leave."""


class CosignError(WitnessError):
    """A checkpoint that a witness refuses to sign: the log was rolled back, forked, or is another.

    Args:
        message: one line saying what is wrong.
        reason: the number of a `witness.Refusal`.
        remedy: one line saying what the reader can do about it.
    """

    def __init__(self, message: str, *, reason: int, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.reason = reason
