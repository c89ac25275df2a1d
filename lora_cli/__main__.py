"""``python -m lora_cli``."""

from lora_cli.cli.main import run

if __name__ == "__main__":
    run()
