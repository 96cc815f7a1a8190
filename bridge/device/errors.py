"""What can go wrong for a device, split by the step that failed. Every text is one sentence for the person at the terminal.

::

    DeviceError                a step failed; `exit_code` is what the command line returns
    +-- OtaError               check-version or activation did not give usable settings
    |   +-- FirmwareCrashError   the answer is of the kind that puts real hardware into a boot loop
    +-- MqttError              no MQTT connection, or it was refused
    +-- WebSocketError         the same of the WebSocket
    +-- HelloError             hello was not answered, or not with a usable audio channel
    +-- NoAudioError            the server said that it speaks, and no packet was playable
    +-- NoAnswerError           nothing was answered in time
    +-- SpeechError            the WAV file or microphone cannot be used
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bridge.device.turn_record import TurnRecord


class DeviceError(Exception):
    """A step of the simulated device failed."""

    exit_code = 1
    record: TurnRecord | None = None
    """What did happen in a turn that failed."""


class OtaError(DeviceError):
    exit_code = 2
    status_code: int | None = None
    """What the server answered instead of 200."""


class FirmwareCrashError(OtaError):
    """The answer would abort stock firmware (NVS key length, ``std::stoi``, missing hello member)."""


class MqttError(DeviceError):
    exit_code = 3


class WebSocketError(DeviceError):
    exit_code = 3


class HelloError(DeviceError):
    exit_code = 4


class NoAudioError(DeviceError):
    exit_code = 5


class NoAnswerError(DeviceError):
    exit_code = 6


class SpeechError(DeviceError):
    exit_code = 7
