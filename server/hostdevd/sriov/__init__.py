"""The root helper that writes `sriov_numvfs`: one verb, its own checks, the standard library alone."""
