"""Ranking and regression losses: pure functions over tensors."""
