"""The command line: parse, call, render, exit. One file per subcommand."""
