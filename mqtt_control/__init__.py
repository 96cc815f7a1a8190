"""The MQTT control path: codec, messages, credentials, the listener that devices connect to. Never sees audio."""
