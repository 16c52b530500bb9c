"""The explorer: a page of a run, or of photographs, that asks the classifier itself."""

from typing import TYPE_CHECKING

from lit_iba.registry import lazy_names

if TYPE_CHECKING:
    from lit_iba.view.live import LiveClassifier as LiveClassifier
    from lit_iba.view.live import Removal as Removal
    from lit_iba.view.server import explorer_app as explorer_app
    from lit_iba.view.server import serve as serve
    from lit_iba.view.session import ExplorerSession as ExplorerSession
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "lit_iba.view.live": ["LiveClassifier", "Removal"],
            "lit_iba.view.server": ["explorer_app", "serve"],
            "lit_iba.view.session": ["ExplorerSession"],
        },
    )
