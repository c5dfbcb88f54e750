"""The store of a cluster: followed, written, led; claims and their allocator."""
