"""Byte pumps: backpressure, half-close, reset."""
