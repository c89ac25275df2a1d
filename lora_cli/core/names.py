"""What an adapter may be called: safe as the name of a folder."""

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
NAME_IN_WORDS = "a name: letters, digits, dots, - and _, at most 128, a letter or digit first"
NAME_HINT = "name: sql-v2; it becomes a folder, and the model's name in requests"
