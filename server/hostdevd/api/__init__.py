"""The gRPC face: one file per concern, one seam for errors."""
