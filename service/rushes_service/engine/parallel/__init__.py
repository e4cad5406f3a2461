"""One sample on several devices: a process for each; the leader has the sample, the followers its transformer."""
