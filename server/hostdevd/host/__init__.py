"""The running host: drivers, uses, identities, read from /sys and /proc below an injected root."""
