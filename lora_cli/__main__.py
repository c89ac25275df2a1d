"""``python -m lora_cli``, and the console script: an interrupt ends it without a traceback from its first import on."""

import gc


def run() -> None:
    """Runs the command line. Its modules are imported here, where an interrupt of the import is caught."""
    gc.set_threshold(1_000_000)  # modules, headers and documents are many objects and little garbage
    try:
        from lora_cli.cli.main import run as run_command_line

        run_command_line()
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    run()
