"""What a node keeps on disk: its log, its promises and its identity.

``sqlite.py`` is the store of a real node, ``memory.py`` the one of a simulated node; both
stand behind ``front.py``, which holds the rules that they share.
"""
