"""How each family writes a conversation down, as token ids: the chat template's text, cut where
training needs it.

A test holds the ids equal to what the processor and its chat template give.
"""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Dialect:
    """The text around a picture, a question and an answer. `slots`: image tokens."""

    tokenizer: PreTrainedTokenizerBase
    image: str
    slots: int
    head: str
    after: str
    ask: str
    answer: str
    again: str

    def ids(self, text: str) -> list[int]:
        """Token ids of a piece of the conversation; special tokens are read as such."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def opening(self) -> tuple[list[int], int]:
        """Everything up to the last image token, and where the first image token stands."""
        head = self.ids(self.head)
        place = self.tokenizer.convert_tokens_to_ids(self.image)
        assert isinstance(place, int)
        return head + [place] * self.slots, len(head)

    def turn(self, question: str, answer: str, first: bool) -> tuple[list[int], list[int]]:
        """The ids of a question with its lead, and of its answer with its end."""
        lead = self.after if first else self.again
        return self.ids(lead + self.ask.format(question)), self.ids(self.answer.format(answer))


def llava(tokenizer: PreTrainedTokenizerBase) -> Dialect:
    """LLaVA-1.5: `USER: <image>` and a new line, then `question ASSISTANT: answer</s>`."""
    return Dialect(
        tokenizer,
        image="<image>",
        slots=64,
        head="<s>USER: ",
        after="\n",
        ask="{} ASSISTANT:",
        answer=" {}</s>",
        again="USER: ",
    )


def qwen(tokenizer: PreTrainedTokenizerBase) -> Dialect:
    """Qwen2.5-VL: `<|im_start|>user ... <|im_end|>` with Qwen's default system line."""
    return Dialect(
        tokenizer,
        image="<|image_pad|>",
        slots=36,
        head="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|>",
        after="<|vision_end|>",
        ask="{}<|im_end|>\n<|im_start|>assistant\n",
        answer="{}<|im_end|>",
        again="\n<|im_start|>user\n",
    )
