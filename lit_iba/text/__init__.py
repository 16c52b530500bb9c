"""Sentiment of reviews by an LSTM, and explainers and metrics by words (InputIBA, NeurIPS 2021, its experiments on IMDB)."""
