"""The two names of MindSpore's that the description of the flow uses: `ms.dataset`, `ms.amp`."""

from types import SimpleNamespace

from yoloflow.mindyolo.data import ConcatDataset
from yoloflow.mindyolo.network import auto_mixed_precision

dataset = SimpleNamespace(ConcatDataset=ConcatDataset)
amp = SimpleNamespace(auto_mixed_precision=auto_mixed_precision)
