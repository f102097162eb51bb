"""The baselines: one file each, found by name. A file that starts with `_` is no method."""
