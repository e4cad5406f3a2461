"""musubi-tuner, with sampling moved to Rushes.

    python -m rushes.integrations.musubi wan_train_network.py --task t2v-1.3B --sample_prompts prompts.txt ...

Whoever keeps a fork puts `RushesSampling` in front of its trainer's class instead.
"""

from rushes.integrations.musubi.fine_tuning import RushesFineTuning
from rushes.integrations.musubi.sampling import RushesSampling

__all__ = ["RushesFineTuning", "RushesSampling"]
