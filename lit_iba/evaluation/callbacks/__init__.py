"""Callbacks that evaluate, and the module that carries an explainer which nobody trains; all of
them score as the benchmark does (``evaluation/scoring.py``).
"""
