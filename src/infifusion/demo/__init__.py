"""The demo: synthetic domains with checkable answers, tiny specialists, one fused pivot."""

from infifusion.demo.suite import make_suite

__all__ = ["make_suite"]
