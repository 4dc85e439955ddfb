"""The demo's parts: synthetic domains with checkable answers, tiny specialists. `setup/suite.py`
makes its folder of them."""
