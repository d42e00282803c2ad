"""The messages, services and stubs by which hubs, control, nodes and workers talk."""
