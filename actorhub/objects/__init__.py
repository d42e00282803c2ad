"""The object store of a node: values in shared memory, read without copying by every process of the machine."""
