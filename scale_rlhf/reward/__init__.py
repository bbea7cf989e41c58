"""Scores of responses: a learned model, a Python function or an HTTP service behind one interface.

`make.py` chooses by the configuration; `interface.py` is what the controller sees of each.
"""
