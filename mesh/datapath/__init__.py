"""The node's BPF programs: programs (load, adopt, attach), then a change of map layouts.

Read migrate (what is done, step by step), steps (the order, pure), connections (how connections
change hands), layouts (what the layouts' names cannot tell).
"""
