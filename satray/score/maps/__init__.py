"""From scenes to maps: the job, its units of work, and what is made of their pieces."""
