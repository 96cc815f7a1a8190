"""Engines behind small protocols: voice activity, speech to text, language models, text to speech, intents.

No provider knows a device, a session or a topic. SDKs are imported inside the functions that use them.
"""
