"""Tools: what the device itself can do (MCP, legacy IoT) and what the home can do."""
