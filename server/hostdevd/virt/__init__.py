"""Libvirt: the supervised connection, events, calls, and the XML both ways."""
