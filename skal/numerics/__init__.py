"""Numerical functions shared by the strategies: arrays in, arrays out."""
