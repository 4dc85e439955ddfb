#!/usr/bin/env bash
# Guess: 1e3, which Python and many models write for 1000, is either read as 1000 or not read at all.
# What happens: outside of LaTeX math-verify reads only what stands before the e: "1e3" is 1 and "2.5E-4"
#   is 2.5. Inside of \boxed{} or $...$ the e is Euler's number: \boxed{1e3} is 1 * e * 3, about 8.15.
#   So 1e3 is wrong for the gold 1000, and right for the golds 1 and 3e.
# Versions: math-verify 0.9.0, latex2sympy2_extended 1.11.0, ANTLR runtime 4.11.0 (lm-eval's).
# Cause: the regular expression for plain numbers knows no exponent and is not anchored behind, and the
#   LaTeX grammar has no float literal, so letters multiply.
# Who meets it: a fused model that took up a code model's style answers with print()'s floats. It loses
#   points that neither parent loses on its own kind of task, and a wrong 1e3 wins where the gold is 1.
# Documented: not found.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check "math-verify==0.9.0" \
  "latex2sympy2_extended==1.11.0" "antlr4-python3-runtime==4.11.0" "sympy==1.14.0"
cd "$work"
"$work/venv/bin/python" - <<'PY'
from math_verify import parse, verify

for text in ("1e3", "2.5E-4", r"\boxed{1e3}", "$1e3$"):
    print(f"{text:12} is read as {parse(text)[0]}")


def right(gold: str, answer: str) -> bool:
    return verify(parse(gold), parse(answer))


plain, boxed = "The answer is 1e3", r"The answer is \boxed{1e3}"
print("gold 1000:", right("$1000$", plain), right("$1000$", boxed))
print("gold 1 (plain), gold 3e (boxed):", right("$1$", plain), right("$3e$", boxed))
assert not right("$1000$", plain) and not right("$1000$", boxed)
assert right("$1$", plain) and right("$3e$", boxed)
assert right("$2.5$", "2.5E-4")
PY
