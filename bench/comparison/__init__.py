"""Everything that bench/compare.py compares: tasks, processes, peers, and the tables of the results."""
