"""What command lines do: exit codes, machine formats, findings, files and requests, a line of JSON for each.

``python -m tests.recorded`` prints what differs now, and with ``--update`` writes it down.
"""
