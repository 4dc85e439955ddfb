"""The program in an answer, in every form that models write it."""

from __future__ import annotations

import ast
import json
import re
import textwrap
from pathlib import Path

import pytest

from infifusion.evals import extract_program

ADD = 'def add(a, b):\n    """Add two numbers.\n\n    >>> add(1, 2)\n    3\n    """\n'
DEF = "def add(a, b):\n    return a + b\n"
WRONG = "def add(a, b):\n    return a - b\n"
F = "```"


def value(output: str, prompt: str | None = ADD, call: str = "add(3, 4)") -> object:
    """What the call gives in the extracted program; nothing may be printed, read or asserted."""
    program = extract_program(output, prompt)

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError(f"an example of use ran:\n{program}")

    names: dict = {"print": forbidden, "input": forbidden, "__name__": "__main__"}
    exec(compile(program, "<program>", "exec"), names)
    return eval(call, names)


FENCES = {
    "plain": f"{F}\n{DEF}{F}",
    "python": f"{F}python\n{DEF}{F}",
    "Python": f"Here you are:\n\n{F}Python\n{DEF}{F}\nIt adds.",
    "python3": f"{F}python3\n{DEF}{F}",
    "PYTHON3": f"{F}PYTHON3\n{DEF}{F}",
    "py": f"{F}py\n{DEF}{F}",
    "ipython": f"{F} ipython\n{DEF}{F}",
    "another language": f"{F}text\n{DEF}{F}",
    "tildes": f"~~~\n{DEF}~~~",
    "tildes with a language": f"~~~python\n{DEF}~~~\nDone.",
    "four": f"{F}`python\n{DEF}{F}`",
    "title": f'{F}python title="add.py"\n{DEF}{F}',
    "braces": f"{F}{{.python .numberLines}}\n{DEF}{F}",
    "file": f"{F}python:add.py\n{DEF}{F}",
    "indented": textwrap.indent(f"{F}python\n{DEF}{F}", "   "),
    "in a list": f"1. Code:\n\n   {F}python\n   def add(a, b):\n       return a + b\n   {F}\n2. x",
    "list item": f"- {F}python\n  def add(a, b):\n      return a + b\n  {F}",
    "closing alone": f"{DEF}{F}\nThis function adds.",
    "closing alone, then use": f"{DEF}{F}\nUse it:\n{F}python\nprint(add(1, 2))\n{F}",
    "closing with words": f"{F}python\n{DEF}{F} That is all.",
    "closing behind code": f"{F}python\ndef add(a, b):\n    return a + b{F}\nIt adds.",
    "closing alone behind code": f"def add(a, b):\n    return a + b{F}\nIt adds.",
    "opening behind words": f"Sure: {F}python\n{DEF}{F}",
    "unfinished": f"Sure!\n{F}python\n{DEF}",
    "code behind the fence": f"{F}def add(a, b):\n    return a + b\n{F}",
    "all in a line": f"{F}python def add(a, b): return a + b{F}",
    "windows": f"{F}python\n{DEF}{F}\nDone.\n".replace("\n", "\r\n"),
    "old mac": f"{F}python\n{DEF}{F}\n".replace("\n", "\r"),
    "tags": f"[PYTHON]\n{DEF}[/PYTHON]\nIt adds.",
    "done": f"{DEF}[DONE]\nYou are an expert",
    "html": f"<pre><code>\n{DEF}</code></pre>",
    "end of text": f"{F}python\n{DEF}{F}<|im_end|>",
    "end of text behind code": f"{DEF.rstrip()}<|endoftext|>",
    "blanks behind": f"{F}python   \n{DEF}{F}   \n",
    "no line end": f"{F}python\n{DEF.rstrip()}\n{F}",
    "shell first": f"{F}bash\npip install nothing\n{F}\n{F}python\n{DEF}{F}",
    "quoted": "> " + f"{F}python\n{DEF}{F}".replace("\n", "\n> "),
    "in a Markdown block": f"{F}markdown\nThe code:\n{F}python\n{DEF}{F}\n{F}",
    "answer tags": f"<answer>{F}python\n{DEF}{F}</answer>",
    "output behind": f"{F}python\n{DEF}{F}\nOutput:\n{F}\n7\n{F}",
    "json first": f'{F}json\n{{"a": 1}}\n{F}\n{F}python\n{DEF}{F}',
}


@pytest.mark.parametrize("output", FENCES.values(), ids=FENCES.keys())
def test_a_function_in_a_fence_of_any_kind(output: str) -> None:
    assert value(output) == 7
    assert value(output, None) == 7
    assert value(output, "Write a function to add.\nassert add(1, 2) == 3") == 7


PROSE = {
    "bare": DEF,
    "before": f"Here is the function:\n\n{DEF}",
    "before and after": f"Sure!\n{DEF}\nThis function returns the sum. Note: it's simple.",
    "without a blank line": f"Sure, here's the code\n{DEF}Explanation: it adds a and b.",
    "one word": f"Solution\n{DEF}Explanation\n",
    "inside a line": "Use `def add(a, b): return a + b`.",
    "a mark of reasoning in its text": 'def add(a, b):\n    s = "<think>x</think>"\n'
    "    return a + b + len(s) - 16\n",
    "Python 2": f"{DEF}print add(1, 2)\n",
    "heading": f"## Solution\n\n{DEF}\n## Explanation\n\n* `a`: a number\n* `b`: another",
    "indented code block": f"The code:\n\n{textwrap.indent(DEF, '    ')}\nIt adds.",
    "all indented": textwrap.indent(DEF, "    "),
    "tabs": "def add(a, b):\n\treturn a + b\n",
    "unbreakable blanks": "def add(a, b):\n\u00a0\u00a0\u00a0\u00a0return a + b\n",
    "two blanks": "def add(a, b):\n  c = a\n  return c + b\n",
    "async": "import asyncio\n\nasync def plus(a, b):\n    return a + b\n\n"
    "def add(a, b):\n    return asyncio.run(plus(a, b))\n",
    "session": ">>> def add(a, b):\n...     return a + b\n...\n>>> add(1, 2)\n3\n",
    "lambda": "add = lambda a, b: a + b\n",
    "annotated": "from __future__ import annotations\n\ndef add(a: int, b: int) -> int:\n"
    "    return a + b\n",
    "docstring with fences": f'{F}python\ndef add(a, b):\n    """Add.\n\n    {F}\n    add(1, 2)\n'
    f'    {F}\n    """\n    return a + b\n{F}\nIt adds.',
    "bare docstring with fences": f'def add(a, b):\n    """Add.\n\n    {F}python\n    add(1, 2)\n'
    f'    {F}\n    """\n    return a + b\n',
    "comment at the margin": "def add(a, b):\n# adds\n    return a + b\n",
    "text at the margin": 'def add(a, b):\n    """\nAdds.\n    """\n    return a + b\n',
}


@pytest.mark.parametrize("output", PROSE.values(), ids=PROSE.keys())
def test_a_function_among_words(output: str) -> None:
    assert value(output) == 7
    assert value(output, None) == 7


USES = {
    "print": f"{DEF}\nprint(add(1, 2))\n",
    "variables": f"{DEF}\na = 1\nresult = add(a, int(input()))\nprint(result)\n",
    "assert that is wrong": f"{DEF}\nassert add(1, 2) == 4\n",
    "main": f'{DEF}\nif __name__ == "__main__":\n    print(add(1, 2))\n',
    "main function": f'{DEF}\ndef main():\n    print(add(1, 2))\n\nif __name__ == "__main__":\n'
    "    main()\n",
    "main called": f"{DEF}\ndef main():\n    print(add(1, 2))\n\nmain()\n",
    "loop": f"{DEF}\nfor a, b in [(1, 2)]:\n    print(add(a, b))\n",
    "exit": f"import sys\n\nBIG = sys.maxsize\n{DEF}\nsys.exit(add(1, 2))\n",
    "doctest": f"{DEF}\nimport doctest\ndoctest.testmod()\nprint(1)\n",
    "unittest": f"import unittest\n{DEF}\nclass TestAdd(unittest.TestCase):\n"
    "    def test(self):\n        self.assertEqual(add(1, 2), 4)\n\nunittest.main()\n",
    "test function": f"{DEF}\ndef test_add():\n    assert add(1, 2) == 4\n\ntest_add()\n",
    "cut off": f'{DEF}\ndef next_one(x):\n    """This is cut o',
    "cut off in use": f"{DEF}\nprint(add(1,",
    "session behind": f"{DEF}\n>>> add(1, 2)\n3\n",
    "missing import": f"import no_such_module\n{DEF}\nno_such_module.plot(add)\n",
}


@pytest.mark.parametrize("output", USES.values(), ids=USES.keys())
@pytest.mark.parametrize("fenced", [True, False])
def test_examples_of_use_and_tests_are_not_run(output: str, fenced: bool) -> None:
    text = f"{F}python\n{output}{F}\n" if fenced and "cut" not in output[-60:] else output
    assert value(text) == 7
    assert value(text, None) == 7


VARIANTS = {
    "alternative": f"{F}python\n{DEF}{F}\nAlternatively, with a slower way:\n{F}python\n{WRONG}{F}",
    "bare alternative": f"{DEF}\n# Another way\n{WRONG}",
    "incorrect one": f"{F}\n{DEF}{F}\nAn incorrect variant for comparison:\n{F}\n{WRONG}{F}",
    "correction": f"{F}\n{WRONG}{F}\nWait, I made a mistake. Here is the corrected version:\n"
    f"{F}\n{DEF}{F}",
    "signature first": f'{F}python\ndef add(a, b):\n    """Add."""\n{F}\nNow:\n{F}python\n{DEF}{F}',
    "pass first": f"{F}\ndef add(a, b):\n    pass\n{F}\n{F}\n{DEF}{F}",
    "todo first": f"def add(a, b):\n    raise NotImplementedError\n\n{DEF}",
    "broken first": f"{F}\ndef add(a, b:\n    return a\n{F}\nThat lacks a bracket.\n{F}\n{DEF}{F}",
    "overloads": "from typing import overload\n\n@overload\ndef add(a: int, b: int) -> int: ...\n"
    f"@overload\ndef add(a: str, b: str) -> str: ...\n{DEF}",
    "method of the same name": f"class Adder:\n    def add(self, a, b):\n        return 0\n\n{DEF}",
}


@pytest.mark.parametrize("output", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_first_of_several_variants_counts_or_its_correction(output: str) -> None:
    assert value(output) == 7


NEEDED = {
    "import": "import operator\n\ndef add(a, b):\n    return operator.add(a, b)\n",
    "import as": "import operator as op\ndef add(a, b):\n    return op.add(a, b)\n",
    "star": "from operator import *\ndef add(a, b):\n    return a + b + truth(0)\n",
    "helper before": "def plus(a, b):\n    return a + b\n\ndef add(a, b):\n    return plus(a, b)\n",
    "helper behind": "def add(a, b):\n    return plus(a, b)\n\ndef plus(a, b):\n    return a + b\n",
    "class": "class Adder:\n    def plus(self, a, b):\n        return a + b\n\n"
    "def add(a, b):\n    return Adder().plus(a, b)\n",
    "decorator": "from functools import lru_cache\n\n@lru_cache(maxsize=None)\n"
    "def add(a, b):\n    return a + b\n",
    "own decorator": "import functools\n\ndef same(f):\n    @functools.wraps(f)\n"
    "    def inner(*args):\n        return f(*args)\n    return inner\n\n@same\n"
    "def add(a, b):\n    return a + b\n",
    "cache put around": "def add(a, b):\n    return a + b\n\nfrom functools import lru_cache\n"
    "add = lru_cache(None)(add)\n",
    "constant": "ZERO = 0\n\ndef add(a, b):\n    return a + b + ZERO\n",
    "table that is filled": "TABLE = {}\nfor n in range(3):\n    TABLE[n] = 0\n"
    "TABLE.update({3: 0})\n\ndef add(a, b):\n    return a + b + TABLE[2] + TABLE[3]\n",
    "attribute": "def add(a, b):\n    return a + b + add.zero\n\nadd.zero = 0\n",
    "global": "count = 0\n\ndef add(a, b):\n    global count\n    count += 1\n    return a + b\n",
    "setting": "import sys\nsys.setrecursionlimit(12345)\n\ndef add(a, b):\n    return a + b\n",
    "tried import": "try:\n    from no_such_module import plus\nexcept ImportError:\n"
    "    def plus(a, b):\n        return a + b\n\ndef add(a, b):\n    return plus(a, b)\n",
    "named tuple": "from collections import namedtuple\nPair = namedtuple('Pair', 'a b')\n\n"
    "def add(a, b):\n    pair = Pair(a, b)\n    return pair.a + pair.b\n",
    "alias": "def plus(a, b):\n    return a + b\n\nadd = plus\n",
    "default": "START = 0\ndef add(a, b, start=START):\n    return a + b + start\n",
    "several": f"def other(x):\n    return x\n\n{DEF}\ndef third(x):\n    return add(x, x)\n",
    "in blocks": f"First a helper:\n{F}python\nimport operator\n\ndef plus(a, b):\n"
    f"    return operator.add(a, b)\n{F}\nThen:\n{F}python\ndef add(a, b):\n"
    f"    return plus(a, b)\n{F}",
    "helper in a later block": f"{F}python\ndef add(a, b):\n    return plus(a, b)\n{F}\nwhere\n"
    f"{F}python\ndef plus(a, b):\n    return a + b\n{F}",
    "imports apart": f"{F}python\nimport operator\n{F}\n{F}python\ndef add(a, b):\n"
    f"    return operator.add(a, b)\n{F}",
    "dispatch": "from functools import singledispatch\n\n@singledispatch\ndef add(a, b):\n"
    "    return 0\n\n@add.register\ndef _(a: int, b):\n    return a + b\n",
    "escapes": 'import re\n\ndef add(a, b):\n    return a + b + len(re.findall("\\d", "x"))\n',
}


@pytest.mark.parametrize("output", NEEDED.values(), ids=NEEDED.keys())
def test_what_the_function_needs_comes_with_it(output: str) -> None:
    assert value(output) == 7
    assert value(f"Sure.\n\n{output}\nThat's it: done!") == 7


BODIES = {
    "as a base model": "    return a + b\n",
    "more follows": "    return a + b\n\n\ndef sub(a, b):\n    return a - b\n\nprint(add(1, 2))\n",
    "it repeats itself": f"    return a + b\n\n\n{WRONG}",
    "cut off": '    return a + b\n\n\ndef sub(a, b):\n    """Subtr',
    "at the margin": "return a + b",
    "several lines at the margin": "c = a\nfor _ in range(b):\n    c += 1\nreturn c\n",
    "first line at the margin": "c = a\n    for _ in range(b):\n        c += 1\n    return c\n",
    "nested first line": "if a:\n        return a + b\n    return b\n",
    "three blanks": "   return a + b\n",
    "three blanks, then four": "   c = a\n    return c + b\n",
    "two blanks": "  c = a\n  return c + b\n",
    "eight blanks": "        c = a\n        return c + b\n",
    "tab": "\tc = a\n\tif c:\n\t\treturn c + b\n",
    "fenced": f"{F}python\n    return a + b\n{F}",
    "fenced at the margin": f"Complete it so:\n{F}python\nreturn a + b\n{F}\nDone.",
    "fenced, first line at the margin": f"{F}\nc = a\n    return c + b\n{F}",
    "closing fence": f"    return a + b\n{F}\n\nThis adds the two numbers.",
    "unfinished fence": f"{F}python\n    return a + b\n",
    "words behind": "    return a + b\n\nThis adds a and b. It's simple:",
    "words before": "Here is the rest of the function:\n\n    return a + b\n",
    "words around, at the margin": "Add this line:\n\nreturn a + b\n\nIt adds.",
    "example behind": f"    return a + b\n\nExample:\n{F}python\nprint(add(1, 2))\n{F}",
    "import above": "    import operator\n    return operator.add(a, b)\n",
    "import at the margin above": "import operator\nreturn operator.add(a, b)\n",
    "comment": "    # the sum\n    return a + b\n",
    "comment at the margin": "# the sum\nreturn a + b\n",
    "helper behind": "    return plus(a, b)\n\n\ndef plus(a, b):\n    return a + b\n",
    "main behind": '    return a + b\n\nif __name__ == "__main__":\n    print(add(1, 2))\n',
    "session behind": "    return a + b\n\n>>> add(1, 2)\n3\n",
    "windows": "    c = a\r\n    return c + b\r\n",
    "docstring again": '    """Add."""\n    return a + b\n',
    "blank first": "\n\n    return a + b\n",
    "inside a line": "You can use `return a + b`.",
    "behind the signature alone": f"def add(a, b):\n{F}python\n    return a + b\n{F}",
    "behind the prompt in a fence": f"{F}python\n{ADD}{F}\nis\n{F}python\n    return a + b\n{F}",
    "import in a fence before": f"{F}\nimport math\n{F}\n{F}\n    return math.fsum([a, b])\n{F}",
    "language without a fence": "python\n    return a + b\n",
    "brackets at the margin": "    return (\n        a\n+ b\n    )\n",
    "inner function": "    def plus():\n        return a + b\n    return plus()\n",
}


@pytest.mark.parametrize("output", BODIES.values(), ids=BODIES.keys())
def test_a_body_continues_the_prompt(output: str) -> None:
    assert value(output) == 7
    tabbed = 'def add(a, b):\n\t"""Add."""\n'
    assert value(output, tabbed) == 7
    assert value(output, "def add(a, b):\n") == 7
    assert value(output, ADD.rstrip()) == 7


def test_text_at_the_margin_stays_where_it_is() -> None:
    assert value('    s = """\ntext\n"""\n    return a + b + len(s) - 6\n') == 7


def test_the_prompt_gives_imports_and_helpers() -> None:
    prompt = (
        "from typing import List\nimport math\n\n\ndef root(x):\n    return math.sqrt(x)\n\n\n"
        'def roots(numbers: List[float]) -> List[float]:\n    """Roots of all."""\n'
    )
    for output in (
        "    return [root(n) for n in numbers]\n",
        f"{F}python\ndef roots(numbers: List[float]) -> List[float]:\n"
        f"    return [root(n) for n in numbers]\n{F}",
        f"{prompt}    return [root(n) for n in numbers]\n",
        f"{F}python\n{prompt}    return [math.sqrt(n) for n in numbers]\n{F}\nprint(roots([4]))",
        "return [root(n) for n in numbers]",
    ):
        assert value(output, prompt, "roots([4, 9])") == [2, 3]
        assert value(output, prompt, "root(4)") == 2, "tests may use it, too"


def test_the_prompt_names_the_function() -> None:
    answer = "def help(x):\n    return 2 * x\n\ndef double(x):\n    return help(x)\n"
    for prompt in (
        "Write a function to double a number.\n\nassert double(2) == 4\nassert double(3) == 6",
        "Write `double`, a function that doubles.",
        "Complete this:\n```python\ndef double(x):\n    '''Double x.'''\n```",
        "Complete the function.\n\ndef double(x):\n    '''Double x.'''\n",
        '"""\nDouble a number.\nassert set([double(2)]) == {4}\n"""\n',
    ):
        assert value(answer, prompt, "double(4)") == 8
        assert value(f"{F}\n{answer}\nprint(double(1))\n{F}", prompt, "double(4)") == 8
    asked = "Complete this:\n```python\ndef double(x):\n    '''Double x.'''\n```"
    assert value("    return 2 * x", asked, "double(4)") == 8
    wrong = extract_program("def triple(x):\n    return 3 * x\n", "assert double(2) == 4")
    assert "triple" in wrong and "double" not in wrong


def test_a_method_and_a_coroutine_are_continued() -> None:
    prompt = (
        "class Adder:\n    def __init__(self):\n        self.zero = 0\n\n"
        '    def add(self, a, b):\n        """Add."""\n'
    )
    whole = f"{F}\n{prompt}        return a + b\n\nprint(Adder().add(1, 2))\n{F}"
    method = f"{F}\n    def add(self, a, b):\n        return a + b\n{F}"
    for output in ("        return a + b + self.zero\n", "return a + b + self.zero", whole, method):
        assert value(output, prompt, "Adder().add(3, 4)") == 7
    prompt = 'import asyncio\n\nasync def add(a, b):\n    """Add."""\n'
    for body in ("    await asyncio.sleep(0)\n    return a + b\n", "return a + b"):
        assert value(body, prompt, "asyncio.run(add(3, 4))") == 7


def test_classes_are_programs_too() -> None:
    answer = (
        f"{F}python\nclass Pair(object):\n    def __init__(self, a, b):\n        self.a = a\n"
        "        self.b = b\n\ndef longest(pairs, n):\n    return max(p.b - p.a for p in pairs)\n"
        f"{F}"
    )
    prompt = "Longest pair.\nassert longest([Pair(5, 24), Pair(15, 25)], 2) == 19"
    assert value(answer, prompt, "longest([Pair(5, 24), Pair(15, 25)], 2)") == 19


THOUGHT = {
    "whole": f"<think>Maybe\n{F}python\n{WRONG}{F}\n</think>\n\n{F}python\n{DEF}{F}",
    "opened by the prompt": f"Maybe\n{F}python\n{WRONG}{F}\nNo.\n</think>\n{F}\n{DEF}{F}",
    "bare": f"<think>\n{WRONG}</think>\n{DEF}",
    "thinking": f"<thinking>{WRONG}</thinking>\n\n{DEF}",
    "other marks": f"[THINK]{WRONG}[/THINK]\n{DEF}",
    "channels": f"<|channel|>analysis<|message|>{WRONG}<|end|><|start|>assistant"
    f"<|channel|>final<|message|>{F}python\n{DEF}{F}",
    "body": f"<think>\n{F}\n{WRONG}{F}</think>\n    return a + b\n",
}


@pytest.mark.parametrize("output", THOUGHT.values(), ids=THOUGHT.keys())
def test_what_is_tried_in_reasoning_does_not_count(output: str) -> None:
    assert value(output) == 7


def test_an_answer_that_never_leaves_its_reasoning_is_none() -> None:
    for output in (f"<think>So\n{F}python\n{DEF}{F}\n", f"{F}\n{DEF}{F}\n</think>\n", "<think>"):
        assert extract_program(output, ADD) == ""
    assert value(f"{F}python\n{DEF}{F}\n<think>Is that", ADD) == 7


def test_no_code_is_nothing_and_broken_code_stays_broken() -> None:
    for output in ("", "   \n", "I cannot help with that.", "The sum is 7, isn't it?"):
        assert extract_program(output, ADD) == ""
        assert extract_program(output) == ""
    for output in (
        "def add(a, b):\n    if a > 0\n        return a + b\n    return b\n",
        f"{F}python\ndef add(a, b):\n    return a + b\n    else:\n        pass\n{F}",
        "    if a > 0\n        return a + b\n",
        "def add(a, b):\n    return (a +",
    ):
        program = extract_program(output, ADD)
        with pytest.raises(SyntaxError):
            compile(program, "<program>", "exec")
    assert "print" in extract_program(f"{F}python\nprint('hello')\n{F}")


def test_extraction_is_idempotent() -> None:
    for table in (FENCES, PROSE, USES, VARIANTS, NEEDED, BODIES):
        for output in table.values():
            program = extract_program(output, ADD)
            assert extract_program(program, ADD) == program


SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def shared_docs(name: str) -> list[dict]:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def definitions(program: str) -> dict[str, str]:
    """Every function and class at the margin, as Python sees it."""
    found = {}
    for one in ast.parse(program).body:
        if isinstance(one, ast.FunctionDef | ast.ClassDef):
            body = [n for n in one.body if not isinstance(n, ast.Expr | ast.Import)]
            found[one.name] = "\n".join(ast.unparse(node) for node in body)
    return found


def body_forms(solution: str) -> dict[str, str]:
    """A reference solution of HumanEval as models write it without its signature."""
    return {
        "as it is": solution,
        "stripped": solution.strip(),
        "moved in by two": textwrap.indent(textwrap.dedent(solution), "  "),
        "fenced": f"{F}python\n{solution}{F}\nThis is it.",
        "stripped in a fence": f"{F}\n{solution.strip()}\n{F}",
        "more behind it": f'{solution}\n\ndef next_one(x):\n    """It goes on and on',
        "words behind it": f"{solution}\n\nThis solves the task: it's simple.",
        "windows": solution.replace("\n", "\r\n"),
    }


def test_every_reference_body_of_humaneval_is_found_in_every_form() -> None:
    wrong, tried = [], 0
    for doc in shared_docs("humaneval.jsonl"):
        prompt, solution, entry = doc["prompt"], doc["canonical_solution"], doc["entry_point"]
        expected = definitions(prompt + solution)[entry]
        for form, output in body_forms(solution).items():
            tried += 1
            if definitions(extract_program(output, prompt)).get(entry) != expected:
                wrong.append((doc["task_id"], form))
    assert tried == 164 * 8
    assert wrong == []


def program_forms(program: str, entry: str) -> dict[str, str]:
    """A whole program as models write it."""
    use = f"\n\nprint({entry}(1))\nassert {entry}(2) == 3\n"
    main = f"\n\nif __name__ == '__main__':\n    print({entry}(input()))\n"
    return {
        "bare": program,
        "fenced": f"Sure!\n\n{F}Python\n{program}\n{F}\nIt works.",
        "in a list": "1. The code:\n" + textwrap.indent(f"{F}python\n{program}\n{F}", "   "),
        "bare with words": f"Here is the code:\n\n{program}\n\nIt's simple: it works.",
        "with use": f"~~~\n{program}{use}~~~",
        "with main": f"{program}{main}",
        "another variant": f"{F}\n{program}\n{F}\nOr:\n{F}\ndef {entry}(*a):\n    return 0\n{F}",
        "closing fence": f"{program}\n{F}\nIt works.",
        "thought": f"<think>def {entry}(): return 1\n</think>\n{program}",
    }


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_every_reference_program_is_found_in_every_form(name: str) -> None:
    wrong, tried = [], 0
    for doc in shared_docs(f"{name}.jsonl")[:: {"humaneval": 1, "mbpp": 4}[name]]:
        if name == "humaneval":
            program, prompt = doc["prompt"] + doc["canonical_solution"], doc["prompt"]
            entries = [doc["entry_point"]]
        else:
            program, prompt = doc["code"].replace("\r\n", "\n"), "\n".join(doc["test_list"])
            called = {n for n in definitions(program) if re.search(rf"\b{n}\b", prompt)}
            entries = sorted(called)
        expected = definitions(program)
        for form, output in program_forms(program, (entries or ["f"])[0]).items():
            tried += 1
            found = definitions(extract_program(output, prompt))
            if not entries or any(found.get(one) != expected[one] for one in entries):
                wrong.append((doc["task_id"], form))
    assert tried == {"humaneval": 164, "mbpp": 244}[name] * 9
    assert wrong == []


def test_an_answer_that_repeats_itself_for_ever_is_read() -> None:
    """As models do until they run out of tokens."""
    for line in ("It's a line (of words).\n", "**Step:** we add, then we check;\n", "\n"):
        assert extract_program(line * 1000, ADD) == ""
    for line in ("x = a\n", "(\n", "if a:\n", "```\nx\n", '"""\n'):
        assert "return" not in extract_program(line * 500, ADD)
    assert value("    x = a\n" * 1000 + "    return a + b\n") == 7
    assert value("It's a line of words.\n" * 1000 + DEF) == 7
