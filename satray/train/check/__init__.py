"""The check: can the network learn one batch by heart, and if not, why?"""
