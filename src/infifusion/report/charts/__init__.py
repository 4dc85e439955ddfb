"""Small SVG charts, drawn by hand: no library to load, sharp on paper, coloured by the page's CSS.

Every chart is 340 units wide unless its labels need more, so that several fit side by side and one
fits a phone. Values are drawn at full precision; None and NaN leave a gap. Every text is escaped.
"""
