"""The encrypted UDP audio path: packets, cipher, replay window, jitter buffer, pacer, Opus. Never sees JSON."""
