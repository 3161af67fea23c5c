"""A lane with both ends, its engine and the wires between, in virtual time: what happens to every answer, seed by seed.

Frames up arrive in order, damaged or not (the gate resends what is lost); messages down are datagrams that are lost,
repeated and reordered.
"""

from dataclasses import dataclass, field
from random import Random

from bitweir_compression.coder import Bits
from bitweir_compression.sampling import SamplingSpec
from bitweir_compression.session.events import CodecName, Grant
from bitweir_compression.session.lane import Ending, LaneSpec
from bitweir_compression.session.receiver import Receiver
from bitweir_compression.session.sender import Sender
from bitweir_services import messages
from bitweir_services.down import DownReceiver, DownSender
from bitweir_services.engines.requests import GenerationRequest
from bitweir_services.engines.scheduler import Scheduler, Vocabulary
from bitweir_services.engines.scripted import ScriptedEngine
from bitweir_services.inner import InnerLane
from bitweir_services.outer import Ended, OuterLane, Tokens
from bitweir_services.stops import stop_rule
from tests.unit.compression.session_world import CONTEXT, END, VOCABULARY, HashPredictor

MS = 1_000_000
THINK_END = VOCABULARY - 1
SLOTS = 4


def words(tokens: list[int]) -> str:
    """Text of token ids: a letter each."""
    return "".join(chr(ord("a") + token) for token in tokens)


@dataclass
class Story:
    """What a test knows of one stream."""

    script: list[int]
    limit: int
    stop: tuple[str, ...]
    shown: list[int] = field(default_factory=list)
    ending: Ending | None = None
    is_cancelled: bool = False

    @property
    def due(self) -> tuple[list[int], Ending]:
        """The visible tokens that must come, and how they end."""
        tokens: list[int] = []
        for token in [*self.script[self.script.index(THINK_END) + 1 :], END]:
            tokens.append(token)
            text = words([one for one in tokens if one != END])
            if token == END:
                return tokens, Ending.END
            if any(stop in text for stop in self.stop):
                return tokens, Ending.STOP
            if len(tokens) == self.limit:
                return tokens, Ending.LENGTH
        raise AssertionError("a script without an end")


class World:
    """Both ends and the wires."""

    def __init__(self, seed: int, *, damage: float = 0.0, loss: float = 0.0) -> None:
        self.random = Random(seed)
        self.damage, self.loss = damage, loss
        self.scripts: dict[tuple[int, ...], list[int]] = {}
        spec = LaneSpec(SLOTS, END, waiting_max=50, steps_max=16)
        rule = stop_rule(words, end=END, tokens_max=8)
        vocabulary = Vocabulary(END, words, frozenset({THINK_END, END}), THINK_END)
        engine = ScriptedEngine(
            self.scripts, vocabulary_size=VOCABULARY, slot_count=SLOTS, context_tokens=CONTEXT, end=END
        )
        engine._scripts = self.scripts
        sender = Sender(HashPredictor(SLOTS), spec, finished=rule)
        self.inner = InnerLane(Scheduler(engine, vocabulary), sender, steps_per_frame=3)
        self.outer = OuterLane(Receiver(HashPredictor(SLOTS), spec, finished=rule))
        self.down_sender, self.down_receiver = DownSender(1), DownReceiver()
        self.down: list[bytes] = []
        self.up: list[Bits] = []
        self.now_ns = 0
        self.stories: dict[int, Story] = {}

    def ask(self) -> int:
        """Outer wants an answer."""
        random = self.random
        prompt = tuple(random.randrange(1, VOCABULARY - 1) for _ in range(random.randint(1, 5)))
        plain = range(1, VOCABULARY - 1)
        hidden = [random.choice(plain) for _ in range(random.randint(0, 5))]
        visible = [random.choice(plain) for _ in range(random.randint(0, 30))]
        strong_prompt = (*prompt, 1 + len(self.stories) % 9, *(random.choice(plain) for _ in range(6)))
        self.scripts[strong_prompt] = [*hidden, THINK_END, *visible]
        stop = tuple(words(random.choices(plain, k=2)) for _ in range(random.choice([0, 0, 1, 3])))
        limit, key = random.randint(1, 40), random.randbytes(32)
        grant = Grant(prompt, random.choice([CodecName.GUMBEL, CodecName.ARITHMETIC]), key, tokens_max=limit, stop=stop)
        request = GenerationRequest(strong_prompt, key, SamplingSpec(0.0), limit, 20, stop)
        stream = self.outer.submit(grant, request)
        self.stories[stream] = Story(self.scripts[strong_prompt], limit, stop)
        return stream

    def step(self) -> None:
        """Let a slot's time go by."""
        random = self.random
        self.now_ns += 100 * MS
        for message in self.outer.messages(self.now_ns):
            self.down += self.down_sender.datagrams(messages.encode(message))
        if self.loss:
            random.shuffle(self.down)
        for datagram in self.down[: random.randint(0, len(self.down)) if self.loss else None]:
            self.down.remove(datagram)
            if random.random() < self.loss:
                continue
            for _ in range(1 + (random.random() < self.loss)):
                content = self.down_receiver.take(datagram)
                if content is not None:
                    self.inner.receive(messages.decode(content))
        for _ in range(3):
            self.inner.step()
        self.up += self.inner.frames(is_urgent=random.random() < 0.3)
        for bits in self.up[: random.randint(0, 2)]:
            self.up.remove(bits)
            if bits.count and random.random() < self.damage:
                damaged = Bits(bits.value ^ 1 << random.randrange(bits.count), bits.count)
                self.show(self.outer.take(damaged, self.now_ns))
            else:
                self.show(self.outer.take(bits, self.now_ns))
        self.show(self.outer.check(self.now_ns))

    def show(self, events: list[Tokens | Ended]) -> None:
        """Keep what users would see."""
        for event in events:
            story = self.stories[event.stream]
            assert story.ending is None, "something came after the end"
            if isinstance(event, Tokens):
                story.shown += event.tokens
            else:
                story.ending = event.ending

    def cancel(self, stream: int) -> None:
        """The user of a stream has gone."""
        self.stories[stream].is_cancelled |= self.outer.cancel(stream)

    def finish(self, steps: int = 3000) -> None:
        """Let time go by without faults until every stream has ended."""
        self.damage = self.loss = 0.0
        for _ in range(steps):
            if not self.outer.open_count:
                return
            self.step()
        raise AssertionError(f"{self.outer.open_count} streams never end")
