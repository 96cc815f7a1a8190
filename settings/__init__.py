"""What the bridge is told: one typed tree, read from defaults, a YAML file, the environment and ``.env``.

A leaf: imports nothing of the project, so that every package may take its own branch of the tree.
"""
