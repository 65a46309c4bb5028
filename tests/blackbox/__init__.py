"""Clusters of real ``twistd vbcast`` processes that are attacked from outside.

``python -m tests.blackbox --seed N --minutes M`` runs a session; ``docs/blackbox.md`` tells what it does.
"""
