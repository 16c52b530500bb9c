"""Work that goes on where it stopped: results by shard with a fingerprint, which images, and how
far it is.
"""

from typing import TYPE_CHECKING

from lit_iba.registry import lazy_names

if TYPE_CHECKING:
    from lit_iba.resumable.content import with_content as with_content
    from lit_iba.resumable.heartbeat import Heartbeat as Heartbeat
    from lit_iba.resumable.identity import classifier_identity as classifier_identity
    from lit_iba.resumable.identity import explainer_identity as explainer_identity
    from lit_iba.resumable.progress import EvaluationProgress as EvaluationProgress
    from lit_iba.resumable.selection import SelectedImages as SelectedImages
    from lit_iba.resumable.selection import Selection as Selection
    from lit_iba.resumable.store import ShardStore as ShardStore
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "lit_iba.resumable.content": ["with_content"],
            "lit_iba.resumable.heartbeat": ["Heartbeat"],
            "lit_iba.resumable.identity": ["classifier_identity", "explainer_identity"],
            "lit_iba.resumable.progress": ["EvaluationProgress"],
            "lit_iba.resumable.selection": ["SelectedImages", "Selection"],
            "lit_iba.resumable.store": ["ShardStore"],
        },
    )
