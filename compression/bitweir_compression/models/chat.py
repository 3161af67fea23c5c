"""How a conversation becomes token ids: the special tokens, the order they come in, and what each side sees.

    strong:  <|user|> prompt <|assistant|> <think> reasoning </think> answer <|end|>
    weak:    <|user|> prompt <|assistant|>                            answer <|end|>

Rules:
1. The strong model always reasons, if only for no tokens: generation starts in the hidden stream and `</think>` opens
   the visible one, so the position of a visible token is known without knowing how much was thought.
2. The weak model never sees reasoning, in training or in use.
3. Prompt, reasoning and answer are encoded apart and hold no special tokens, whatever characters a user types.
"""

import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from bitweir_compression.corpus import Item
from bitweir_compression.errors import CheckpointError, CorpusError

PAD: Final = "<|pad|>"
USER: Final = "<|user|>"
ASSISTANT: Final = "<|assistant|>"
THINK: Final = "<think>"
END_THINK: Final = "</think>"
END: Final = "<|end|>"
# In id order: the first entries of every vocabulary the project trains.
SPECIAL_TOKENS: Final = (PAD, USER, ASSISTANT, THINK, END_THINK, END)

# A tokenizer file larger than this is not one of ours (V = 152k tokenizers are about 10 MB).
TOKENIZER_BYTES_MAX = 64 << 20

# For serving stacks that build prompts from a template; the strong model's generation prompt opens its reasoning.
_TEMPLATE: Final = (
    "{%- for m in messages -%}{%- if m['role'] == 'assistant' -%}<|assistant|>{{ m['content'] }}<|end|>"
    "{%- else -%}<|user|>{{ m['content'] }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>OPENING{%- endif -%}"
)


class ChatTokenizer:
    """A tokenizer together with the ids of the special tokens.

    Attributes:
        vocabulary_size: number of ids.
        user, assistant, think, end_think, end, pad: ids of the special tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Wrap a tokenizer that has all SPECIAL_TOKENS.

        Raises:
            CheckpointError: a special token is missing.
        """
        ids: dict[str, int] = {}
        for token in SPECIAL_TOKENS:
            number = tokenizer.token_to_id(token)
            if number is not None:
                ids[token] = number
        missing = [token for token in SPECIAL_TOKENS if token not in ids]
        if missing:
            raise CheckpointError(
                f"the tokenizer lacks {', '.join(missing)}", remedy="use a model made by `bitweir models build`"
            )
        # Text is encoded with special tokens taken as plain characters (rule 3).
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.vocabulary_size: int = tokenizer.get_vocab_size()
        self.pad, self.user, self.assistant, self.think, self.end_think, self.end = (ids[t] for t in SPECIAL_TOKENS)
        self.special_ids = frozenset(ids.values())

    def encode(self, text: str) -> list[int]:
        """Return the ids of plain text; never a special id.

        Raises:
            CorpusError: the text holds a lone surrogate, which no UTF-8 can carry.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise CorpusError(
                f"a text is not valid Unicode: {error.reason}", remedy="remove lone surrogates"
            ) from error
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; special tokens are left out and broken UTF-8 becomes U+FFFD."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def strong_prompt(self, prompt: str) -> list[int]:
        """Return the ids after which the strong model begins to reason."""
        return [self.user, *self.encode(prompt), self.assistant, self.think]

    def weak_prompt(self, prompt: str) -> list[int]:
        """Return the ids after which the weak model predicts the visible answer."""
        return [self.user, *self.encode(prompt), self.assistant]

    def strong_continuation(self, item: Item) -> list[int]:
        """Return what the strong model should write: reasoning, `</think>`, answer, `<|end|>`."""
        return [*self.encode(item.reasoning), self.end_think, *self.encode(item.answer), self.end]

    def visible(self, continuation: Sequence[int]) -> list[int]:
        """Return the ids after the first `</think>`; nothing when it is missing."""
        ids = list(continuation)
        return ids[ids.index(self.end_think) + 1 :] if self.end_think in ids else []

    def to_json(self) -> str:
        """Return the contents of tokenizer.json."""
        return str(self._tokenizer.to_str())

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of tokenizer.json."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def train_tokenizer(texts: Iterator[str], vocabulary_size: int) -> ChatTokenizer:
    """Train a byte-level BPE in which every digit is its own token, so that small models can learn to calculate."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return ChatTokenizer(tokenizer)


def load_tokenizer(folder: Path) -> ChatTokenizer:
    """Read tokenizer.json of a model folder.

    Raises:
        CheckpointError: the file is missing, too large, or not a tokenizer with the special tokens.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist", remedy="build the models: bitweir models build")
    if path.stat().st_size > TOKENIZER_BYTES_MAX:
        raise CheckpointError(f"{path} is over {TOKENIZER_BYTES_MAX} bytes", remedy="this is no tokenizer file")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise CheckpointError(f"{path} is not a tokenizer: {error}", remedy="build the models again") from error
    return ChatTokenizer(tokenizer)


def tokenizer_config(context_tokens: int, *, reasons: bool) -> dict[str, object]:
    """Return tokenizer_config.json: a chat template that other serving stacks understand."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_tokens,
        "pad_token": PAD,
        "eos_token": END,
        "clean_up_tokenization_spaces": False,
        "chat_template": _TEMPLATE.replace("OPENING", THINK if reasons else ""),
    }
