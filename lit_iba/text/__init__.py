"""Classifiers of texts, an LSTM and transformers; explainers and metrics by words (InputIBA,
NeurIPS 2021, its experiments on IMDB).
"""

from typing import TYPE_CHECKING

from lit_iba.registry import lazy_names

if TYPE_CHECKING:
    from lit_iba.text.baselines import ConstantWords as ConstantWords
    from lit_iba.text.baselines import PositionWords as PositionWords
    from lit_iba.text.baselines import RandomWords as RandomWords
    from lit_iba.text.baselines import TextIntegratedGradients as TextIntegratedGradients
    from lit_iba.text.baselines import TextLIME as TextLIME
    from lit_iba.text.benchmark import StoredWordStatistics as StoredWordStatistics
    from lit_iba.text.benchmark import TextBenchmark as TextBenchmark
    from lit_iba.text.classifier import TextClassifier as TextClassifier
    from lit_iba.text.data import IMDBDataModule as IMDBDataModule
    from lit_iba.text.explainer import TextExplainer as TextExplainer
    from lit_iba.text.explainer import TokenHeatmap as TokenHeatmap
    from lit_iba.text.explainer import build_text_explainer as build_text_explainer
    from lit_iba.text.iba import TextIBA as TextIBA
    from lit_iba.text.input_iba import TextInputIBA as TextInputIBA
    from lit_iba.text.input_iba_settings import TextInputIBASettings as TextInputIBASettings
    from lit_iba.text.lstm import LSTMClassifier as LSTMClassifier
    from lit_iba.text.lstm_classifier import LSTMTextClassifier as LSTMTextClassifier
    from lit_iba.text.lstm_training import SentimentTraining as SentimentTraining
    from lit_iba.text.metrics import TextMetric as TextMetric
    from lit_iba.text.metrics import build_text_metric as build_text_metric
    from lit_iba.text.reviews import Review as Review
    from lit_iba.text.reviews import read_reviews as read_reviews
    from lit_iba.text.transformer import TransformerTextClassifier as TransformerTextClassifier
    from lit_iba.text.vocabulary import Vocabulary as Vocabulary
    from lit_iba.text.words import ReadText as ReadText
    from lit_iba.text.words import Words as Words
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "lit_iba.text.baselines": [
                "ConstantWords",
                "PositionWords",
                "RandomWords",
                "TextIntegratedGradients",
                "TextLIME",
            ],
            "lit_iba.text.benchmark": ["StoredWordStatistics", "TextBenchmark"],
            "lit_iba.text.classifier": ["TextClassifier"],
            "lit_iba.text.data": ["IMDBDataModule"],
            "lit_iba.text.explainer": ["TextExplainer", "TokenHeatmap", "build_text_explainer"],
            "lit_iba.text.iba": ["TextIBA"],
            "lit_iba.text.input_iba": ["TextInputIBA"],
            "lit_iba.text.input_iba_settings": ["TextInputIBASettings"],
            "lit_iba.text.lstm": ["LSTMClassifier"],
            "lit_iba.text.lstm_classifier": ["LSTMTextClassifier"],
            "lit_iba.text.lstm_training": ["SentimentTraining"],
            "lit_iba.text.metrics": ["TextMetric", "build_text_metric"],
            "lit_iba.text.reviews": ["Review", "read_reviews"],
            "lit_iba.text.transformer": ["TransformerTextClassifier"],
            "lit_iba.text.vocabulary": ["Vocabulary"],
            "lit_iba.text.words": ["ReadText", "Words"],
        },
    )
