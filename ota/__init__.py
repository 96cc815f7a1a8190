"""The fleet over HTTP: OTA hand-off, enrolment, device store."""
