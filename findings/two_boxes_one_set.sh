#!/usr/bin/env bash
# Guess: where a response has several \boxed{...}, a judge of mathematics takes the last one.
# What happens: math-verify joins boxes that stand near each other into one set. "The tax is \boxed{3},
#   so she pays \boxed{18}." is read as {3, 18}, which is not 18: a right answer is judged wrong. It takes
#   a comma, a semicolon, "and" or "or" between them and less than 70 characters, or less than 10
#   characters of anything. The same words with a full stop in place of the comma are judged right.
# Versions: math-verify 0.9.0, latex2sympy2_extended 1.11.0, ANTLR runtime 4.11.0 (lm-eval's).
# Cause: extract_boxed_content() of latex2sympy2_extended, mode "last", collects backwards for as long as
#   the text between two boxes looks like a list; it is meant for answers such as \boxed{1} and \boxed{2}.
# Who meets it: models that box steps, which is what a pupil of several teachers picks up. Minerva's
#   exact_match takes the last box, so the two metrics of one lm-eval task move apart with the style.
# Documented: a comment in the code; the README of math-verify does not speak of several boxes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check "math-verify==0.9.0" \
  "latex2sympy2_extended==1.11.0" "antlr4-python3-runtime==4.11.0" "sympy==1.14.0"
cd "$work"
"$work/venv/bin/python" - <<'PY'
from math_verify import parse, verify

gold = parse("$18$")


def judged(between: str) -> bool:
    response = rf"The tax is \boxed{{3}}{between}\boxed{{18}}."
    read = parse(response)
    right = verify(gold, read)
    print(f"{right!s:5} {read[0]!s:8} {response}")
    return right


assert not judged(", so she pays ")
assert judged(". So she pays ")
assert not judged(". Total: ")  # nine characters, no list at all
assert judged(". Total = : ")
assert judged(", so with the price of the book, which is fifteen, she has to pay a total of ")
PY
