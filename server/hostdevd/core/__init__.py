"""The rules of device assignment, free of gRPC, libvirt, XML and protobuf (a test holds that)."""
