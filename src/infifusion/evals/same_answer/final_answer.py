"""Where the answer stands in what a model wrote."""

from __future__ import annotations

import re

from infifusion.evals.same_answer.formulas import AMOUNT, FORMULA, is_prose, last_number
from infifusion.evals.same_answer.formulas import inside as inside_of
from infifusion.evals.same_answer.reasoning import after_reasoning, has_reasoning

LONGEST = 200_000  # characters from the end in which an answer is sought
BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
SAID = re.compile(
    r"(?i)\b(?:final|correct|right)?[ *_]*(?:answers?|ans)\b[ *_]*(?:\([^()\n]{0,40}\)[ *_]*)?"
    r"(?:\bto [^.\n]{1,80} )?(?:(?:is|are|was|(?:w|sh|c)ould be|will be|must be|equals|becomes|"
    r"comes to|comes out to|turns out to be|therefore is)\b[ *_]*:?|[:=：→])"
    r"|\bans\.|答案[^\n。]{0,12}?(?:是|为|：|:)|故选[：:]?|(?i:\bHere is the answer\b:?)"
)
TURNED = re.compile(r"(?i)(\S{1,40}) is (?:the|our|my) (?:final |correct |right )?answer\b")
TAGGED = re.compile(r"(?i)<answer>(.{1,2000}?)</answer>", re.DOTALL)
SPECIAL = re.compile(r"<\|[\w ]{1,40}\|>|</?s>|<eos>|<end_of_turn>|<｜[^｜]{1,40}｜>")
BOLD = re.compile(r"\*\*(?=\S)([^*\n]{1,200}?)(?<=\S)\*\*|(?<!\w)__(?=\S)([^_\n]{1,200}?)(?<=\S)__")
HEADING = re.compile(
    r"(?i)(?:step|part|case|note|example|problem|question|method|check|stage|option)\b|.*:\Z"
    r"|(?:solution|conclusion|verification|explanation|answer|final answer|summary|result|given|"
    r"approach|proof|calculation|analysis|reasoning)s?\Z|\d+[.)]\s"
)
SENTENCE_END = re.compile(
    r"(?<!\bp)(?<!\ba)(?<!\b[pa]\.m)\.(?=\s|\*|\$?\s*\Z)|[。\n]|[!?](?=\s|\Z)"
    r"|,?\s(?:because|since|which|so that|as we)\s|\s\((?!\s*[\dA-Z])"
)
WORDS = 4  # of an answer in words
WHOLE = 40  # characters of a single line that can be an answer in words
TALK = re.compile(
    r"(?i)\b(?:i|i'm|me|let|you|we|sorry|please|do|does|don't|can|cannot|can't|know|think|help|the|"
    r"step|first|here|this|that|not|what|how|why|hello|hi|okay|ok|sure|she|he|they|there)\b"
)
ELSEWHERE = re.compile(
    r"(?i)(?:obtained|found|given|calculated|determined|derived|computed|the same|as follows|"
    r"correct|wrong|incorrect|based)\b"
)
CLOSING_MARKS = re.compile(r"(?<=[\d)}\]$%])[.,;:]+\Z")
EMPHASIS = " \t\n*_`"


def final_answer(output: str) -> str | None:
    """The final answer of an output, as it is written there; None where there is none.

    It is, in this order: what the last \\boxed{} or \\fbox{} holds; what stands behind the last
    `####`; behind the last "the answer is" or "Answer:"; all, where the output is nothing but an
    answer; the last number in bold; the last number, with the formula that it ends; short words.
    What stands before the end of the reasoning (`</think>` and its like) is not looked at, and an
    output that never leaves its reasoning has no answer (reasoning.py).
    """
    text = after_reasoning(output)
    if text is None:
        return None
    text = SPECIAL.sub("", text[-LONGEST:])
    for find in (_boxed, _tagged, _behind_hashes, _said, _whole, _in_bold, last_number, _short):
        if (found := find(text)) is not None:
            return CLOSING_MARKS.sub("", found.strip()) or None
    return None


def bare(text: str) -> str:
    """An answer, or the final answer in it where it holds more than that: a box, a mark, a
    sentence that gives it, several lines."""
    marked = BOX.search(text) or "####" in text or SAID.search(text)
    lines = text.strip().count("\n") and "\\begin" not in text
    if marked or lines or has_reasoning(text):
        return final_answer(text) or ""
    return text


def _boxed(text: str) -> str | None:
    """What the last box holds; "" where it does not close, which is an answer cut off."""
    found = None
    for found in BOX.finditer(text):  # noqa: B007
        pass
    if found is None:
        return None
    start = found.end()
    if text[start : start + 1] != "{":
        return re.split(r"[\s$.,]", text[start:], maxsplit=1)[0]
    depth, place = 0, start
    while place < len(text):
        sign = text[place]
        if sign == "\\":
            place += 1
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            inside = text[start + 1 : place]
            return _boxed(inside) if BOX.search(inside) else inside
        place += 1
    return ""


def _behind_hashes(text: str) -> str | None:
    """Behind the last #### that is no heading: its first number, or the line."""
    lines = [
        line.rpartition("####")[2].strip(" \t*:") for line in text.splitlines() if "####" in line
    ]
    for line in reversed(lines):
        if not line or HEADING.match(line):
            continue
        if SAID.match(line):
            line = line[SAID.match(line).end() :].strip(" *:")  # type: ignore[union-attr]
        if not line:
            continue
        number = AMOUNT.match(line)
        if number and not re.match(r"[\w\\^{(:/+*=-]", line[number.end() :].lstrip(" ")[:1] or " "):
            return number[0]
        if number and re.match(r"\s+[A-Za-z]", line[number.end() :]):
            return number[0]
        return _number_of(_cut(line))
    return None


def _said(text: str) -> str | None:
    """Behind the last "the answer is", up to the end of the sentence."""
    for found in reversed(list(SAID.finditer(text))):
        behind = text[found.end() :].lstrip(" \t\n*_:>")
        if not behind:
            continue
        answer = _cut(behind)
        if answer and len(answer) <= 300 and (found := _number_of(answer)):
            return found
    turned = [one.strip(EMPHASIS) for one in TURNED.findall(text)]
    return turned[-1] if turned and AMOUNT.match(turned[-1]) else None


def _number_of(answer: str) -> str | None:
    """The number of a whole sentence that has one, such as "that she has 7 apples"; an answer of a
    few words stays as it is. None for a sentence without any, or that says where it comes from."""
    if ELSEWHERE.match(answer):
        return None
    talk = TALK.match(answer) and re.search(r"\d", answer)
    if not is_prose(answer) or (len(answer.split()) <= WORDS and not talk):
        return answer
    number = AMOUNT.match(answer)
    return number[0] if number else last_number(answer)


def _tagged(text: str) -> str | None:
    """What the last <answer> holds."""
    found = TAGGED.findall(text)
    return (final_answer(found[-1]) or found[-1]) if found else None


def _cut(text: str) -> str:
    """An answer at the begin of a text, without the rest of its sentence and its emphasis."""
    text = text.lstrip("} ") if text.count("}") > text.count("{") else text
    if formula := FORMULA.match(text):
        behind = text[formula.end() :]
        if not re.match(r"\s*(?:and|or|,|\\%|%|[A-Za-z°])", behind):
            return inside_of(formula)
    if "\\begin" in text.partition("\n")[0]:
        return text.partition("\n\n")[0].strip(EMPHASIS)
    end = SENTENCE_END.search(text)
    sentence = text[: end.start()] if end else text
    return sentence.strip(EMPHASIS).removeprefix("therefore").strip(" *:,")


def _whole(text: str) -> str | None:
    """The output, where it is one line without prose; closing sentences without a digit apart."""
    lines = [line.strip() for line in text.strip().split("\n") if line.strip()]
    while len(lines) > 1 and is_prose(lines[-1]) and not re.search(r"\d|\$|\\", lines[-1]):
        lines.pop()
    if len(lines) == 1 and not is_prose(lines[0]) and re.search(r"[\w\\]", lines[0]):
        return lines[0].strip(" `") if "**" not in lines[0] else None
    return None


def _in_bold(text: str) -> str | None:
    """The last bold text that is a number, perhaps with a unit, or a formula."""
    for found in reversed(list(BOLD.finditer(text))):
        inside = (found[1] or found[2]).strip()
        if HEADING.match(inside) or not re.search(r"\d", inside):
            continue
        if formula := FORMULA.fullmatch(inside):
            return inside_of(formula)
        if not is_prose(inside) or AMOUNT.match(inside):
            number = AMOUNT.match(inside)
            return number[0] if number and is_prose(inside) else inside
        numbers = AMOUNT.findall(inside)
        if numbers:
            return numbers[-1]
    return None


def _short(text: str) -> str | None:
    """A short line of words: the last one in bold, or all there is."""
    bold = [(one[1] or one[2]).strip() for one in BOLD.finditer(text)]
    for inside in reversed(bold):
        if not HEADING.match(inside):
            return inside
    line = text.strip(EMPHASIS + ".")
    words = len(line.split())
    short = line and "\n" not in line and len(line) <= WHOLE and words <= WORDS
    return line if short and not TALK.search(line) else None
