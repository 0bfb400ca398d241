"""Recipes: every number that decides a run. See schema.py."""
