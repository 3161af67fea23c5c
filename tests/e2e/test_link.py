"""The link for once with everything real but the models: two sites, a gate, a witness, processes and sockets."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bitweir_compression.sampling import SamplingSpec
from bitweir_compression.session.events import CodecName, Grant
from bitweir_compression.session.lane import Ending, LaneSpec
from bitweir_compression.session.receiver import Receiver
from bitweir_compression.session.sender import Sender
from bitweir_metering.control import Control
from bitweir_services.engines.requests import GenerationRequest
from bitweir_services.engines.scheduler import Scheduler, Vocabulary
from bitweir_services.engines.scripted import ScriptedEngine
from bitweir_services.inner import InnerLane
from bitweir_services.inner_site import InnerPlace, InnerSite
from bitweir_services.outer import Ended, OuterLane, Tokens
from bitweir_services.outer_site import OuterPlace, OuterSite, Received
from bitweir_services.stops import stop_rule
from tests.security.running_gate import World, free_port
from tests.simulation.lane_world import SLOTS, THINK_END, words
from tests.unit.compression.session_world import CONTEXT, END, VOCABULARY, HashPredictor

pytestmark = pytest.mark.system
SPEC = LaneSpec(SLOTS, END, waiting_max=64, steps_max=16)
STREAMS = 30
RULE = stop_rule(words, end=END, tokens_max=8)


def script(number: int) -> list[int]:
    """Hidden tokens, then an answer; a function of the number."""
    plain = [1 + (number * 7 + index * 3) % (VOCABULARY - 2) for index in range(5 + number % 20)]
    return [3, THINK_END, *plain]


def prompts(number: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the weak and the strong model see."""
    return (1 + number % 9, 2), (1 + number // 9, 1 + number % 9, 4)


@contextmanager
def inner_site(world: World, port: int) -> Iterator[InnerSite]:
    """The inner site in a thread."""
    scripts = {prompts(number)[1]: script(number) for number in range(STREAMS + 1)}
    engine = ScriptedEngine(scripts, vocabulary_size=VOCABULARY, slot_count=SLOTS, context_tokens=CONTEXT, end=END)
    vocabulary = Vocabulary(END, words, frozenset({THINK_END, END}), THINK_END)
    sender = Sender(HashPredictor(SLOTS), SPEC, finished=RULE)
    lane = InnerLane(Scheduler(engine, vocabulary), sender, steps_per_frame=5)
    site = InnerSite(lane, InnerPlace(("127.0.0.1", port), world.inner), latency_ns=50_000_000)
    over = threading.Event()
    thread = threading.Thread(target=site.serve, args=(over.is_set,))
    thread.start()
    try:
        yield site
    finally:
        over.set()
        thread.join()
        site.close()


def asked(number: int) -> tuple[Grant, GenerationRequest]:
    """Grant and request of a stream."""
    weak, strong = prompts(number)
    key = number.to_bytes(32, "big")
    request = GenerationRequest(strong, key, SamplingSpec(0.0), visible_tokens_max=40, hidden_tokens_max=10)
    return Grant(weak, CodecName.GUMBEL, key, tokens_max=40), request


async def answered(site: OuterSite, number: int, received: Received) -> tuple[list[int], Ending]:
    """The tokens of one answer and how it ended."""
    tokens: list[int] = []
    async for event in site.stream(*asked(number), received):
        if isinstance(event, Ended):
            return tokens, event.ending
        tokens += event.tokens
    raise AssertionError("a stream that does not end")


async def with_permits(world: World, work: asyncio.Task[None]) -> None:
    """Hold the link up until the work is done."""
    while not work.done():
        world.say(Control.PERMIT)
        await asyncio.sleep(0.1)
    await work


async def the_story(world: World, site: OuterSite) -> None:
    """Thirty answers at once, one that nobody reads on, and a gate that dies in between."""
    received = [Received() for _ in range(STREAMS)]
    server = asyncio.create_task(site.serve())
    found = await asyncio.gather(*(answered(site, number, received[number]) for number in range(STREAMS)))
    for number, (tokens, ending) in enumerate(found):
        assert (tokens, ending) == ([*script(number)[2:], END], Ending.END)
        assert received[number].tokens == len(tokens)
    assert sum(one.wire_bits for one in received) <= site.meter.read().l2_bytes * 8
    # Who stops reading cancels: nothing is left open.
    stream = site.stream(*asked(STREAMS))
    first = await anext(stream)
    assert isinstance(first, Tokens)
    await stream.aclose()
    for _ in range(200):
        if not site.open_count:
            break
        await asyncio.sleep(0.05)
    assert site.open_count == 0
    server.cancel()


def test_answers_cross_a_real_gate_whole_and_paid_for(tmp_path: Path) -> None:
    down, up = free_port(), free_port()
    with World(tmp_path, outer_port=up) as world:
        world.start_witness()
        world.start_gate()
        lane = OuterLane(Receiver(HashPredictor(SLOTS), SPEC, finished=RULE))
        place = OuterPlace(("127.0.0.1", up), ("127.0.0.1", world.listen), ("127.0.0.1", down), world.outer_key)

        async def run() -> OuterSite:
            site = OuterSite(lane, place)
            await with_permits(world, asyncio.create_task(the_story(world, site)))
            return site

        with inner_site(world, down) as inner:
            site = asyncio.run(run())
            assert inner.refused_count == 0
        assert site.damaged_count == lane.failure_count == lane.restart_count == 0
        assert world.end_gate() == 0
        report = world.report()
        assert report.ok
        assert report.totals.wire_bits >= 8 * site.meter.read().l2_bytes > 0
