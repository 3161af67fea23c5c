"""What the API tells Prometheus: counts and times of all users together, in a registry of its own.

No label says whose a request is, nor anything a client can choose: routes are the known ones, codes are HTTP's.
docs/reference/api.md lists the metrics and changes with this file.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from bitweir_services.questions import Answering, Done

BITS_PER_BYTE: Final = 8
ROUTES: Final = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics"})
OTHER_ROUTE: Final = "other"
SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class ApiMetrics:
    """The metrics of one API.

    Args:
        answering: whose state the gauges show.
    """

    def __init__(self, answering: Answering) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "bitweir_api_requests_total",
            "Requests by route and status; 499 is a client that went away.",
            ["route", "status"],
            registry=self.registry,
        )
        self._answers = Counter(
            "bitweir_api_answers_total", "Answers that ended, by how.", ["ending"], registry=self.registry
        )
        self._prompt_tokens = Counter(
            "bitweir_api_prompt_tokens_total", "Tokens of the prompts of answers that ended.", registry=self.registry
        )
        self._completion_tokens = Counter(
            "bitweir_api_completion_tokens_total", "Tokens of answers that ended.", registry=self.registry
        )
        self._wire_bytes = Counter(
            "bitweir_api_wire_bytes_total", "Share of the frames, of answers that ended.", registry=self.registry
        )
        self.first_piece_seconds = Histogram(
            "bitweir_api_first_piece_seconds", "Time to the first text.", registry=self.registry, buckets=SECONDS
        )
        self.request_seconds = Histogram(
            "bitweir_api_request_seconds", "Time of a request for answers.", registry=self.registry, buckets=SECONDS
        )
        open_answers = Gauge("bitweir_api_open_answers", "Answers that have not ended.", registry=self.registry)
        open_answers.set_function(lambda: answering.open_count)
        up = Gauge("bitweir_api_up", "1 if frames can come, else 0.", registry=self.registry)
        up.set_function(lambda: float(answering.is_up))

    def count_request(self, path: str, status: int) -> None:
        """Count a request that was answered."""
        self._requests.labels(path if path in ROUTES else OTHER_ROUTE, str(status)).inc()

    def count_answer(self, done: Done) -> None:
        """Count an answer that ended."""
        self._answers.labels(done.ending.value).inc()
        self._prompt_tokens.inc(done.prompt_tokens)
        self._completion_tokens.inc(done.completion_tokens)
        self._wire_bytes.inc(done.wire_bits / BITS_PER_BYTE)

    def text(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self.registry)
