"""A simulated stock XiaoZhi device: OTA, MQTT, encrypted UDP audio, MCP tools, microphone and speaker.

It is the other end of the wire, so it shares no wire code with the server: what is wrong there cannot cancel out here.
"""

from bridge.device.device import Device
from bridge.device.dialogue import State
from bridge.device.errors import DeviceError
from bridge.device.events import is_message
from bridge.device.impairment import Impairment
from bridge.device.options import DeviceOptions
from bridge.device.speech import Speech, encode_speech, load_speech
from bridge.device.turn_record import TurnRecord

__all__ = [
    "Device",
    "DeviceError",
    "DeviceOptions",
    "Impairment",
    "Speech",
    "State",
    "TurnRecord",
    "encode_speech",
    "is_message",
    "load_speech",
]
