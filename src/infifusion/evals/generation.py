"""Generation for lm-eval, greedy by default: nothing is cut without being counted.

lm-eval's own loop cuts a long prompt on the left and does not say whether an answer ended or ran
out of tokens. This one keeps its model loading and its batched generate, and replaces the loop.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

from infifusion.data.render import NEXT_TURN, Chat
from infifusion.data.tokenize import ends_of
from infifusion.data.tokenizers import encode
from infifusion.evals.scoring import Output
from infifusion.process.bar import progress_bar
from infifusion.process.memory import BatchSize
from infifusion.process.meter import Meter
from infifusion.teacher.answer import RefuseNaN, end_ids
from infifusion.types import Message

Base: Any = HFLM  # the decorator that registers HFLM hides its type
Key = tuple[str, str]  # a prompt and how it is to be answered
Asked = tuple[list[int], Key]  # the prompt's tokens
SHOWN = 60  # characters of a prompt in an error
CONTEXT_TOKENS = 8  # tokens of the prompt decoded together with the answer


@contextlib.contextmanager
def drawn_by(
    asked: dict[str, Any], *, first: str, device: torch.device
) -> Iterator[dict[str, Any]]:
    """How transformers draws a batch that begins with the prompt `first`: greedily, or at the
    `temperature` and `top_p` of the settings, by their `seed` and number of `sample`. The global
    random state is left as it was."""
    if not asked["do_sample"]:
        yield {"do_sample": False}
        return
    drawing = {"temperature": asked["temperature"], "top_p": asked["top_p"], "top_k": 0}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(zlib.crc32(f"{asked['seed']} {asked['sample']} {first}".encode()))
        yield {"do_sample": True, **drawing}


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
        **options: Any,
    ) -> None:
        """`model` is loaded already: lm-eval then leaves processes and devices alone. chat: the
        prompts are written by its chat template, which also says where an answer ends."""
        less = "a smaller max_new_tokens"
        if isinstance(batch_size, int):
            batch_size = BatchSize(batch_size, setting="batch_size", less=less)
        self.fitting = batch_size
        super().__init__(pretrained=model, backend="causal", batch_size=batch_size.size, **options)
        self.outputs: dict[Key, Output] = {}
        self.title = "generate"  # of the progress bar
        self.end_ids = end_ids(self.model, self.tokenizer)
        self._chat, self._before, self._behind = Chat(self.tokenizer) if chat else None, "", ""
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
            self._behind = self.tokenizer.decode(way, skip_special_tokens=True)
        self._before = self.tokenizer.decode(before, skip_special_tokens=True)

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

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """One text per lm-eval Instance, in order; the prompt is never cut.

        A prompt that leaves no room for one token gives an empty output, marked too_long.
        Requests are batched, longest first, with those that may generate equally many tokens, so
        that no item has less room because of its neighbours.
        """
        keys = [(r.args[0], json.dumps(r.args[1], sort_keys=True)) for r in requests]
        groups: dict[tuple[str, int], list[Asked]] = defaultdict(list)
        for key in dict.fromkeys(keys):
            if key in self.outputs:
                continue
            prompt_ids = self._encode(key[0])
            room = min(json.loads(key[1])["max_gen_toks"], self.max_length - len(prompt_ids))
            if room < 1:
                self.outputs[key] = Output("", too_long=True)
            else:
                groups[(key[1], room)].append((prompt_ids, key))
        total = sum(len(group) for group in groups.values())
        with progress_bar(self.title, total, "answers") as meter:
            meter.cut_off = 0
            for (settings, room), group in groups.items():
                group.sort(key=lambda entry: -len(entry[0]))
                asked = json.loads(settings)
                for batch, found in self._in_batches(group, room, asked):
                    self.outputs |= zip((key for _, key in batch), found, strict=True)
                    self._count(meter, found)
        return [self.outputs[key].text for key in keys]

    def _in_batches(
        self, group: list[Asked], room: int, asked: dict[str, Any]
    ) -> Iterator[tuple[list[Asked], list[Output]]]:
        """Batches of requests and their outputs; what does not fit is tried again in halves."""
        start = 0
        while start < len(group):

            def work(size: int, start: int = start) -> tuple[list[Asked], list[Output]]:
                batch = group[start : start + size]
                return batch, self._generate(batch, room, asked)

            batch, found = self.fitting.fit(work)
            start += len(batch)
            yield batch, found

    def _encode(self, prompt: str) -> list[int]:
        if self._chat:  # what the template writes is all there is, as in training
            return encode(self.tokenizer, [prompt])[0]
        ids = list(self.tok_encode(prompt))
        ends = self.tokenizer.eos_token or "\0"
        # Some tokenizers close every text with the end token; a prompt goes on.
        while len(ids) > 1 and ids[-1] in self.end_ids and not prompt.endswith(ends):
            ids.pop()
        return ids

    @staticmethod
    def _count(meter: Meter, found: Sequence[Output]) -> None:
        """Show what has been generated: answers, their tokens, how many were cut off."""
        meter.tokens += sum(output.tokens for output in found)
        meter.cut_off = (meter.cut_off or 0) + sum(output.truncated for output in found)
        meter.advance(len(found))

    def _generate(self, batch: list[Asked], room: int, asked: dict[str, Any]) -> list[Output]:
        prompts = [ids for ids, _ in batch]
        names = [f"the prompt {key[0][:SHOWN]!r}" for _, key in batch]
        refuse = RefuseNaN(names, str(self.model.config.name_or_path))
        width = max(len(ids) for ids in prompts)
        pad = self.tokenizer.pad_token_id
        padded_BT = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts])
        mask_BT = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
        stops = asked["until"]
        with drawn_by(asked, first=batch[0][1][0], device=self.device) as drawing:
            ids_BT = self._model_generate(
                context=padded_BT.to(self.device),
                attention_mask=mask_BT.to(self.device),
                max_length=width + room,
                stop=list(stops),
                logits_processor=LogitsProcessorList([refuse]),
                **drawing,
            )
        rows = ids_BT[:, width:].tolist()
        return [
            self._output(prompt, row, room, stops)
            for prompt, row in zip(prompts, rows, strict=True)
        ]

    def _output(self, prompt: list[int], row: list[int], room: int, stops: Sequence[str]) -> Output:
        end = next((at for at, token in enumerate(row) if token in self.end_ids), None)
        text = self._decode_after(prompt, row if end is None else row[:end])
        text = text.removeprefix(self._before)
        if end is not None:
            text = text.removesuffix(self._behind)
        places = [text.find(stop) for stop in stops if stop in text]
        tokens = len(row) if end is None else end + 1
        if places:
            return Output(text[: min(places)], tokens=tokens)
        return Output(text, truncated=end is None and len(row) >= room, tokens=tokens)

    def _decode_after(self, prompt: list[int], row: list[int]) -> str:
        """The text that `row` adds to the prompt, leading blanks included.

        SentencePiece tokenizers drop the blank in front of the first token of what they decode;
        an answer that starts with an indented line of code needs it.
        """
        tail = prompt[-CONTEXT_TOKENS:]
        before, whole = self.tok_decode(tail), self.tok_decode(tail + row)
        return whole[len(before) :] if whole.startswith(before) else self.tok_decode(row)
