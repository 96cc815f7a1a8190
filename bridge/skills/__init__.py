"""Answers to intents that need no language model."""

from bridge.skills.answers import SkillContext, SkillReply, Skills
from bridge.skills.timers import Timers

__all__ = ["SkillContext", "SkillReply", "Skills", "Timers"]
