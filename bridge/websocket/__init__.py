"""The second transport of devices: one WebSocket for the JSON messages and the Opus audio of a session (device protocol §13)."""
