"""Behaviour logs: purchases, carts, visits and searches of clients, at once."""
