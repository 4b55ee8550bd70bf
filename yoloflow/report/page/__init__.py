"""The report: run folders as one HTML file that needs no network.

`run_content.py` reads a run folder, `diagnostics.py` shortens its diagnostics, `comparison.py` compares
several runs, `thumbnails.py` shrinks the images, and `document.py` puts all of it, with the style sheet and
the scripts that lie here, into a page.
"""
