"""``xiaozhi-bridge doctor``: what keeps devices from talking to this server, each with the fix in a sentence.

``findings.py`` and ``judgement.py`` are pure; ``machine.py`` looks at this machine, ``wire.py`` goes the way a device goes,
``examination.py`` does one after the other.
"""
