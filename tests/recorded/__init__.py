"""What command lines do, recorded by machine: exit codes, machine formats, findings, files and requests.

``baseline.jsonl`` was written once and is never written again; ``changes.yaml`` has every deliberate change since.
"""
