"""The shared-memory object store and its transfer between nodes."""
