"""Networks for a whole pack: every parameter leads with the member axis; a user's own networks are lifted over it.

May import data (its random number streams).
"""
