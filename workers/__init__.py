"""Where it happens: in this process, or in Ray actors on every core or GPU of a cluster.

The only room that imports ray.
"""
