"""What a test sees of a program in another process is what it would see in its own."""

import pytest

from infifusion.sandbox.programs import available, check_program

pytestmark = pytest.mark.skipif(not available()[0], reason=f"no sandbox: {available()[1]}")

PLAIN = """
    None, True, 0, -1, 1 << 61, 1 << 62, -(1 << 5000), 0.1, float("inf"), 1 + 2j, "", "é🙂\\ud800",
    b"\\0\\xff", bytearray(b"x"), [], [[1], (2,)], (), {}, {1: "a", (1, 2): [None]}, {1, 2},
    frozenset({3}), range(1, 9, 2), int, dict, ValueError
"""
HONEST = {
    "plain values keep their type": (
        f"VALUES = [{PLAIN}]\ndef same(x): return x",
        f"for value in [{PLAIN}]:\n  there = same(value)\n"
        "  assert there == value and type(there) is type(value), value\n"
        f"assert VALUES == [{PLAIN}]",
    ),
    "values of the standard library": (
        "from fractions import Fraction\nfrom decimal import Decimal\nfrom datetime import *\n"
        "from collections import deque\n"
        "def f(): return [Fraction(1, 3), Decimal('0.10'), date(2020, 2, 29), deque([1], 3),\n"
        " datetime(2020, 1, 2, 3, 4, 5, 6), timedelta(1, 2, 3)]",
        "from fractions import Fraction\nfrom decimal import Decimal\nimport datetime as d\n"
        "from collections import deque\n"
        "assert f() == [Fraction(1, 3), Decimal('0.10'), d.date(2020, 2, 29), deque([1], 3),\n"
        " d.datetime(2020, 1, 2, 3, 4, 5, 6), d.timedelta(1, 2, 3)]",
    ),
    "subclasses of plain values": (
        "from collections import namedtuple, Counter\nimport enum\nP = namedtuple('P', 'x y')\n"
        "class E(enum.IntEnum):\n  A = 3\n"
        "def f(): return P(1, 2), Counter('aab'), E.A",
        "p, c, e = f()\nassert p == (1, 2) and p.y == 2 and c == {'a': 2, 'b': 1}\n"
        "assert c.most_common(1) == [('a', 2)] and e == 3 and e.name == 'A'",
    ),
    "an argument that is changed": (
        "def f(a, b, c):\n  a.append(1)\n  b['k'] = [2]\n  c.add(3)",
        "a, b, c = [0], {}, set()\nf(a, b, c)\nassert (a, b, c) == ([0, 1], {'k': [2]}, {3})",
    ),
    "keywords and defaults": (
        "def f(a, *rest, b=2, **more): return a, rest, b, more",
        "assert f(1, 5, c=3) == (1, (5,), 2, {'c': 3})",
    ),
    "an error": (
        "class Odd(ValueError): pass\n"
        "def f(x):\n  if x == 1: raise Odd('one')\n  if x == 2: return {}['k']\n"
        "  return b'\\xff'.decode()",
        "try: f(1)\nexcept Odd as error: assert str(error) == 'one'\nelse: assert False\n"
        "try: f(1)\nexcept ValueError: pass\nelse: assert False\n"
        "try: f(2)\nexcept KeyError as error: assert error.args == ('k',)\nelse: assert False\n"
        "try: f(3)\nexcept ValueError: pass\nelse: assert False",
    ),
    "a class and its objects": (
        "class V:\n  n = 0\n  def __init__(s, x): s.x = x\n"
        "  def __add__(s, o): return V(s.x + o.x)\n  def __eq__(s, o): return s.x == o.x\n"
        "  def __lt__(s, o): return s.x < o.x\n  def __len__(s): return s.x\n"
        "  def __getitem__(s, i): return s.x * i\n  def __contains__(s, i): return i == s.x\n"
        "  def __repr__(s): return f'V({s.x})'\n  def __radd__(s, o): return V(s.x + o)\n"
        "  def twice(s): return V(2 * s.x)\n",
        "v = V(3)\nassert v.x == 3 and v + V(1) == V(4) and v != V(4) and len(v) == 3\n"
        "assert v[5] == 15 and 3 in v and 4 not in v and repr(v) == 'V(3)' and v < V(4)\n"
        "assert sorted([V(2), V(1)])[0].x == 1 and v.twice().x == 6 and isinstance(v, V)\n"
        "assert sum([V(1), V(2)]).x == 3 and not isinstance(3, V)\nv.x = 9\nassert v.x == 9",
    ),
    "a generator": (
        "def f(n):\n  for i in range(n): yield i, [i]",
        "assert list(f(2)) == [(0, [0]), (1, [1])]\ng = f(1)\nnext(g)\n"
        "try: next(g)\nexcept StopIteration: pass\nelse: assert False",
    ),
    "a function that the test passes": (
        "def f(g, values): return sorted(map(g, values))",
        "seen = []\ndef g(x):\n  seen.append(x)\n  return -x\n"
        "assert f(g, [1, 2]) == [-2, -1] and seen == [1, 2]",
    ),
    "an error of a function that the test passes": (
        "def f(g):\n  try: g()\n  except ZeroDivisionError: return 'caught'",
        "assert f(lambda: 1 / 0) == 'caught'",
    ),
    "a function that it gives back": (
        "def adder(n): return lambda x: x + n",
        "assert adder(2)(3) == 5",
    ),
    "modules that it imports": (
        "import math, os.path as p\nfrom math import floor as down\nfrom typing import List\n"
        "def f(x): return x",
        "assert math.fabs(f(-2)) == 2 and down(2.5) == 2 and p.basename('a/b') == 'b' and List",
    ),
    "the module by its name": ("def f(): return 1", "import program\nassert program.f() == 1"),
    "a function with the name of a builtin": (
        "def sum(a, b): return a + b",
        "assert sum(1, 2) == 3",
    ),
    "NumPy in the test alone, as in HumanEval+": (
        "def f(x): return [0.1 * x, 0.2]",
        "import numpy as np\nnp.testing.assert_allclose(f(3), [0.3, 0.2], atol=1e-9)\n"
        "assert np.allclose(f(3), [0.3, 0.2])",
    ),
    "NumPy's values": (
        "import numpy as np\ndef f(): return np.array([1, 2]).sum()\n"
        "def g(): return np.array([[1.5], [2.0]])\n"
        "def h(): return [np.float32(0.5), np.bool_(True), np.str_('a')]",
        "assert f() == 3 and f() + 1 == 4 and type(f()) is np.int64\n"
        "assert g().tolist() == [[1.5], [2.0]] and g().dtype == float and h() == [0.5, True, 'a']",
    ),
    "a context manager": (
        "class C:\n  def __enter__(s): return 5\n  def __exit__(s, *e): s.left = True",
        "c = C()\nwith c as five: assert five == 5\nassert c.left",
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_program_passes(name):
    program, test = HONEST[name]
    assert check_program(program, test).reason == "passed"
    assert not check_program(program, test + "\nassert False").passed


def test_no_other_package_can_be_imported():
    for package in ("pandas", "pytest", "infifusion"):
        verdict = check_program(f"import {package}", "")
        assert verdict.reason == f"ModuleNotFoundError: No module named '{package}'"
    assert "linalg" in check_program("import numpy as np\nnp.linalg.inv([[0]])", "").reason.lower()


def test_many_calls_are_answered_in_order():
    test = "assert [f(n, m=n) for n in range(2000)] == [2 * n for n in range(2000)]"
    assert check_program("def f(n, m): return n + m", test, timeout=30.0).passed


def test_what_the_program_makes_of_the_test_s_names_stays_its_own():
    program = "import math\nmath.fabs = lambda x: 0\ndef f(): return 5"
    verdict = check_program(program, "assert math.fabs(f() - 4) < 0.1")
    assert not verdict.passed
