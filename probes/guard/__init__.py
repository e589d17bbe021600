"""Measuring without being noticed."""
