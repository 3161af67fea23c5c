"""Who is at the ends of the simulated link: a hostile inner side, outer, and reconcile. See link_world.py."""

from collections import Counter
from collections.abc import Callable
from random import Random

from bitweir_metering import frame, sizes
from bitweir_metering.control import Control, Keys, Message, TripReason, encode
from bitweir_metering.errors import FormError
from bitweir_metering.frame import LANES, Frame, Payload, TrafficClass
from bitweir_metering.gate_client import HEADER, VERSION, request

Tell = Callable[[Message], None]
MISSING_MAX = 8  # numbers that outer looks back for
ASKS_MAX = 4  # times it asks for one


class Inner:
    """Asks for anything, also for what is no request; remembers nothing."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def payload(self, bits_max: int) -> Payload:
        count = self._random.choice((0, 1, 63, 64, 200, 500, 1000, 8 * sizes.SIZE_CLASSES[-1] - 1))
        count = min(count, bits_max)
        return Payload(self._random.getrandbits(count) if count else 0, count)

    def request(self) -> tuple[bytes, Frame | None]:
        """Return bytes for the gate, and what they ask for, if anything."""
        random = self._random
        if random.random() < 0.1:
            return random.randbytes(random.choice((0, 1, 4, 5, 30, 1029, 1030))), None
        kind = random.choice((*TrafficClass, TrafficClass.MODEL, TrafficClass.CONTROL))
        lane, payload = random.randrange(LANES), self.payload(8191)
        content = request(kind, lane, payload)
        if random.random() < 0.1:
            wrong = HEADER.pack(random.choice((VERSION, 2)), kind, random.choice((lane, 8, 255)), payload.count + 8)
            return wrong + content[HEADER.size :], None
        if kind is TrafficClass.TIMING:
            return content, None
        return content, Frame(kind, lane, 0, payload)


class Outer:
    """Decodes what arrives, asks again for what is missing, and grants tokens."""

    def __init__(self, keys: Keys, tell: Tell, time_ns: Callable[[], int], counts: Counter[str]) -> None:
        self.received: dict[int, Frame] = {}
        self.granted_tokens = 0
        self._keys = keys
        self._tell = tell
        self._time_ns = time_ns
        self._counts = counts
        self._asks: Counter[int] = Counter()
        self._highest = -1

    def arrive(self, content: bytes) -> None:
        try:
            got = frame.decode(content, self._keys.outer)
        except FormError:
            self._counts["outer drops what is no frame"] += 1
            return
        self._counts["outer gets a frame again"] += got.sequence in self.received
        self.received[got.sequence] = got
        self._highest = max(self._highest, got.sequence)

    def look(self) -> None:
        """Ask for what is missing among the last numbers; a frame it never heard of may be asked for too."""
        for sequence in range(max(0, self._highest - MISSING_MAX), self._highest + 2):
            if sequence not in self.received and self._asks[sequence] < ASKS_MAX:
                self._asks[sequence] += 1
                self._tell(Message(Control.RESEND, self._time_ns(), sequence))

    def ask(self, sequence: int) -> None:
        """Ask for any number, needed or not."""
        self._tell(Message(Control.RESEND, self._time_ns(), sequence))

    def grant(self, tokens: int) -> None:
        """Grant so many more, and say so."""
        self.granted_tokens += tokens
        self._tell(Message(Control.GRANTS, self._time_ns(), self.granted_tokens, tokens))


class Reconcile:
    """Counts what arrives, and compares: the wire first, the ledger second."""

    def __init__(self, tell: Tell, time_ns: Callable[[], int], counts: Counter[str]) -> None:
        self._tell = tell
        self._time_ns = time_ns
        self._counts = counts
        self._wire_bits = 0
        self._forgiven_bits = 0
        self._is_alarmed = False

    def arrive(self, content: bytes) -> None:
        self._wire_bits += frame.wire_bits(content)

    def poll(self, reserved_bits: Callable[[], int], *, is_false_alarm: bool) -> None:
        """Permit, or trip, for good, until people have looked."""
        wire_bits = self._wire_bits - self._forgiven_bits
        if wire_bits > reserved_bits() and not self._is_alarmed:
            self._counts["more on the wire than reserved"] += 1
            self._is_alarmed = True
        if self._is_alarmed or is_false_alarm:
            self._is_alarmed = True
            self._tell(Message(Control.TRIP, self._time_ns(), int(TripReason.MISMATCH)))
        else:
            self._tell(Message(Control.PERMIT, self._time_ns()))

    def reset(self, reserved_bits: int) -> None:
        """People have looked; what was too much is written off."""
        self._is_alarmed = False
        self._forgiven_bits += max(0, self._wire_bits - self._forgiven_bits - reserved_bits)


def tagged(message: Message, keys: Keys) -> bytes:
    """Return the message as it is sent."""
    return encode(message, keys.of(message.kind))
