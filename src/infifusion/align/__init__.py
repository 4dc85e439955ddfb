"""Boundary alignment and vocabulary map: carrying one tokenizer's beliefs to another's.

Called, infifusion.align(source, pivot, texts) aligns two tokenizers (infifusion.api.align).
"""

from infifusion.callable_package import make_callable

make_callable(__name__)
