"""Several processes of this program on one machine: see ``docs/workers.md``.

``supervisor.py`` is the parent, which serves no device; ``worker.py`` is what a child is beyond an ordinary server, and
``seat.py`` its face to the rest of the bridge. They talk over a socket pair (``link.py``), in ``messages.py``.
With one worker nothing of this package is imported.
"""
