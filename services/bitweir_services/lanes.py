"""Both ends of a lane from a pair on disk: what inner and outer load, the same weak model and the same limits."""

from dataclasses import dataclass
from pathlib import Path

from bitweir_compression.exact import format as exact_format
from bitweir_compression.exact.predictor import ExactPredictor
from bitweir_compression.models.chat import ChatTokenizer
from bitweir_compression.models.checkpoint import open_checkpoint
from bitweir_compression.session.lane import Finished, LaneSpec
from bitweir_compression.session.receiver import Receiver
from bitweir_compression.session.sender import Sender
from bitweir_services.desk import DeskLimits
from bitweir_services.engines.hf import HuggingFaceEngine
from bitweir_services.engines.scheduler import STOP_TOKENS, Scheduler, Vocabulary
from bitweir_services.inner import InnerLane
from bitweir_services.outer import NS_PER_S, OuterLane
from bitweir_services.stops import stop_rule


@dataclass(frozen=True)
class LaneConfig:
    """What both ends of a lane agree on.

    Attributes:
        models: folder with `strong`, which only inner needs, and `weak` with its exact model.
        slot_count: answers at once.
        steps_per_frame: tokens of each answer a full frame holds.
        hidden_tokens_max: reasoning tokens of an answer.
        tokens_max: visible tokens of an answer.
        silence_s: after so long without a frame, open answers are lost.
    """

    models: Path
    slot_count: int = 32
    steps_per_frame: int = 10
    hidden_tokens_max: int = 160
    tokens_max: int = 160
    silence_s: float = 120.0

    def spec(self, tokenizer: ChatTokenizer) -> LaneSpec:
        """Return the session's specification."""
        return LaneSpec(self.slot_count, tokenizer.end)


def inner_lane(config: LaneConfig) -> InnerLane:
    """Load both models and return the inner end.

    Raises:
        CheckpointError: a model is missing or damaged.
        ExactFormatError: the exact weak model is missing or damaged.
    """
    strong = open_checkpoint(config.models / "strong")
    tokenizer = strong.tokenizer()
    engine = HuggingFaceEngine(strong.model(), slot_count=config.slot_count)
    vocabulary = Vocabulary(tokenizer.end, tokenizer.decode, tokenizer.special_ids, tokenizer.end_think)
    sender = Sender(_predictor(config), config.spec(tokenizer), finished=_rule(tokenizer))
    return InnerLane(Scheduler(engine, vocabulary), sender, steps_per_frame=config.steps_per_frame)


def outer_lane(config: LaneConfig) -> tuple[OuterLane, ChatTokenizer, DeskLimits]:
    """Load the weak model and return the outer end, with what a desk needs.

    Raises:
        CheckpointError: a model is missing or damaged.
        ExactFormatError: the exact weak model is missing or damaged.
    """
    tokenizer = open_checkpoint(config.models / "weak").tokenizer()
    predictor = _predictor(config)
    receiver = Receiver(predictor, config.spec(tokenizer), finished=_rule(tokenizer))
    lane = OuterLane(receiver, silence_ns=round(config.silence_s * NS_PER_S))
    # Both models of a pair are built for one context.
    limits = DeskLimits(predictor.context_tokens, config.hidden_tokens_max, config.tokens_max)
    return lane, tokenizer, limits


def _predictor(config: LaneConfig) -> ExactPredictor:
    return ExactPredictor(
        exact_format.read(config.models / "weak" / exact_format.FILE_NAME), slot_count=config.slot_count
    )


def _rule(tokenizer: ChatTokenizer) -> Finished:
    return stop_rule(tokenizer.decode, end=tokenizer.end, tokens_max=STOP_TOKENS)
