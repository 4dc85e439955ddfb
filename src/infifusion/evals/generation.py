"""Generation for lm-eval, greedy by default: nothing is cut without being counted.

lm-eval's own loop cuts a long prompt on the left and does not say whether an answer ended or ran
out of tokens; and a batch waits for its longest answer. This one keeps its model loading, and
generates by teacher.generate.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from lm_eval.models.huggingface import HFLM
from transformers import GenerationConfig, PreTrainedModel

from infifusion.data.render import Chat
from infifusion.data.template import NEXT_TURN
from infifusion.data.tokenize import ends_of
from infifusion.data.tokenizers import encode
from infifusion.engine.engine import Remote
from infifusion.errors import RecipeError
from infifusion.evals.same_answer.reasoning import of_a_mark
from infifusion.evals.scoring import Output
from infifusion.process.bar import progress_bar
from infifusion.process.memory import BatchSize
from infifusion.process.meter import Meter
from infifusion.recipe import SystemPlace
from infifusion.teacher.answer import end_ids
from infifusion.teacher.batching import answers
from infifusion.teacher.elsewhere import answers_from
from infifusion.teacher.rows import Draw, Row
from infifusion.types import Message

Base: Any = HFLM  # the decorator that registers HFLM hides its type
Key = tuple[str, str]  # a prompt and how it is to be answered
SHOWN = 60  # characters of a prompt in an error
CONTEXT_TOKENS = 8  # tokens of the prompt decoded together with the answer


class GreedyLM(Base):
    """An HFLM that generates, greedily by default, and remembers how each output ended.

    `outputs` maps (prompt, generation settings) to Output, since lm-eval takes back text only.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        batch_size: int | BatchSize = 1,
        chat: bool = False,
        system: SystemPlace = "keep",
        remote: Remote | None = None,
        **options: Any,
    ) -> None:
        """`model` is loaded already: lm-eval then leaves processes and devices alone. chat: the
        prompts are written by its chat template, which also says where an answer ends; system:
        where system messages go (recipe.Model.system). remote: the same model in its engine, which
        answers; `model` then says its limits alone, and needs no weights."""
        less = "a smaller max_new_tokens"
        if isinstance(batch_size, int):
            batch_size = BatchSize(batch_size, setting="batch_size", less=less)
        self.fitting, self._remote = batch_size, remote
        super().__init__(pretrained=model, backend="causal", batch_size=batch_size.size, **options)
        self.outputs: dict[Key, Output] = {}
        self.end_ids = end_ids(self.model, self.tokenizer)
        self.title = "generate"  # of the progress bar
        special = {
            number: str(token)
            for number, token in self.tokenizer.added_tokens_decoder.items()
            if token.special
        }
        self._marks = {number for number, text in special.items() if of_a_mark(text)}
        self._hidden = special.keys() - self._marks
        self._chat = Chat(self.tokenizer, system=system) if chat else None
        self._before, self._behind = "", ""
        if self._chat:
            self._learn_frame(self._chat)
        # A model's own sampling settings (repetition_penalty, temperature) are not greedy.
        self.model.generation_config = GenerationConfig(
            eos_token_id=self.end_ids or None, pad_token_id=self.tokenizer.pad_token_id
        )

    def _learn_frame(self, chat: Chat) -> None:
        """Find out where a templated answer ends, and which text the model writes around it."""
        frame = chat.frame([NEXT_TURN])
        ends = ends_of(self.tokenizer, self.end_ids)
        behind, next_turn, before = encode(
            self.tokenizer, [frame.behind, frame.next_turn, frame.before]
        )
        if way := ends.way(behind) or ends.way(next_turn):
            self.end_ids = sorted({*self.end_ids, way[-1]})
            self._behind = self.tok_decode(way)
        self._before = self.tok_decode(before)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The prompt of training. lm-eval's own gives a template that reads content as a list of
        parts a plain text, which it drops, and leaves out a system message that it refuses.

        Raises TokenizerError where the template cannot render the conversation.
        """
        if self._chat is None or not add_generation_prompt:
            return super().apply_chat_template(chat_history, add_generation_prompt)
        messages = [Message(role=m["role"], content=m["content"]) for m in chat_history]
        return self._chat.prompt(messages, name="the prompt of the task")

    def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> str:
        """The text of token ids, without special tokens but those that mark reasoning: for some
        models [THINK] and <|channel|> are such, and its end must be seen."""
        if skip_special_tokens and isinstance(tokens, list) and not self._marks.isdisjoint(tokens):
            tokens = [token for token in tokens if token not in self._hidden]
            skip_special_tokens = False
        return self.tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """One text per lm-eval Instance, in order; the prompt is never cut.

        A prompt that leaves no room for one token gives an empty output, marked too_long.
        Longest prompts come first; a finished one leaves its place to the next. What does not fit
        into memory is tried again with half as many at a time.
        """
        keys = [(r.args[0], json.dumps(self._asked(r.args[1]), sort_keys=True)) for r in requests]
        new = [key for key in dict.fromkeys(keys) if key not in self.outputs]
        rooms = {}
        for key in new:
            prompt, settings = self._encode(key[0]), json.loads(key[1])
            room = min(settings["max_gen_toks"], self._window() - len(prompt))
            if room < 1:
                self.outputs[key] = Output("", too_long=True)
            else:
                rooms[key] = prompt, room
        with progress_bar(self.title, len(rooms), "answers") as meter:
            meter.cut_off = 0

            def work(size: int) -> None:
                left = [key for key in rooms if key not in self.outputs]
                rows = [self._row(number, key, *rooms[key]) for number, key in enumerate(left)]
                for row in self._answers(rows, size):
                    key = left[row.number]
                    self.outputs[key] = self._output(row, json.loads(key[1])["until"])
                    self._count(meter, row, self.outputs[key])

            self.fitting.fit(work)
        return [self.outputs[key].text for key in keys]

    def _answers(self, rows: list[Row], at_once: int) -> Iterator[Row]:
        if self._remote is not None:
            return answers_from(self._remote, rows, ends=self.end_ids)
        return answers(self.model, rows, ends=self.end_ids, at_once=at_once)

    def _window(self) -> int:
        """Most tokens of a text."""
        limit = None if self._remote is None else self._remote.served.max_model_len
        return self.max_length if limit is None else min(self.max_length, limit)

    def _loglikelihood_tokens(self, *arguments: Any, **options: Any) -> Any:
        """lm-eval's questions of the kind "how likely is this?": asked of a model here alone."""
        if self._remote is not None:
            raise RecipeError(
                "evaluate.tasks: a task of lm-eval asks how likely given answers are, which is not "
                "asked of an engine yet. Take tasks that generate, or remove the model's engine."
            )
        return super()._loglikelihood_tokens(*arguments, **options)

    def _asked(self, settings: dict[str, Any]) -> dict[str, Any]:
        """lm-eval's settings of a generation, with what its own tasks may leave out."""
        until = settings.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        return {"max_gen_toks": self.max_gen_toks, **settings, "until": stops}

    @staticmethod
    def _count(meter: Meter, row: Row, output: Output) -> None:
        """Show what has been generated: answers, their tokens, how many were cut off."""
        meter.tokens += len(row.ids)
        meter.cut_off = (meter.cut_off or 0) + output.truncated
        meter.advance(1)

    def _encode(self, prompt: str) -> list[int]:
        if self._chat:  # what the template writes is all there is, as in training
            return encode(self.tokenizer, [prompt])[0]
        ids = list(self.tok_encode(prompt))
        ends = self.tokenizer.eos_token or "\0"
        # Some tokenizers close every text with the end token; a prompt goes on.
        while len(ids) > 1 and ids[-1] in self.end_ids and not prompt.endswith(ends):
            ids.pop()
        return ids

    def _row(self, number: int, key: Key, prompt: list[int], room: int) -> Row:
        """One answer to come. It has ended where one of the stops stands in its text. A drawn one
        has random numbers of its own, by the seed, the number of the sample and the prompt."""
        settings = json.loads(key[1])
        stops = settings["until"]
        longest = max((len(stop.encode()) for stop in stops), default=0) + CONTEXT_TOKENS

        def ended(ids: list[int]) -> bool:
            # A token has at least one byte, so a stop ends within the last `longest` of them; the
            # whole text decides, as the first ones may be decoded otherwise without what is before.
            tail = self.tok_decode(ids[-longest:])
            return any(stop in tail for stop in stops) and any(
                stop in self._text(prompt, ids) for stop in stops
            )

        draw = Draw()
        if settings.get("do_sample"):
            seed = f"{settings['seed']} {settings['sample']} {key[0]}"
            draw = Draw(settings["temperature"], settings["top_p"], zlib.crc32(seed.encode()))
        name = f"the prompt {key[0][:SHOWN]!r}"
        end = ended if stops else None
        return Row(number, prompt, room, name, draw, end, tuple(stops))

    def _text(self, prompt: list[int], ids: list[int]) -> str:
        """The answer as the scorers see it, up to the end of the turn."""
        end = next((at for at, token in enumerate(ids) if token in self.end_ids), None)
        text = self._decode_after(prompt, ids[:end]).removeprefix(self._before)
        return text if end is None else text.removesuffix(self._behind)

    def _output(self, row: Row, stops: Sequence[str]) -> Output:
        text = self._text(row.prompt, row.ids)
        places = [text.find(stop) for stop in stops if stop in text]
        if places:
            return Output(text[: min(places)])
        ended = any(token in self.end_ids for token in row.ids)
        return Output(text, truncated=not ended and len(row.ids) >= row.room)

    def _decode_after(self, prompt: list[int], row: list[int]) -> str:
        """The text that `row` adds to the prompt, leading blanks included.

        SentencePiece tokenizers drop the blank in front of the first token of what they decode;
        an answer that starts with an indented line of code needs it.
        """
        tail = prompt[-CONTEXT_TOKENS:]
        before, whole = self.tok_decode(tail), self.tok_decode(tail + row)
        return whole[len(before) :] if whole.startswith(before) else self.tok_decode(row)
