"""Choosers: the answers of several sources to one prompt in, the one to keep out."""

from infifusion.choose import agreement, entropy_per_byte, unit_tests

CHOOSERS = {
    "entropy_per_byte": entropy_per_byte.entropy_per_byte,
    "agreement": agreement.agreement,
    "unit_tests": unit_tests.unit_tests,
}

PARAMS = {
    "entropy_per_byte": entropy_per_byte.Params,
    "agreement": agreement.Params,
    "unit_tests": unit_tests.Params,
}
