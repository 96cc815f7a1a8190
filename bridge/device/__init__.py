"""A simulated stock XiaoZhi device: OTA, MQTT, encrypted UDP audio, MCP tools, microphone and speaker.

It is the other end of the wire, so it shares no wire code with the server: what is wrong there cannot cancel out here.
"""
