"""libvirt's XML, read into the core's values and written from them; lxml stays in here."""
