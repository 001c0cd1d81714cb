"""Objectives: what is trained, behind one interface that the loop knows."""
