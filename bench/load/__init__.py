"""Load: many simulated devices, in processes of their own, against one server over real sockets.

    python -m bench.load --devices 50 --processes 2
    python -m bench.load --devices 100 --processes 2 --find --workers 2
    python -m bench.load talkers --devices 400 --find --speech 1
    python -m bench.load --ota-url http://192.168.1.10:8003/xiaozhi/ota/ --server-pid 4711 --impair loss=0.02,jitter=20

Without ``--ota-url`` a server is started whose engines answer at once (bench/load/server.py): what is measured is the server,
not a model. In ``turns`` devices hold conversations: they say a recording, hear the answer to its end, think, and go on. ``talkers``
only talk, and nobody answers: what one core of the server can hear, the generator on another one.
"""
