"""Golden files: what ``validate`` judges, ``inspect`` tells and ``fetch`` brings today; one line for what cases share.

They know the command line and nothing else of lora_cli, so that they outlive what is behind it. ``python -m
tests.golden`` compares them, ``--write`` makes them anew.
"""
