"""The doors of the service: sockets, who is at their other end, and the way of the bytes to the gRPC server."""
