"""What a study keeps of its runs, in small files from which it resumes."""
