"""Beyond one machine: the same functions as tasks of a Ray cluster, whose nodes may come and go."""
