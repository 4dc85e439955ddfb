"""One spelling for everything that is written in several ways and means one thing."""

from __future__ import annotations

import re
import unicodedata

# Characters that NFKC would change into something else, or leave as they are.
CHARACTERS = {
    "−": "-", "–": "-", "—": "-", "‒": "-", "﹣": "-", "－": "-", "‐": "-", "‑": "-",
    "×": r"\cdot ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": r"\cdot ", "÷": "/",
    "⁄": "/", "∕": "/", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ",
    "≈": r"\approx ", "∞": r"\infty ", "π": r"\pi ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "±": r"\pm ", "∓": r"\mp ", "√": r"\sqrt ", "∛": r"\sqrt[3]", "∅": r"\emptyset ",
    "ℝ": r"\mathbb{R}", "°": r"^\circ ", "º": r"^\circ ", "θ": r"\theta ", "α": r"\alpha ",
    "β": r"\beta ", "γ": r"\gamma ", "φ": r"\phi ", "λ": r"\lambda ", "⟨": r"\langle ",
    "⟩": r"\rangle ", "∖": r"\setminus ", "′": "'", "’": "'", "。": ".", "，": ",", "；": ";",
    "：": ":", "≡": r"\equiv ", "\u200b": "", "\ufeff": "",
}  # fmt: skip
RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
COMMANDS = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom",
    "leq": "le", "leqslant": "le", "geq": "ge", "geqslant": "ge", "neq": "ne", "times": "cdot",
    "ast": "cdot", "varnothing": "emptyset", "degree": "circ", "textdegree": "circ",
    "lvert": "vert", "rvert": "vert", "mid": "vert", "backslash": "setminus", "simeq": "approx",
    "infin": "infty", "lang": "langle", "rang": "rangle", "land": "wedge", "lor": "vee",
}  # fmt: skip
SIGNS = {
    r"\lt": "<", r"\gt": ">", r"\vert": "|", r"\div": "/", r"\lbrace": r"\{", r"\rbrace": r"\}",
    r"\lbrack": "[", r"\rbrack": "]", r"\lparen": "(", r"\rparen": ")", r"\colon": ":",
    r"\wedge": " and ", r"\vee": " or ", r"\cents": "¢", r"\textdollar": r"\$", r"\dots": "...",
    r"\ldots": "...", r"\cdots": "...", r"\percent": "%", r"\lnot": "not",
}  # fmt: skip
STYLES = "text textbf textit textrm textsf texttt textnormal mbox hbox mathrm mathbf mathit mathsf"
STYLES += " mathtt boldsymbol bm operatorname emph underline mathnormal rm bf"
NOTHING = "left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr displaystyle"
NOTHING += " textstyle scriptstyle limits nolimits middle strut hfill noindent"
BLANKS = "quad qquad space enspace thinspace medspace thickspace nobreakspace hfill"

STYLE = re.compile(rf"\\(?:{STYLES.replace(' ', '|')})\*?\s*\{{")
IGNORED = re.compile(rf"\\(?:{NOTHING.replace(' ', '|')})(?![A-Za-z])")
BLANK = re.compile(
    rf"\\(?:{BLANKS.replace(' ', '|')})(?![A-Za-z])"
    r"|(?<!\\)\\[ ,;:>]|\\hspace\*?\{[^{}]*\}|~|(?<!\\)\\\n"
)
SYSTEM = re.compile(
    r"\\begin\s*\{(cases|aligned|align\*?|gathered)\}(.*?)\\end\s*\{\1\}", re.DOTALL
)
OVER = re.compile(r"\{([^{}]*)\\(choose|over)(?![A-Za-z])([^{}]*)\}")
OVERS = {"choose": "binom", "over": "frac"}
MODULO = re.compile(r"\\[pb]?mod\s*(?:\{\s*(\w+)\s*\}|(\w+))")
ROW_SPACE = re.compile(r"\\\\\s*\[-?[\d.]+\s*(?:pt|em|ex|mm|cm|in)\]")
BOLD = re.compile(r"(?<![\w)\]}*])(\*\*|__)(?=\S)([^*\n]{1,300}?)(?<=\S)\1(?![\w*])")
RECURRING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{?\s*(\d+)\s*\}?")
SCIENTIFIC = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+))[eE]([-+]?\d{1,6})")
TIMES = re.compile(r"(?<=\d)\s*[xX]\s*(?=\d)")
MARKS = " \t\r\n.,;:"


def clean(text: str) -> str:
    """The text in one spelling: no Markdown, math delimiters, sizes, styles or closing marks.

    `\\text{cm}` becomes plain words, U+2212 a minus, `\\dfrac` `\\frac`, `**` `^`; `\\$` and a `$`
    before a number stay as `$`. White space is one blank, or none beside a sign.
    """
    text = _characters(text)
    text = _markdown(text.strip())
    text = _delimiters(text)
    text = _latex(text)
    text = RECURRING.sub(_recurring, text)
    text = _ends(text)
    if found := SCIENTIFIC.fullmatch(text):
        text = rf"{found[1]}\cdot 10^{{{found[2]}}}"
    text = TIMES.sub(r"\\cdot ", text)
    return re.sub(r"\s+", " ", text).strip()


def squeezed(text: str) -> str:
    """Cleaned text without blanks that mean nothing: those beside a sign."""
    return re.sub(r"\s*([^\w\s])\s*", r"\1", text)


def _characters(text: str) -> str:
    for sign, other in CHARACTERS.items():
        text = text.replace(sign, other)
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+", lambda m: "^{" + m[0].translate(RAISED) + "}", text)
    text = re.sub(r"[₀₁₂₃₄₅₆₇₈₉]+", lambda m: "_{" + m[0].translate(LOWERED) + "}", text)
    text = re.sub(r"(?<=\d)([¼½¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])", r" \1", text)
    return unicodedata.normalize("NFKC", text).replace("⁄", "/")


def _markdown(text: str) -> str:
    """Bold, italics and code around an answer; `2**3` is a power."""
    text = BOLD.sub(r" \2 ", text).strip()
    for mark in ("**", "*", "`", "_"):
        inside = text[len(mark) : -len(mark)]
        if text.startswith(mark) and text.endswith(mark) and inside and mark not in inside:
            text = inside.strip()
    text = text.replace("`", " ").removeprefix("**").removesuffix("**")
    return text.replace("**", "^")


def _delimiters(text: str) -> str:
    """Math delimiters away; a `$` that stands for dollars stays."""
    text = ROW_SPACE.sub(r"\\\\", text)
    text = re.sub(r"(?<!\\)\\[()\[\]]", " ", text).replace("$$", " ")
    text = text.replace(r"\$", "\ue000")
    text = re.sub(r"\$([^$]+)\$(?!\d)", _between_dollars, text)
    return text.replace("\ue000", "$")


def _between_dollars(found: re.Match[str]) -> str:
    """Two amounts, as in `$5 and $`, are no formula."""
    inside = found[1]
    return found[0] if inside != inside.rstrip() and " " in inside.strip() else f" {inside} "


def _latex(text: str) -> str:
    text = re.sub(r",\s*\\!\s*(?=\d)", ",", text).replace(r"\!", "")
    text = re.sub(r"\{([.,])\}", r"\1", text)
    text = re.sub(r"\\([A-Za-z]+)", lambda m: "\\" + COMMANDS.get(m[1], m[1]), text)
    text = _unstyled(text)
    text = IGNORED.sub("", text)
    text = SYSTEM.sub(
        lambda m: m[2].replace("&", " ").strip().rstrip("\\").replace("\\\\", ", "), text
    )
    text = OVER.sub(lambda m: rf"\{OVERS[m[2]]}{{{m[1]}}}{{{m[3]}}}", text)
    text = MODULO.sub(lambda m: f" (mod {m[1] or m[2]})", text)
    text = BLANK.sub(" ", text)
    text = re.sub(r"\\[A-Za-z]+", lambda m: f" {SIGNS[m[0]]} " if m[0] in SIGNS else m[0], text)
    text = re.sub(r"\^\s*\{?\s*\\circ(?![A-Za-z])\s*\}?|\\circ(?![A-Za-z])", "°", text)
    text = text.replace(r"\%", "%").replace(r"\#", "#").replace(r"\&", "&")
    text = re.sub(r"(?i)\s*\bper ?cent\b", "%", text)
    for sign, other in (("<=", r"\le "), (">=", r"\ge "), ("!=", r"\ne "), ("=<", r"\le ")):
        text = text.replace(sign, other)
    text = re.sub(r"\+/?-", r"\\pm ", text)
    return text


def _unstyled(text: str) -> str:
    """`\\text{...}` and its like without the command and its braces."""
    pieces, closing, place = [], [], 0
    depth = 0
    while place < len(text):
        if found := STYLE.match(text, place):
            depth += 1
            closing.append(depth)
            pieces.append(" ")
            place = found.end()
            continue
        sign = text[place]
        if sign == "\\":
            pieces.append(text[place : place + 2])
            place += 2
            continue
        depth += sign == "{"
        if sign == "}":
            if closing and closing[-1] == depth:
                closing.pop()
                sign = " "
            depth -= 1
        pieces.append(sign)
        place += 1
    return "".join(pieces)


def _recurring(found: re.Match[str]) -> str:
    """0.1\\overline{6} is (16 - 1) / 90."""
    whole, fixed, again = found[1] or "0", found[2], found[3]
    above = int(whole + fixed + again) - int(whole + fixed)
    return rf"(\frac{{{above}}}{{{'9' * len(again)}{'0' * len(fixed)}}})"


def _ends(text: str) -> str:
    """Nothing before an answer's first sign or behind its last one that is no part of it."""
    text = text.strip()
    before = None
    while text != before:
        before = text
        text = text.rstrip(MARKS).removesuffix("\\\\").removesuffix("\\").lstrip(" \t\r\n,;:")
        text = re.sub(r"^(?:=|\\approx(?![A-Za-z]))\s*", "", text)
        if text.startswith("{") and text.endswith("}") and _one_group(text):
            text = text[1:-1] if "," not in text else "\\{" + text[1:-1] + "\\}"
    return text


def _one_group(text: str) -> bool:
    """Whether the first brace closes at the very end."""
    depth = 0
    for place, sign in enumerate(text):
        escaped = place > 0 and text[place - 1] == "\\"
        depth += 0 if escaped else (sign == "{") - (sign == "}")
        if depth == 0:
            return place == len(text) - 1
    return False
