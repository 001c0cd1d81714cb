"""Locks, links and prepared folders."""
