"""The datapath in C and its Python door.

Read in this order: sys (bpf(2)) < libbpf, btf < object, maps, ring, links by sys, netns;
build compiles the objects, testrun feeds packets to programs in tests.
"""
