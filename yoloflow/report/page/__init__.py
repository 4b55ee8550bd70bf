"""The report: run folders as one HTML file that needs no network.

`run_files.py` reads a run folder into plain dictionaries, `diagnostics.py` cuts down what an evaluation
found, `comparison.py` sets several runs side by side, `pictures.py` shrinks the pictures, and `document.py`
puts all of it, with the style sheet and the scripts that lie here, into a page.
"""
