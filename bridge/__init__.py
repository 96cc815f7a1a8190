"""Sessions, the voice turn, the composition root and the command line: the only package that knows all others."""
