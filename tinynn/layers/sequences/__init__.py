"""Layers over sequences: arrays of shape (batch, time, features)."""

from .recurrent import GRU, LSTM, RNN, Bidirectional

__all__ = ["GRU", "LSTM", "RNN", "Bidirectional"]
