"""A studio to look at: the jobs, pictures and way in of a demo tenant, all made here."""
