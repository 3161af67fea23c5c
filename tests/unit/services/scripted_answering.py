"""Somebody who answers by a script, and remembers what was asked and whether every answer was closed."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from bitweir_compression.session.lane import Ending
from bitweir_services.questions import Done, Piece, Question

MODEL = "scripted/model"
END = Done(Ending.END, prompt_tokens=7, completion_tokens=4, wire_bits=10.5)
Script = Sequence[Piece | Done | Exception | asyncio.Event | float]
HELLO: Script = (Piece("Hel"), Piece("lo "), Piece("\u2028\u00e9\n"), END)


class ScriptedAnswering:
    """Answers choice i with script i, the last one from then on: pieces, pauses (s), events to wait for, an error."""

    def __init__(self, *scripts: Script, model: str = MODEL) -> None:
        self.scripts = scripts or (HELLO,)
        self.model = model
        self.is_up = True
        self.open_count = 0
        self.asked: list[Question] = []
        self.closed: list[int] = []
        self.yielded = 0
        self.all_closed = asyncio.Event()

    async def ask(self, question: Question) -> AsyncGenerator[Piece | Done, None]:
        """Follow the script."""
        self.asked.append(question)
        self.open_count += 1
        self.all_closed.clear()
        try:
            for entry in self.scripts[min(question.choice, len(self.scripts) - 1)]:
                if isinstance(entry, Exception):
                    raise entry
                if isinstance(entry, asyncio.Event):
                    await entry.wait()
                elif isinstance(entry, float):
                    await asyncio.sleep(entry)
                else:
                    self.yielded += 1
                    yield entry
        finally:
            self.open_count -= 1
            self.closed.append(question.choice)
            if not self.open_count:
                self.all_closed.set()
