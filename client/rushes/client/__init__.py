"""`Client`: submit samples, look at them, wait for them, cancel them; orders to workers, and the lanes of the queue.

Imports everything from `wire` to `submission`; `training`, `watch`, `trackers`, `integrations` and `cli` may import
from here.
"""
