"""Thin adapters to training frameworks, each behind an extra and imported only when asked for."""
